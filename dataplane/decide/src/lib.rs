//! What a proxy decides, as pure functions.
