//! Metrics as they are scraped.
