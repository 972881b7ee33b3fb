//! Load cases with stated goals.
