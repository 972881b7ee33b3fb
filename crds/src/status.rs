//! `status`: what was observed and decided. Everything that a rollout needs to go on after a restart stands here.

use crate::{Condition, schema};
use jiff::Timestamp;
use outrigger_verdict::MetricVerdict;
use outrigger_wire::{BasisPoints, EndpointId, Reference, RevisionId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was observed and decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelDeploymentStatus {
    /// The generation of the spec that this status answers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Grows with every change of what gateways and sidecars are told, but for endpoints, and never falls.
    pub serial: u64,
    /// When `serial` last grew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<Timestamp>,
    /// The first revision, until one of its replicas is ready and it becomes stable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starting: Option<Starting>,
    /// The revision that serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable: Option<RevisionId>,
    /// The stable revision before it and since when it isn't: kept warm for the rollback window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
    /// The revision that is tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Revisions that failed: not tried again by themselves.
    pub failed: Vec<Failed>,
    /// The canary's share of callers, three ways.
    pub weights: Weights,
    /// The canary's desired share of callers in words, `10%`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub share: String,
    /// Replicas of all revisions, for the `scale` subresource.
    pub replicas: i32,
    /// The label selector of the replicas, for the `scale` subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// What a person asked of the canary last, and what came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// What the canary was last judged by.
    #[schemars(schema_with = "schema::verdicts")]
    pub verdicts: Vec<MetricVerdict>,
    /// Latencies against which slow requests are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// How many references were made so far: the generation of the last one.
    pub references: u32,
    /// Restarts of engines that were ordered or granted within `serving.health.restartBudget.per`, to heal them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restarts: Vec<EngineRestart>,
    /// Available, Progressing, Degraded, Blocked, Undecided and WeightMismatch.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// In words, what is so and what is waited for.
    pub message: String,
}

/// The first revision, while none of its replicas has been ready yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Starting {
    /// Which one.
    pub revision: RevisionId,
    /// Since when: its progress deadline counts from here.
    pub since: Timestamp,
}

/// The stable revision before the present one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Previous {
    /// Which one.
    pub revision: RevisionId,
    /// When it stopped being stable.
    pub until: Timestamp,
}

/// A canary under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// The revision that is tried.
    pub revision: RevisionId,
    /// When it began.
    pub started: Timestamp,
    /// The step, from 0; the number of steps stands for the implicit step of 100.
    pub step: u32,
    /// The weight in percent that `stepReached` is about: a step whose weight is edited is reached anew.
    #[serde(default)]
    pub step_weight: u8,
    /// When the step's weight was first reached, from which its hold counts; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_reached: Option<Timestamp>,
    /// When the last step was left, with Pass from each analysis unless the step said otherwise: since then the
    /// canary is in the implicit step of 100, and becomes stable when it has all replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<Timestamp>,
    /// When something last advanced: the canary's start, a replica becoming ready, a step. While replicas are
    /// lacking the progress deadline counts from here.
    pub progressed: Timestamp,
    /// The most replicas that were ready at once since none was lacking: one more is progress.
    #[serde(default)]
    pub most_ready: u32,
    /// Whether replicas are lacking.
    #[serde(default)]
    pub lacking: bool,
    /// Since when a person has paused it: it keeps its step, its hold does not count on, analysis and rollback do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Timestamp>,
    /// The tests' sums (see `outrigger-verdict`), and when they were stored.
    #[schemars(schema_with = "schema::any_object")]
    pub analysis: outrigger_verdict::State,
    /// When `analysis` was stored.
    pub analysed: Timestamp,
}

/// What a person asked of a canary by the annotation `outrigger.dev/action`, and what came of it. The write that
/// acts is the one that says so here, so each is acted on once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Action {
    /// The annotation as it was read, its first 200 characters.
    pub text: String,
    /// `promote`, `pause`, `resume` or `abort`; empty where the text can't be read.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub verb: String,
    /// What told this action from others; empty where the text can't be read.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub nonce: String,
    /// When it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Whether it was done. What was refused changed nothing.
    pub accepted: bool,
    /// What came of it, or why it was refused, in a sentence.
    pub result: String,
    /// The nonces that were used last, the newest at the end, up to 32: none of them is acted on again.
    pub used: Vec<String>,
}

/// A restart of an engine that was ordered by its sidecar, or granted to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EngineRestart {
    /// Whose engine: the pod's uid; in `up`, the replica's name.
    pub replica: EndpointId,
    /// What tells it from others of this replica.
    #[schemars(extend("format" = "int64"))]
    pub number: u64,
    /// When it was ordered, as far as is known; while only granted, when it was granted.
    pub at: Timestamp,
}

/// A revision that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failed {
    /// Which one.
    pub revision: RevisionId,
    /// When it was rolled back.
    pub at: Timestamp,
    /// Why, in a sentence.
    pub reason: String,
    /// Whether the spec has asked for another revision since: asking for this one again then tries it again.
    #[serde(default)]
    pub withdrawn: bool,
}

/// The canary's share of callers, in hundredths of a percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Weights {
    /// The step's weight, limited by ready and warmed capacity.
    pub desired: BasisPoints,
    /// What every gateway with a live stream has acknowledged; absent while they differ, and without a canary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub programmed: Option<BasisPoints>,
    /// The share of requests that gateways counted under the present serial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed: Option<BasisPoints>,
}
