//! `spec`: what the user wants.

use crate::{ModelDeploymentStatus, Rollout};
use kube::CustomResource;
use outrigger_wire::{EngineKind, Serving, Traffic};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Serves one model: engine replicas behind sidecars, reachable through gateways, every change tried on a part of
/// the callers first.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "outrigger.dev",
    version = "v1alpha1",
    kind = "ModelDeployment",
    plural = "modeldeployments",
    shortname = "md",
    category = "all",
    namespaced,
    status = "ModelDeploymentStatus",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ModelDeploymentSpec {
    /// What clients ask for.
    pub model: Model,
    /// What answers them. A change here makes a new revision, which is tried as a canary.
    pub engine: Engine,
    /// How many replicas there are.
    #[serde(default)]
    pub scale: Scale,
    /// What the sidecar does. Hot: a change restarts nothing.
    #[serde(default)]
    pub serving: Serving,
    /// What the gateway does. Hot.
    #[serde(default)]
    pub traffic: Traffic,
    /// How a new revision is tried. Hot.
    #[serde(default)]
    pub rollout: Rollout,
}

/// What clients ask for. Hot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// The model's name, to which the engine answers: OpenAI's `model`, V2's `/v2/models/{name}`.
    pub name: String,
    /// Further names; requests for them are rewritten to `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// The inference engine of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Engine {
    /// vLLM, MLServer or Custom: which dialect it speaks, how it is warmed up and what its progress is read from.
    /// Custom when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<EngineKind>,
    /// The container image, in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The program, where `outrigger up` runs it on one machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Arguments, added to the image's entrypoint or to the process's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The ports that the engine listens on in its pod; the kind's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
}

/// A program on this machine. `{httpPort}` in arguments and environment becomes the port that it is to listen on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// The program: a path, or a name that is looked up in PATH.
    pub command: String,
    /// Its arguments, before `engine.args`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment, added to that of `outrigger up`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// Ports of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// Where it answers HTTP. 8000 for vLLM, 8080 otherwise when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<u16>,
}

/// How many replicas there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Scale {
    /// Replicas of the stable revision, 0 to 1000.
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: u32,
}

impl Default for Scale {
    fn default() -> Self {
        Self { replicas: 1 }
    }
}
