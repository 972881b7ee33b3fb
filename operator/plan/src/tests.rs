//! The planner's behaviour: drawn histories over a small simulator, and telling single worlds.

mod histories;
mod simulator;
mod steps;
mod worlds;
