//! Tests of whole programs, seen from outside.
