//! What a proxy decides, as pure functions.

pub mod admission;
pub mod ask;
pub mod balance;
pub mod batch;
pub mod breaker;
pub mod health;
pub mod key;
pub mod model;
pub mod progress;
pub mod protocol;
pub mod retry;
pub mod route;
pub mod tally;
pub mod warmup;
