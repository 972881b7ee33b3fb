//! What holds of every world and its plan.
