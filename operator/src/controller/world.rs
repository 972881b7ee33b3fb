//! The world of one deployment in a cluster: from what the watches, the reports and the memory say.

use super::memory::{Inner, Own};
use crate::names;
use crate::observe::{self, Node, Nodes, Used};
use crate::watch::Entry;
use jiff::Timestamp;
use outrigger_crds::{ModelDeployment, ModelDeploymentStatus};
use outrigger_plan::{Declared, Evidence, Replica, Revision, Trouble, World};
use outrigger_wire::{DeploymentKey, EndpointId, GatewayId};
use std::collections::HashSet;
use std::sync::Arc;

/// What is asked for.
pub(crate) fn declared(key: &DeploymentKey, object: &ModelDeployment) -> Declared {
    let meta = &object.metadata;
    Declared {
        key: key.clone(),
        generation: meta.generation.unwrap_or_default(),
        created: meta.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default(),
        spec: object.spec.clone(),
    }
}

/// What a human asks of the rollout.
pub(crate) fn action(object: &ModelDeployment) -> Option<String> {
    object.metadata.annotations.as_ref()?.get(names::ACTION).cloned()
}

/// The status that is stored; empty before the first.
pub(crate) fn status(object: &ModelDeployment) -> ModelDeploymentStatus {
    object.status.clone().unwrap_or_default()
}

/// The replicas that the watch shows. What only their sidecars know is not in them.
pub(crate) fn replicas(entry: &Entry) -> Vec<Replica> {
    let mut found: Vec<Replica> =
        entry.pods.values().filter_map(|held| observe::replica(&held.value)).collect();
    found.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.id.cmp(&b.id)));
    found
}

/// Everything from which a world is made.
pub(crate) struct From<'a> {
    pub(crate) key: &'a DeploymentKey,
    pub(crate) object: &'a ModelDeployment,
    pub(crate) entry: &'a Entry,
    pub(crate) nodes: &'a [Arc<Node>],
    pub(crate) used: Option<Used>,
    pub(crate) live: &'a [GatewayId],
    pub(crate) now: Timestamp,
}

/// The world.
pub(crate) fn world(from: &From<'_>, memory: &mut Inner) -> World {
    let From { key, object, entry, now, .. } = *from;
    let status = status(object);
    let replicas = heard(from, memory);
    let pods: Vec<_> = entry.pods.values().map(|held| &*held.value).collect();
    let sets: Vec<_> = entry.sets.values().map(|held| &*held.value).collect();
    let mut nodes = Nodes::new(from.nodes.iter().map(|node| &**node));
    if let Some(used) = &from.used {
        nodes = nodes.with_used(used.clone());
    }
    let mut capacity = observe::capacity(&pods, &sets, &nodes);
    capacity.missing.extend(invalid(object));
    capacity.missing.extend(memory.own(key).refused.clone());
    let canary = status.canary.as_ref().map(|canary| &canary.revision);
    let delta = memory.baselines.delta(key, status.stable.as_ref(), canary, now);
    let first_token = |stable| memory.baselines.first_token(key, stable);
    let stable_first_token = status.stable.as_ref().map(first_token).unwrap_or_default();
    World {
        spec: declared(key, object),
        revisions: revisions(entry),
        replicas,
        gateways: memory.gateways(key, from.live, now),
        capacity,
        evidence: Evidence { delta, stable_first_token },
        action: action(object),
        status,
    }
}

/// Revisions that are kept and can be read.
pub(crate) fn revisions(entry: &Entry) -> Vec<Revision> {
    let readable = entry.revisions.values().filter_map(|held| held.value.as_ref().ok());
    readable.map(|revision| Revision::clone(revision)).collect()
}

/// The replicas with what their sidecars said, and with the restarts that were seen one by one.
fn heard(from: &From<'_>, memory: &mut Inner) -> Vec<Replica> {
    let mut replicas = replicas(from.entry);
    let present: HashSet<EndpointId> = replicas.iter().map(|replica| replica.id.clone()).collect();
    memory.retain_endpoints(from.key, &present);
    for replica in &mut replicas {
        let pod = from.entry.pods.values().find(|held| held.uid == replica.id.as_str());
        let Some(pod) = pod else { continue };
        let Own { restarts, .. } = memory.own(from.key);
        let before = restarts.entry(replica.id.clone()).or_default();
        *before = observe::restarts(before, &pod.value);
        replica.restarts.clone_from(before);
        if let Some((report, then)) = memory.endpoints.get(&replica.id) {
            replica.heard(report, *then, from.now);
        }
    }
    replicas
}

/// What is wrong with a spec that an older schema let in.
fn invalid(object: &ModelDeployment) -> Option<Trouble> {
    let mistakes = outrigger_plan::validate(object.spec.clone()).err()?;
    let words: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    Some(Trouble { reason: "InvalidSpec".to_owned(), message: words.join("; "), blocks: true })
}
