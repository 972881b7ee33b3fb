//! Histories of elections.
