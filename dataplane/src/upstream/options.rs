//! Bounds of connections and of requests on them.

use outrigger_wire::serving;
use std::time::Duration;

/// Bounds of one endpoint's connections on one thread.
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    /// Idle connections kept, at most.
    pub max_idle: usize,
    /// How long an idle connection is kept. Below the 5 s after which uvicorn (vLLM, MLServer) closes its own,
    /// so that it is nearly always this side that closes.
    pub max_idle_time: Duration,
    /// The most bytes of a response's head.
    pub max_head: usize,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { max_idle: 256, max_idle_time: Duration::from_secs(4), max_head: 64 * 1024 }
    }
}

/// Bounds of one request; as `serving.timeouts` of the resource.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Opening a connection.
    pub connect: Duration,
    /// From the request to the first byte of its answer.
    pub first_byte: Duration,
    /// Between two pieces of the answer.
    pub idle: Duration,
    /// The whole request.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::from(&serving::Timeouts::default())
    }
}

impl From<&serving::Timeouts> for Timeouts {
    fn from(from: &serving::Timeouts) -> Self {
        Self {
            connect: from.connect.get(),
            first_byte: from.first_byte.get(),
            idle: from.idle.get(),
            total: from.total.get(),
        }
    }
}
