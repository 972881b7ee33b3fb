//! What is to be done.

use crate::rollout::Rollout;
use crate::world::{Revision, World};
use crate::{healing, report, routes, workloads};
use jiff::Timestamp;
use outrigger_crds::status::Weights;
use outrigger_crds::{Engine, ModelDeploymentStatus};
use outrigger_verdict::{Delta, MetricVerdict};
use outrigger_wire::{EndpointConfig, RevisionId, Routes};
use serde::{Deserialize, Serialize};

/// What is to be done, with no choices left, in this order: keep the revisions; write the status if it differs
/// (guarded: a conflict means plan again); tell proxies `routes` and `endpoints`; then bring the workloads about.
/// Each part is idempotent, so after a crash between two of them the plan of the world then is the same again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Revisions to keep, whole: what `status` names can be run again after a restart. Others may be forgotten.
    #[serde(default)]
    pub revisions: Vec<Revision>,
    /// How many replicas of which revision. A revision that isn't named has none.
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
    /// The weights as of now, whether or not they are stored yet.
    #[serde(default)]
    pub weights: Weights,
    /// Where the deployment stands, for who waits until it has settled.
    #[serde(default)]
    pub outcome: Outcome,
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

/// Where a deployment stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The first revision is not ready yet, or what is declared and ready is not reached by any gateway.
    #[default]
    Starting,
    /// A canary is under way.
    RollingOut,
    /// The declared revision is stable, a replica of it is ready (unless there are to be none), and a gateway works
    /// by the present routes.
    Serving,
    /// The declared revision failed and was rolled back; another spec is waited for.
    RolledBack,
    /// A replica can't be had: a port, a program. Or the progress deadline is over and no replica has
    /// ever been ready, or no gateway has the routes.
    Blocked,
}

/// Something that happened, in words a user understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Whether something is wrong.
    pub warning: bool,
    /// One word: `Starting`, `Serving`, `CanaryStarted`, `StepReached`, `StepAdvanced`, `WeightLowered`, `Promoted`,
    /// `RolledBack`, `Blocked`, `Unblocked`, `Undecided`, `WeightMismatch`, `RevisionLost`, `Paused`, `Resumed`,
    /// `PromotedByHand`, `ActionRefused`, `EngineRestart`, `Refused`.
    pub reason: String,
    /// The sentence.
    pub message: String,
}

impl Event {
    /// Something that went as wanted.
    pub(crate) fn normal(reason: &str, message: String) -> Self {
        Self { warning: false, reason: reason.to_owned(), message }
    }

    /// Something that is wrong.
    pub(crate) fn warning(reason: &str, message: String) -> Self {
        Self { warning: true, reason: reason.to_owned(), message }
    }
}

/// Something that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// What for: `hold`, `samples`, `verdict`, `replicas`, `capacity`, `gateways`, `drain`, `spec`,
    /// `hands`, `restarts`.
    pub what: String,
    /// Why, in a sentence.
    pub why: String,
    /// Until when at most, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What is to be done in this world at this time, by one transition at most.
pub fn plan(world: &World, now: Timestamp) -> Plan {
    plan_by(Rollout::new(world, now))
}

/// Transitions that may follow each other at once. A plan makes one at a time; a chain of more would be a circle of
/// its own, and goes on with the next look.
const CHAIN: usize = 16;

/// [`plan`] until nothing follows at once: what follows from a status alone need not wait until that status is written,
/// and is written with it. The effects are those of the last plan, the events those of all.
///
/// A crash before the status is written loses nothing, since nothing was told or brought about; one after it finds the
/// end of the chain, from which the same effects follow.
pub fn plan_through(world: &World, now: Timestamp) -> Plan {
    through(world, |world| plan(world, now))
}

pub(crate) fn through(world: &World, one: impl Fn(&World) -> Plan) -> Plan {
    let mut reached = one(world);
    if reached.status == world.status {
        return reached;
    }
    let mut next = world.clone();
    for _ in 0..CHAIN {
        // What gateways counted is told by revision: that of another stable one has yet to be gathered.
        if reached.status == next.status || reached.status.stable != next.status.stable {
            break;
        }
        let fresh = reached.revisions.iter().filter(|new| world.revisions.iter().all(|old| old.id != new.id));
        next.revisions = world.revisions.iter().chain(fresh).cloned().collect();
        next.status.clone_from(&reached.status);
        if reached.evidence_stored {
            next.evidence.delta = Delta::default();
        }
        let then = one(&next);
        let events = reached.events.into_iter().chain(then.events).collect();
        let evidence_stored = reached.evidence_stored || then.evidence_stored;
        reached = Plan { events, evidence_stored, ..then };
    }
    reached
}

pub(crate) fn plan_by(mut rollout: Rollout<'_>) -> Plan {
    let (world, now) = (rollout.world, rollout.now);
    rollout.decide();
    healing::heal(&mut rollout);
    rollout.seal();
    report::report(&mut rollout);
    let weights = rollout.status.weights;
    let status = rollout.settle();
    let workloads = workloads::workloads(&mut rollout, &status);
    let outcome = report::outcome(&rollout);
    let written = status == world.status;
    let mut wake_at = rollout.edges.iter().copied().filter(|edge| *edge > now).min();
    if !written {
        // What was decided may allow the next decision, and its effects are another world.
        wake_at = Some(now);
    }
    Plan {
        revisions: workloads::revisions(&rollout, &status, &workloads),
        routes: routes::routes(&world.spec, &status, &world.replicas),
        endpoints: routes::endpoints(&world.spec, &status, &world.replicas),
        workloads,
        evidence_stored: rollout.evidence_stored,
        verdicts: rollout.verdicts.0,
        weights,
        outcome,
        events: if written { Vec::new() } else { rollout.events },
        wake_at,
        waiting_for: rollout.waiting,
        status,
    }
}
