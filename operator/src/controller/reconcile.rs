//! One look at one deployment, and everything that follows from it.

use super::shortage;
use super::work::Parts;
use super::world::{self, From};
use crate::apply::{self, Applied, Error, Need};
use crate::observe::{self, Used};
use crate::render::{self, Input, Objects};
use crate::watch::index::{Declared, Held, Seen};
use crate::watch::{Entry, Kind, kept};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, ReplicaSet};
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::{Resource, ResourceExt};
use outrigger_crds::ModelDeployment;
use outrigger_plan::{Outcome, Plan, Replica, Revision, Trouble, plan_through, routes};
use outrigger_wire::{DeploymentKey, Mistake};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Plans that may follow each other at once, each through all that follows from itself. More would be a circle of
/// their own, and go on after [`BREATH`].
const CHAIN: usize = 8;
/// The rest after a chain.
const BREATH: Duration = Duration::from_secs(1);
/// The first and the longest rest after an error, drawn between half and the whole; doubled each time.
const REST: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// The rest after a conflict: the watch brings the newer object within milliseconds.
const CONFLICT: Duration = Duration::from_millis(50);
/// Conflicts in a row after which it is waited for longer.
const CONFLICTS: u32 = 4;
/// Revisions that are kept beside those that the plan names: a rollback to one of these needs nobody's Git.
const HISTORY: usize = 10;

/// Tells proxies what the stored status says. Every replica of the operator does, leader or not.
pub(crate) fn publish(parts: &Parts, key: &DeploymentKey, entry: &Entry) {
    match entry.declared() {
        None => parts.table.remove(key),
        // It can't be read, so what is served stays what it was.
        Some(Declared::Unreadable(..)) => {}
        Some(Declared::Readable(object)) if object.metadata.deletion_timestamp.is_some() => {
            parts.table.remove(key);
        }
        Some(Declared::Readable(object)) => {
            let (declared, status) = (world::declared(key, object), world::status(object));
            let replicas = world::replicas(entry);
            parts.table.put(
                routes::routes(&declared, &status, &replicas),
                routes::endpoints(&declared, &status, &replicas),
            );
        }
    }
}

/// One look; when to look again at the latest, where that is known.
pub(crate) async fn look(parts: &Parts, key: &DeploymentKey) -> Option<Instant> {
    let entry = parts.index.entry(key);
    publish(parts, key, &entry);
    if !parts.leads() {
        return None;
    }
    match entry.declared() {
        Some(Declared::Readable(object)) if object.metadata.deletion_timestamp.is_none() => {}
        Some(Declared::Unreadable(meta, why)) => {
            parts.events.unreadable(meta, why);
            return None;
        }
        _ => {
            parts.memory.inner().forget(key);
            parts.metrics.forget(key);
            let prefix = format!("{}/", names(key).1);
            if parts.index.keys().iter().all(|other| !other.as_str().starts_with(&prefix)) {
                parts.bundles.forget(names(key).1).await;
            }
            return None;
        }
    }
    let began = Instant::now();
    let result = turns(parts, key).await;
    parts.metrics.reconciled(result.is_ok(), began.elapsed());
    let mut memory = parts.memory.inner();
    let own = memory.own(key);
    match result {
        Ok(again) => {
            (own.failures, own.rests_until) = (0, None);
            again
        }
        Err(Error::Deposed) => None,
        // Its own deletion is what comes next, and the watch tells.
        Err(error) if error.is_leaving() || error.is_gone() => None,
        Err(Error::Underway) => Some(Instant::now() + jittered(BREATH)),
        // A few times: then the watch is dead, and what it would bring comes only when it is started again.
        Err(error) if error.is_conflict() && own.failures < CONFLICTS => {
            own.failures += 1;
            Some(Instant::now() + jittered(CONFLICT))
        }
        Err(error) => {
            own.failures += 1;
            let rest = REST.0.saturating_mul(1 << own.failures.min(10)).min(REST.1);
            if own.failures.is_power_of_two() || error.refusal().is_none() {
                tracing::warn!(deployment = %key, %error, failures = own.failures, "to be tried again");
            }
            let at = Instant::now() + jittered(rest);
            // A Service that is refused must not keep the rollout from what gateways say meanwhile.
            own.rests_until = (!matches!(error, Error::Beside(_))).then_some(at);
            Some(at)
        }
    }
}

fn jittered(rest: Duration) -> Duration {
    rest.mul_f64(0.5 + fastrand::f64() / 2.0)
}

async fn turns(parts: &Parts, key: &DeploymentKey) -> Result<Option<Instant>, Error> {
    for _ in 0..CHAIN {
        let Some((wake_at, look_again)) = turn(parts, key).await? else { return Ok(None) };
        let rest =
            wake_at.map(|at| Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default());
        match rest {
            Some(Duration::ZERO) => {}
            rest => {
                let wake = rest.map(|rest| Instant::now() + rest);
                return Ok([wake, look_again].into_iter().flatten().min());
            }
        }
    }
    Ok(Some(Instant::now() + BREATH))
}

/// When the plan wants to be made anew, and when an object that was just written is to be looked for.
type Wakes = (Option<Timestamp>, Option<Instant>);

/// One plan and its effects, in their order. `None` when there is nothing to plan for any more.
async fn turn(parts: &Parts, key: &DeploymentKey) -> Result<Option<Wakes>, Error> {
    let entry = parts.index.entry(key);
    let Some(Declared::Readable(object)) = entry.declared() else { return Ok(None) };
    let now = Timestamp::now();
    let used = parts.shortage.used(&parts.client, &entry).await;
    let (plan, replicas) = planned(parts, key, object, &entry, used, now);
    leading(parts)?;
    keep_revisions(parts, key, object, &entry, &plan).await?;
    let stored = write_status(parts, key, object, &plan, now).await?;
    parts.table.put(plan.routes.clone(), plan.endpoints.clone());
    let object = stored.as_ref().unwrap_or(object);
    plan.events.iter().for_each(|event| parts.events.tell(object, event));
    parts.metrics.deployment(key, &plan, object.spec.rollout.steps.len(), &replicas);
    let look_again = match workloads(parts, key, object, &entry, &plan).await {
        // What was refused before stands in the status: it has to be planned without.
        Ok(_) if accepted(parts, key, None) => return Ok(Some((Some(now), None))),
        Ok(look_again) => look_again,
        Err(error) => {
            let Some(words) = error.refusal().filter(|_| !error.is_leaving()) else { return Err(error) };
            // Said once in the status, and tried again with growing rests. Replicas are had without a Service.
            let blocks = !matches!(error, Error::Beside(_));
            let trouble = Trouble { reason: "Refused".to_owned(), message: words, blocks };
            if accepted(parts, key, Some(trouble)) {
                return Ok(Some((Some(now), None)));
            }
            return Err(error);
        }
    };
    if altered(parts, key, object, &plan) {
        return Ok(Some((None, Some(Instant::now() + BREATH))));
    }
    Ok(Some((plan.wake_at, look_again)))
}

fn planned(
    parts: &Parts,
    key: &DeploymentKey,
    object: &Arc<ModelDeployment>,
    entry: &Entry,
    used: Option<Used>,
    now: Timestamp,
) -> (Plan, Vec<Replica>) {
    // What is free changes without an event of ours, and the words with it.
    let unplaced = shortage::is_wanted(entry);
    // Read only where somebody asks for room.
    let nodes = if unplaced { parts.index.nodes() } else { Vec::new() };
    let live = parts.table.live_gateways();
    let mut memory = parts.memory.inner();
    memory.own_of(key, object);
    let world =
        world::world(&From { key, object, entry, nodes: &nodes, used, live: &live, now }, &mut memory);
    let plan = plan_through(&world, now);
    let settled = matches!(plan.outcome, Outcome::Serving | Outcome::RolledBack);
    // Nothing tells when a sidecar beside a silent kubelet falls silent too.
    let unheard = entry.pods.values().any(|held| observe::is_unheard(&held.value));
    memory.own(key).attentive = plan.status.canary.is_some() || !settled || unplaced || unheard;
    (plan, world.replicas)
}

/// Remembers whether the objects were accepted; whether that is news.
fn accepted(parts: &Parts, key: &DeploymentKey, refused: Option<Trouble>) -> bool {
    let mut memory = parts.memory.inner();
    let own = memory.own(key);
    let news = own.refused != refused;
    own.refused = refused;
    news
}

fn leading(parts: &Parts) -> Result<(), Error> {
    if parts.leads() { Ok(()) } else { Err(Error::Deposed) }
}

/// What the plan names is kept before anything refers to it; of the rest the newest stay.
async fn keep_revisions(
    parts: &Parts,
    key: &DeploymentKey,
    object: &ModelDeployment,
    entry: &Entry,
    plan: &Plan,
) -> Result<(), Error> {
    let uid = object.uid().unwrap_or_default();
    let kept = world::revisions(entry);
    for revision in plan.revisions.iter().filter(|new| kept.iter().all(|old| old.id != new.id)) {
        let object = render::controller_revision(&uid, key, revision);
        ensure(parts, key, Kind::ControllerRevision, &object, None).await?;
    }
    let mut history: Vec<&Revision> =
        kept.iter().filter(|old| plan.revisions.iter().all(|new| new.id != old.id)).collect();
    history.sort_by_key(|revision| std::cmp::Reverse(revision.created));
    for old in history.into_iter().skip(HISTORY) {
        let held = entry.revisions.iter().find(|(_, held)| held.value.as_ref().is_ok_and(|r| r.id == old.id));
        if let Some((name, held)) = held {
            apply::delete::<ControllerRevision>(&parts.client, names(key).1, name, &held.uid).await?;
        }
    }
    Ok(())
}

/// Writes the status if it differs. What is written is known at once, before any watch shows it.
async fn write_status(
    parts: &Parts,
    key: &DeploymentKey,
    object: &Arc<ModelDeployment>,
    plan: &Plan,
    now: Timestamp,
) -> Result<Option<Arc<ModelDeployment>>, Error> {
    let differs = plan.status != world::status(object) && !altered(parts, key, object, plan);
    // A watch may have been dead without a word for longer than another replica has led. Whoever begins to lead acts on
    // a status only after the API server has taken it as the newest, by a write that changes nothing.
    let write = differs || !parts.memory.inner().own(key).confirmed;
    let stored = if write { Some(replace_status(parts, key, object, plan).await?) } else { None };
    if plan.evidence_stored {
        parts.memory.inner().baselines.stored(key, now);
    }
    Ok(stored)
}

async fn replace_status(
    parts: &Parts,
    key: &DeploymentKey,
    object: &ModelDeployment,
    plan: &Plan,
) -> Result<Arc<ModelDeployment>, Error> {
    let next = ModelDeployment { status: Some(plan.status.clone()), ..object.clone() };
    let stored = apply::status(&parts.client, &next).await?;
    parts.memory.inner().own(key).confirmed = true;
    parts.index.wrote(DeserializeGuard(Ok(stored.clone())));
    if stored.status.as_ref() != Some(&plan.status) {
        let version = stored.resource_version().unwrap_or_default();
        parts.memory.inner().own(key).altered = Some(Box::new((version, plan.status.clone())));
    }
    Ok(Arc::new(stored))
}

/// Whether this status was written already and the API server stored another: an older definition prunes fields that
/// it doesn't know. Writing it again would go on for ever.
fn altered(parts: &Parts, key: &DeploymentKey, object: &ModelDeployment, plan: &Plan) -> bool {
    let mut memory = parts.memory.inner();
    let Some((version, status)) = memory.own(key).altered.as_deref() else { return false };
    Some(version) == object.metadata.resource_version.as_ref() && *status == plan.status
}

/// Brings the workloads about; when to look for what was just written. What one object is refused for holds up no
/// other: replicas that are no longer wanted go, whatever became of the Service.
async fn workloads(
    parts: &Parts,
    key: &DeploymentKey,
    object: &ModelDeployment,
    entry: &Entry,
    plan: &Plan,
) -> Result<Option<Instant>, Error> {
    leading(parts)?;
    let uid = object.uid().unwrap_or_default();
    let input = Input {
        uid: &uid,
        key,
        spec: &object.spec,
        status: &plan.status,
        workloads: &plan.workloads,
        installation: &parts.installation,
    };
    let (objects, mistaken) = rendered(&input);
    let mut done = Done::default();
    if let Some(objects) = objects {
        if done.take(prepare(parts, key, entry, &objects).await)? {
            for set in &objects.replica_sets {
                let held = entry.sets.get(name(set)).map(|held| seen_set(held));
                done.take(ensure(parts, key, Kind::ReplicaSet, set, held.as_ref()).await)?;
            }
        }
        let held = entry.services.get(name(&objects.service)).map(AsRef::as_ref);
        done.take(ensure(parts, key, Kind::Service, &objects.service, held).await.map_err(beside))?;
        match &objects.disruption_budget {
            Some(budget) => {
                let held = entry.budgets.get(name(budget)).map(AsRef::as_ref);
                done.take(ensure(parts, key, Kind::PodDisruptionBudget, budget, held).await.map_err(beside))?;
            }
            None => drop_budgets(parts, key, entry).await?,
        }
    }
    drop_sets(parts, key, &uid, entry, plan).await?;
    match done.refused {
        None | Some(Error::Beside(_)) if !mistaken.is_empty() => Err(Error::Mistaken(mistaken)),
        Some(refused) => Err(refused),
        None => Ok(done.look_again),
    }
}

/// What has to be there before a pod is: the bundle by which its sidecar knows the operator, and the policy by which
/// its engine is reached through the sidecar alone.
async fn prepare(
    parts: &Parts,
    key: &DeploymentKey,
    entry: &Entry,
    objects: &Objects,
) -> Result<Option<Instant>, Error> {
    parts.bundles.ensure(names(key).1).await?;
    let held = entry.policies.get(name(&objects.network_policy)).map(AsRef::as_ref);
    ensure(parts, key, Kind::NetworkPolicy, &objects.network_policy, held).await
}

/// A refusal of an object without which replicas are had all the same.
fn beside(error: Error) -> Error {
    let refused = error.refusal().is_some() && !error.is_leaving();
    if refused { Error::Beside(Box::new(error)) } else { error }
}

/// What became of several objects.
#[derive(Default)]
struct Done {
    look_again: Option<Instant>,
    /// The first refusal. What replicas need is brought about before what stands beside them.
    refused: Option<Error>,
}

impl Done {
    /// Takes in what became of one; whether it is there. An error that says nothing about the object ends all.
    fn take(&mut self, result: Result<Option<Instant>, Error>) -> Result<bool, Error> {
        match result {
            Ok(look_again) => {
                self.look_again = [self.look_again, look_again].into_iter().flatten().min();
                Ok(true)
            }
            Err(error) if error.refusal().is_some() && !error.is_leaving() => {
                self.refused.get_or_insert(error);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// The objects. When one revision's can't be made, the others' are: a canary with a mistake must not hold up the
/// revision that serves.
fn rendered(input: &Input<'_>) -> (Option<Objects>, Vec<Mistake>) {
    let whole = match render::render(input) {
        Ok(objects) => return (Some(objects), Vec::new()),
        Err(mistakes) => mistakes,
    };
    let one = |workload| {
        let workloads = std::slice::from_ref(workload);
        render::render(&Input { workloads, ..*input }).ok()
    };
    let fine = input.workloads.iter().filter_map(one).reduce(|mut all, next| {
        all.replica_sets.extend(next.replica_sets);
        all
    });
    (fine, whole)
}

/// Applies an object unless it is as it was applied; when to look for it again.
async fn ensure<K>(
    parts: &Parts,
    key: &DeploymentKey,
    kind: Kind,
    object: &K,
    held: Option<&Held<Seen>>,
) -> Result<Option<Instant>, Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug,
{
    let place = (kind, name(object).to_owned());
    let before: Option<Applied> = parts.memory.inner().own(key).applied.get(&place).cloned();
    let digest = apply::digest(object);
    match apply::need(before.as_ref(), digest, held, Instant::now()) {
        Need::Nothing => Ok(None),
        Need::LookAgain(at) => Ok(Some(at)),
        Need::Apply => {
            leading(parts)?;
            let owner = kept::owner(object.meta());
            let known = held.map_or(before.is_some(), |held| held.value.owner == owner);
            let applied = apply::apply(&parts.client, object, digest, known).await?;
            parts.memory.inner().own(key).applied.insert(place, applied);
            Ok(None)
        }
    }
}

/// ReplicaSets of revisions that are to have no replicas go, and their pods with them, in their own time.
async fn drop_sets(
    parts: &Parts,
    key: &DeploymentKey,
    uid: &str,
    entry: &Entry,
    plan: &Plan,
) -> Result<(), Error> {
    let wanted: Vec<String> =
        plan.workloads.iter().map(|w| crate::names::of_revision(names(key).0, &w.revision)).collect();
    for (name, held) in &entry.sets {
        let owners = held.value.metadata.owner_references.iter().flatten();
        let leaving = held.value.metadata.deletion_timestamp.is_some();
        if wanted.contains(name) || leaving || owners.into_iter().all(|owner| owner.uid != uid) {
            continue;
        }
        leading(parts)?;
        apply::delete::<ReplicaSet>(&parts.client, names(key).1, name, &held.uid).await?;
        parts.memory.inner().own(key).applied.remove(&(Kind::ReplicaSet, name.clone()));
    }
    Ok(())
}

async fn drop_budgets(parts: &Parts, key: &DeploymentKey, entry: &Entry) -> Result<(), Error> {
    for (name, held) in &entry.budgets {
        leading(parts)?;
        apply::delete::<k8s_openapi::api::policy::v1::PodDisruptionBudget>(
            &parts.client,
            names(key).1,
            name,
            &held.uid,
        )
        .await?;
        parts.memory.inner().own(key).applied.remove(&(Kind::PodDisruptionBudget, name.clone()));
    }
    Ok(())
}

fn seen_set(held: &Held<Arc<crate::observe::ReplicaSet>>) -> Held<Seen> {
    Held { version: held.version, uid: held.uid.clone(), value: kept::seen(&held.value.metadata) }
}

fn name<K: Resource>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

/// Name and namespace.
fn names(key: &DeploymentKey) -> (&str, &str) {
    key.as_str().split_once('/').map_or((key.as_str(), "default"), |(namespace, name)| (name, namespace))
}
