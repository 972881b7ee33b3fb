//! The engines that are known by name.

use serde::{Deserialize, Serialize};

/// What kind of engine stands behind a sidecar: which dialect it speaks, how it is warmed up and what its
/// progress is read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum EngineKind {
    /// vLLM's OpenAI-compatible server. It batches by itself; progress is read from its token counters.
    #[serde(rename = "vLLM")]
    VLlm,
    /// MLServer: the V2 (Open Inference) protocol. Requests are batched by the sidecar.
    MLServer,
    /// Any HTTP engine. Requests are batched by the sidecar where they are V1 or V2 inference.
    #[default]
    Custom,
}

impl EngineKind {
    /// The name as users write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VLlm => "vLLM",
            Self::MLServer => "MLServer",
            Self::Custom => "Custom",
        }
    }

    /// Whether the engine merges concurrent requests by itself, so that merging them before it would only make
    /// short ones wait for long ones.
    pub const fn batches_by_itself(self) -> bool {
        matches!(self, Self::VLlm)
    }
}
