//! An inference engine from the outside, with a timing model and faults on request.
