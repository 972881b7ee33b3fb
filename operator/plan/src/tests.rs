//! The planner's behaviour: drawn histories over a small simulator, and telling single worlds.

mod hands;
mod healing;
mod histories;
mod simulator;
mod steps;
mod worlds;
