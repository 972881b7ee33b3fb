//! The stream between planner and proxies, both ends.
