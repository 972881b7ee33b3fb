//! What is to be done.

use crate::World;
use jiff::Timestamp;
use outrigger_crds::{Engine, ModelDeploymentStatus};
use outrigger_verdict::MetricVerdict;
use outrigger_wire::{EndpointConfig, RevisionId, Routes};
use serde::{Deserialize, Serialize};

/// What is to be done, with no choices left: write the status if it differs (guarded: a conflict means plan
/// again), then the workloads and the routes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// How many replicas of which revision. A revision that isn't named has none and may be forgotten by the
    /// store unless `status` names it.
    pub workloads: Vec<Workload>,
    /// What gateways are told.
    pub routes: Routes,
    /// What each replica's sidecar is told.
    pub endpoints: Vec<EndpointConfig>,
    /// The status to write. Equal to the stored one when nothing is to be written.
    pub status: ModelDeploymentStatus,
    /// Whether the evidence of this world went into `status`: once that is written, the delta starts anew.
    pub evidence_stored: bool,
    /// The verdicts as of now, whether or not they are stored yet.
    pub verdicts: Vec<MetricVerdict>,
    /// What happened, to be told once `status` is written.
    pub events: Vec<Event>,
    /// When to plan again if nothing changes before.
    pub wake_at: Option<Timestamp>,
    /// What is waited for, why and until when.
    pub waiting_for: Vec<Waiting>,
}

/// Replicas of one revision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Which revision.
    pub revision: RevisionId,
    /// What they run.
    pub engine: Engine,
    /// How many.
    pub replicas: u32,
}

/// Something that happened, in words a user understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Whether something is wrong.
    pub warning: bool,
    /// One word: `CanaryStarted`, `StepReached`, `Promoted`, `RolledBack`, `Blocked`.
    pub reason: String,
    /// The sentence.
    pub message: String,
}

/// Something that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// What for: `hold`, `samples`, `replicas`, `gateways`, `drain`, `spec`.
    pub what: String,
    /// Why, in a sentence.
    pub why: String,
    /// Until when at most, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What is to be done in this world at this time.
pub fn plan(world: &World, _now: Timestamp) -> Plan {
    Plan {
        workloads: Vec::new(),
        routes: Routes {
            deployment: world.spec.key.clone(),
            serial: world.status.serial,
            model: world.spec.spec.model.name.clone(),
            aliases: world.spec.spec.model.aliases.clone(),
            traffic: world.spec.spec.traffic.clone(),
            timeouts: world.spec.spec.serving.timeouts.clone(),
            max_queue_delay: world.spec.spec.serving.admission.max_queue_delay,
            stable: None,
            canary: None,
            weight: outrigger_wire::BasisPoints::ZERO,
            reference: None,
        },
        endpoints: Vec::new(),
        status: world.status.clone(),
        evidence_stored: false,
        verdicts: Vec::new(),
        events: Vec::new(),
        wake_at: None,
        waiting_for: Vec::new(),
    }
}
