//! The check of request heads against smuggling.
