//! Listening, serving, forwarding: bytes, tasks and time.
