//! What a sidecar is told, and what it reports.

use crate::{DeploymentKey, EndpointId, EngineKind, Serving};
use serde::{Deserialize, Serialize};

/// What one sidecar is told: the hot fields, and whether to drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointConfig {
    /// Which sidecar.
    pub endpoint: EndpointId,
    /// Whose replica it is.
    pub deployment: DeploymentKey,
    /// The deployment's serial: a sidecar refuses a lower one.
    pub serial: u64,
    /// The name that the engine answers to: what warm-up asks for.
    pub model: String,
    /// The hot fields.
    pub serving: Serving,
    /// The engine's restart that is granted: the number of what was asked for, see [`Restarts::asks`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<u64>,
}

/// What one sidecar reports, on change and at least every few seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointReport {
    /// Which sidecar.
    pub endpoint: EndpointId,
    /// One run of the sidecar, drawn at its start.
    pub incarnation: u64,
    /// Grows with every report of this incarnation.
    pub sequence: u64,
    /// The serial of the configuration that it works by.
    pub serial: u64,
    /// The engine's kind, as the sidecar was started for.
    pub kind: EngineKind,
    /// What the engine is doing.
    pub engine: EngineState,
    /// Requests given to the engine and not yet answered.
    pub in_flight: u32,
    /// Requests that wait.
    pub queued: u32,
    /// Whether it is draining.
    pub draining: bool,
    /// Restarts of the engine: those ordered, and the one that is asked for.
    #[serde(default, skip_serializing_if = "Restarts::is_empty")]
    pub restarts: Restarts,
    /// Why the engine isn't getting ready, where that is more than a matter of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<EngineTrouble>,
}

/// What a sidecar says of its engine's restarts. Times are ages, so that no two clocks have to agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Restarts {
    /// The restarts that it ordered of late, the newest last; the last sixteen.
    pub orders: Vec<RestartOrder>,
    /// The restart that it needs and may not order by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asks: Option<RestartAsk>,
}

/// A restart that a sidecar ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestartOrder {
    /// What tells it from others of this sidecar, over all its runs; for one that was granted, the ask's number.
    /// Below 2^53, as JSON's numbers are.
    pub number: u64,
    /// How long ago, in milliseconds.
    pub age_millis: u64,
}

/// A restart that a sidecar asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestartAsk {
    /// What the grant has to name: it holds for this run of the engine and this stall alone. Below 2^53.
    pub number: u64,
    /// Which run of the engine, for people.
    pub incarnation: u64,
    /// For how long it has been asking, in milliseconds.
    pub age_millis: u64,
}

impl Restarts {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.asks.is_none()
    }

    /// The same without ages: two that are equal so say the same.
    pub fn ageless(&self) -> Self {
        let mut same = self.clone();
        same.orders.iter_mut().for_each(|order| order.age_millis = 0);
        same.asks.iter_mut().for_each(|ask| ask.age_millis = 0);
        same
    }
}

/// Why an engine isn't getting ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineTrouble {
    /// One word: `WarmUpFailed`.
    pub reason: String,
    /// In words that a user understands.
    pub message: String,
}

/// What an engine is doing, as its sidecar sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EngineState {
    /// Nothing answers yet.
    Starting,
    /// It answers; the first real inference is under way.
    Warming,
    /// It has answered a real inference since it last started.
    Ready,
    /// Work is in flight and nothing advances.
    Stalled,
    /// A connection was refused after it had been there.
    Gone,
}
