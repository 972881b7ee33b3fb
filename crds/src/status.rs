//! `status`: what was observed and decided. Everything that a rollout needs to go on after a restart stands here.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use outrigger_verdict::MetricVerdict;
use outrigger_wire::{BasisPoints, Reference, RevisionId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was observed and decided.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelDeploymentStatus {
    /// The generation of the spec that this status answers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Grows with every change of weights or revisions and never falls.
    pub serial: u64,
    /// The revision that serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable: Option<RevisionId>,
    /// The stable revision before it and since when it isn't, for the rollback window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
    /// The revision that is tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Revisions that failed: not tried again by themselves.
    pub failed: Vec<Failed>,
    /// The canary's share of callers, three ways.
    pub weights: Weights,
    /// Replicas of all revisions, for the `scale` subresource.
    pub replicas: i32,
    /// The label selector of the replicas, for the `scale` subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// What the canary was last judged by.
    pub verdicts: Vec<MetricVerdict>,
    /// Latencies against which slow requests are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// Available, Progressing, Degraded and others.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// In words, what is so and what is waited for.
    pub message: String,
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
    /// When the step's weight was first reached, from which its hold counts; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_reached: Option<Timestamp>,
    /// When something last advanced: the canary's start, a replica becoming ready, a step.
    pub progressed: Timestamp,
    /// The tests' sums (see `outrigger-verdict`), and when they were stored.
    #[schemars(schema_with = "any_object")]
    pub analysis: outrigger_verdict::State,
    /// When `analysis` was stored.
    pub analysed: Timestamp,
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
}

/// The canary's share of callers, in hundredths of a percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Weights {
    /// The step's weight, limited by ready and warmed capacity.
    pub desired: BasisPoints,
    /// What every gateway with a live stream has acknowledged; absent while they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub programmed: Option<BasisPoints>,
    /// The share of requests that gateways counted under the present serial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed: Option<BasisPoints>,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}
