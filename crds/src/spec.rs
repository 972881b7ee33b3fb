//! `spec`: what the user wants.

#![allow(clippy::duplicated_attributes, reason = "each printer column has its own `type_`")]

use crate::{ModelDeploymentStatus, PodTemplate, Resources, Rollout, schema};
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
    derive = "PartialEq",
    doc = "Serves one model: engine replicas behind sidecars, reachable through gateways, every change tried on a part of the callers first.",
    scale(
        spec_replicas_path = ".spec.scale.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Stable",
        type_ = "string",
        json_path = ".status.stable",
        description = "The revision that serves"
    ),
    printcolumn(
        name = "Canary",
        type_ = "string",
        json_path = ".status.canary.revision",
        description = "The revision that is tried"
    ),
    printcolumn(
        name = "Weight",
        type_ = "string",
        json_path = ".status.share",
        description = "The canary's share of callers"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        json_path = ".status.replicas",
        description = "Replicas of all revisions"
    ),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Available\")].status",
        description = "Whether requests are served"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Model",
        type_ = "string",
        json_path = ".spec.model.name",
        description = "What clients ask for",
        priority = 1
    ),
    printcolumn(
        name = "Image",
        type_ = "string",
        json_path = ".spec.engine.image",
        description = "The declared engine",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        description = "What is so and what is waited for",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = schema::spec)]
pub struct ModelDeploymentSpec {
    /// What clients ask for. Hot: a change reaches running proxies in about a second and restarts nothing.
    pub model: Model,
    /// What answers them. A change here makes a new revision, which is tried as a canary.
    pub engine: Engine,
    /// How many replicas there are.
    #[serde(default)]
    pub scale: Scale,
    /// What the sidecar does. Hot: a change restarts nothing.
    #[serde(default)]
    #[schemars(transform = schema::serving)]
    pub serving: Serving,
    /// What the gateway does. Hot.
    #[serde(default)]
    #[schemars(transform = schema::traffic)]
    pub traffic: Traffic,
    /// How a new revision is tried. Hot: a change re-evaluates the current step and restarts no canary.
    #[serde(default)]
    pub rollout: Rollout,
}

/// What clients ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = schema::model)]
pub struct Model {
    /// The model's name, to which the engine answers: OpenAI's `model`, V2's `/v2/models/{name}`. Letters, digits
    /// and `. _ : / @ + -`, beginning and ending with a letter or digit, at most 253.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::NAME_PATTERN))]
    pub name: String,
    /// Up to 16 further names under which clients may ask; requests for them are rewritten to `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253), regex(pattern = schema::NAME_PATTERN)))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub aliases: Vec<String>,
}

/// The inference engine of one revision. Nothing here has a default in the schema: the API server would write it
/// into stored objects, and a later default would then look like a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = schema::engine)]
pub struct Engine {
    /// vLLM, MLServer or Custom: which dialect it speaks, how it is warmed up and what its progress is read from.
    /// Custom when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<EngineKind>,
    /// The container image, in a cluster. Required there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^\S+$"))]
    pub image: Option<String>,
    /// The program, where `outrigger up` runs it on one machine. Required there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Up to 256 arguments, added to the image's entrypoint or to the process's own. `{httpPort}` in one becomes
    /// the port that the engine is to listen on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 8192)))]
    pub args: Vec<String>,
    /// The ports that the engine listens on in its pod; the kind's own when absent. `outrigger up` gives each
    /// engine a free one instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
    /// What the engine's container needs: `limits: {nvidia.com/gpu: 1}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Any further field of the pods' template, as in a Deployment: node selectors, tolerations, volumes, environment.
    /// Merged into what Outrigger makes of the other fields as `kubectl patch` does (lists by name); the engine's
    /// container is `engine`. What the sidecar needs can't be changed here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// A program on this machine. `{httpPort}` in arguments and environment becomes the port that it is to listen on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// The program: a path, or a name that is looked up in PATH.
    #[schemars(length(min = 1, max = 4096))]
    pub command: String,
    /// Up to 256 arguments, before `engine.args`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 8192)))]
    pub args: Vec<String>,
    /// Up to 256 variables of its environment, added to that of `outrigger up`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256), transform = bound_values)]
    pub env: BTreeMap<String, String>,
}

/// Ports of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ports {
    /// Where it answers HTTP, 1 to 65535. 8000 for vLLM, 8080 otherwise when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub http: Option<u16>,
}

/// How many replicas there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Scale {
    /// Replicas of the stable revision, 0 to 1000. A canary has its share of them in addition.
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: u32,
}

impl Default for Scale {
    fn default() -> Self {
        Self { replicas: 1 }
    }
}

/// Bounds the values of a map of strings, which no attribute of a field reaches.
fn bound_values(schema: &mut schemars::Schema) {
    if let Some(values) = schema.get_mut("additionalProperties").and_then(|v| v.as_object_mut()) {
        values.insert("maxLength".to_owned(), 8192.into());
    }
}
