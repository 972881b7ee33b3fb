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
