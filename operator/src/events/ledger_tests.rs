//! Repeated, noisy and long events.
