//! How many replicas of which revision, and which revisions are kept.

use crate::plan::{Waiting, Workload};
use crate::rollout::Rollout;
use crate::world::{Phase, Revision};
use outrigger_crds::ModelDeploymentStatus;
use outrigger_wire::RevisionId;

/// How many replicas of which revision, given the status to be written.
pub(crate) fn workloads(rollout: &mut Rollout<'_>, status: &ModelDeploymentStatus) -> Vec<Workload> {
    let all = rollout.world.spec.spec.scale.replicas;
    let mut wanted: Vec<(RevisionId, u32)> = Vec::new();
    wanted.extend(status.stable.clone().map(|revision| (revision, all)));
    wanted.extend(status.starting.clone().map(|starting| (starting.revision, all)));
    if let Some(canary) = &status.canary {
        wanted.push((canary.revision.clone(), rollout.needed(canary.step_weight)));
    }
    wanted.extend(status.previous.clone().map(|previous| (previous.revision, all)));
    for (revision, running) in retiring(rollout, &wanted) {
        wanted.push((revision, running));
    }
    let engines = |(revision, replicas): (RevisionId, u32)| {
        let engine = rollout.engine(&revision)?.clone();
        Some(Workload { revision, engine, replicas })
    };
    wanted.into_iter().filter_map(engines).collect()
}

/// Revisions that are no longer wanted but run, and whose replicas gateways may still be sending to: they are
/// kept until every gateway has the routes without them, or no longer than [`crate::rollout::ACKNOWLEDGE`].
fn retiring(rollout: &mut Rollout<'_>, wanted: &[(RevisionId, u32)]) -> Vec<(RevisionId, u32)> {
    let mut found: Vec<(RevisionId, u32)> = Vec::new();
    for replica in &rollout.world.replicas {
        if wanted.iter().any(|(revision, _)| *revision == replica.revision) {
            continue;
        }
        if replica.phase == Phase::Terminating {
            continue;
        }
        match found.iter_mut().find(|(revision, _)| *revision == replica.revision) {
            Some((_, running)) => *running += 1,
            None => found.push((replica.revision.clone(), 1)),
        }
    }
    if found.is_empty() || rollout.acknowledged_or_late() {
        return Vec::new();
    }
    rollout.edges.extend(rollout.acknowledge_by());
    rollout.waiting.push(Waiting {
        what: "gateways".to_owned(),
        why: "gateways are to stop sending to replicas before these stop".to_owned(),
        until: rollout.acknowledge_by(),
    });
    found
}

/// Revisions to keep: those that the status names or that have replicas.
pub(crate) fn revisions(
    rollout: &Rollout<'_>,
    status: &ModelDeploymentStatus,
    workloads: &[Workload],
) -> Vec<Revision> {
    let mut kept: Vec<Revision> = Vec::new();
    let named = [
        status.stable.as_ref(),
        status.starting.as_ref().map(|s| &s.revision),
        status.canary.as_ref().map(|c| &c.revision),
        status.previous.as_ref().map(|p| &p.revision),
    ];
    let named = named.into_iter().flatten().chain(workloads.iter().map(|w| &w.revision));
    for id in named {
        if kept.iter().any(|revision| revision.id == *id) {
            continue;
        }
        let stored = rollout.world.revisions.iter().find(|revision| revision.id == *id).cloned();
        let new = || {
            let engine = rollout.engine(id)?.clone();
            Some(Revision { id: id.clone(), created: rollout.now, engine })
        };
        kept.extend(stored.or_else(new));
    }
    kept
}
