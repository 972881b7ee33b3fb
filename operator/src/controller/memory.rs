//! What is remembered between two looks and lost with the process: baselines of cumulative counters, the newest
//! word of each proxy, what was applied.

use crate::apply::Applied;
use crate::watch::Kind;
use jiff::Timestamp;
use outrigger_crds::{ModelDeployment, ModelDeploymentStatus};
use outrigger_plan::{Gateway, Trouble};
use outrigger_verdict::Baselines;
use outrigger_wire::stream::Report;
use outrigger_wire::{DeploymentKey, EndpointId, EndpointReport, GatewayId, GatewayReport};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most sidecars whose newest report is kept: as many as the table serves.
const MOST_ENDPOINTS: usize = 8_192;
/// The most gateways whose acknowledgement is kept per deployment.
const MOST_GATEWAYS: usize = 256;
/// A gateway that was last heard of this long ago is forgotten: a Deployment that rolls leaves old names behind.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// What is remembered. Shared by workers; nothing waits while it is held.
#[derive(Debug, Default)]
pub struct Memory {
    inner: Mutex<Inner>,
}

/// See [`Memory`].
#[derive(Debug, Default)]
pub(crate) struct Inner {
    /// What gateways counted.
    pub(crate) baselines: Baselines,
    /// The newest report of each sidecar, and when it came.
    pub(crate) endpoints: HashMap<EndpointId, (EndpointReport, Timestamp)>,
    /// Whose replica each sidecar stands beside, as far as that was seen.
    homes: HashMap<EndpointId, DeploymentKey>,
    heads: HashMap<DeploymentKey, BTreeMap<GatewayId, Box<Head>>>,
    owns: HashMap<DeploymentKey, Own>,
}

#[derive(Debug)]
struct Head {
    gateway: Gateway,
    heard: Timestamp,
}

/// What is remembered of one deployment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    /// The object's.
    uid: String,
    /// What was applied last, by kind and name.
    pub(crate) applied: BTreeMap<(Kind, String), Applied>,
    /// Why the API server, or the merge before it, would not have the objects.
    pub(crate) refused: Option<Trouble>,
    /// A status that was stored otherwise than it was written, and the resource version that this made.
    /// Boxed: a status is two kilobytes, and hardly any is altered.
    pub(crate) altered: Option<Box<(String, ModelDeploymentStatus)>>,
    /// Looks in a row that ended in an error.
    pub(crate) failures: u32,
    /// Until when the next attempt rests, where one has failed. An event of its objects ends the rest, time and reports
    /// alone don't.
    pub(crate) rests_until: Option<Instant>,
    /// Whether the API server has taken this leader's status as the newest.
    pub(crate) confirmed: bool,
    /// A canary is judged or gateways are waited for: reports matter.
    pub(crate) attentive: bool,
    /// The engine's restarts of each replica, as they were seen to happen.
    pub(crate) restarts: HashMap<EndpointId, Vec<Timestamp>>,
}

impl Memory {
    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a report; the deployments that are to be looked at because of it.
    pub(crate) fn absorb(&self, report: Report, now: Timestamp) -> Vec<DeploymentKey> {
        let mut inner = self.inner();
        match report {
            Report::Gateway(report) => inner.gateway(&report, now),
            Report::Endpoint(report) => inner.endpoint(*report, now),
        }
    }

    /// Whether anything is remembered of it.
    pub(crate) fn knows(&self, key: &DeploymentKey) -> bool {
        self.inner().owns.contains_key(key)
    }

    /// Those of which a canary is judged, or which have not settled; each with when it may be looked at.
    pub(crate) fn attentive(&self) -> Vec<(DeploymentKey, Instant)> {
        let (now, inner) = (Instant::now(), self.inner());
        let attentive = inner.owns.iter().filter(|(_, own)| own.attentive);
        attentive.map(|(key, own)| (key.clone(), own.rests_until.unwrap_or(now))).collect()
    }

    /// When it may be looked at although nothing of it has changed.
    pub(crate) fn rested(&self, key: &DeploymentKey) -> Option<Instant> {
        self.inner().owns.get(key)?.rests_until
    }

    /// Forgets who has long been silent and belongs to no deployment: sidecars that drained after theirs was gone,
    /// gateways' words about it.
    pub(crate) fn sweep(&self, now: Timestamp) {
        let silent = |then: Timestamp| {
            Duration::try_from(now.duration_since(then)).is_ok_and(|silent| silent > FORGOTTEN)
        };
        let mut inner = self.inner();
        let Inner { endpoints, homes, heads, owns, .. } = &mut *inner;
        endpoints.retain(|id, (_, then)| homes.contains_key(id) || !silent(*then));
        heads.retain(|key, heads| owns.contains_key(key) || heads.values().any(|head| !silent(head.heard)));
    }

    /// Forgets everything: another leader has written meanwhile, so a fresh baseline is taken.
    pub(crate) fn clear(&self) {
        *self.inner() = Inner::default();
    }
}

impl Inner {
    fn gateway(&mut self, report: &GatewayReport, now: Timestamp) -> Vec<DeploymentKey> {
        self.baselines.absorb(report, now);
        let mut marked = Vec::new();
        for (key, counted) in &report.deployments {
            let gateway = Gateway {
                id: report.gateway.clone(),
                live: false,
                serial: counted.serial,
                assigned_stable: counted.assigned_stable,
                assigned_canary: counted.assigned_canary,
                ejected: counted.ejected.clone(),
            };
            let heads = self.heads.entry(key.clone()).or_default();
            let before = heads.get(&report.gateway);
            let told = before
                .is_none_or(|b| b.gateway.serial != gateway.serial || b.gateway.ejected != gateway.ejected);
            if before.is_some() || heads.len() < MOST_GATEWAYS {
                heads.insert(report.gateway.clone(), Box::new(Head { gateway, heard: now }));
            }
            if told || self.owns.get(key).is_some_and(|own| own.attentive) {
                marked.push(key.clone());
            }
        }
        marked
    }

    fn endpoint(&mut self, report: EndpointReport, now: Timestamp) -> Vec<DeploymentKey> {
        let id = report.endpoint.clone();
        let before = self.endpoints.get(&id).map(|(before, _)| before);
        let news = before.is_none_or(|before| matters(before, &report));
        // A server that was forwarded an old report after a new one keeps the new one.
        let older =
            before.is_some_and(|b| b.incarnation == report.incarnation && b.sequence > report.sequence);
        if older || (before.is_none() && self.endpoints.len() >= MOST_ENDPOINTS) {
            return Vec::new();
        }
        // One that was heard of before its pod was seen is looked at with the pod.
        let home = self.homes.get(&id).filter(|_| news).cloned();
        self.endpoints.insert(id, (report, now));
        home.into_iter().collect()
    }

    /// The gateways that were heard of, as the planner sees them; one that lives and has not reported yet works by no
    /// routes.
    pub(crate) fn gateways(
        &mut self,
        key: &DeploymentKey,
        live: &[GatewayId],
        now: Timestamp,
    ) -> Vec<Gateway> {
        let forgotten = |head: &Head| {
            Duration::try_from(now.duration_since(head.heard)).is_ok_and(|silent| silent > FORGOTTEN)
        };
        let mut found: BTreeMap<GatewayId, Gateway> = BTreeMap::new();
        if let Some(heads) = self.heads.get_mut(key) {
            heads.retain(|id, head| live.contains(id) || !forgotten(head));
            found.extend(heads.iter().map(|(id, head)| (id.clone(), head.gateway.clone())));
        }
        for id in live {
            let unheard = Gateway {
                id: id.clone(),
                live: true,
                serial: 0,
                assigned_stable: 0,
                assigned_canary: 0,
                ejected: Vec::new(),
            };
            found.entry(id.clone()).or_insert(unheard).live = true;
        }
        found.into_values().collect()
    }

    /// What is remembered of this object. Of a former one of its name nothing holds, and of one that is new here its
    /// status says what it was refused.
    pub(crate) fn own_of(&mut self, key: &DeploymentKey, object: &ModelDeployment) -> &mut Own {
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let own = self.own(key);
        if own.uid != uid {
            let conditions = object.status.iter().flat_map(|status| &status.conditions);
            let told = conditions.into_iter().find(|told| told.status == "True" && told.reason == "Refused");
            let refused = told.map(|told| Trouble {
                reason: "Refused".to_owned(),
                message: told.message.clone(),
                blocks: false,
            });
            *own = Own { uid: uid.to_owned(), refused, ..Own::default() };
        }
        own
    }

    /// What is remembered of one deployment.
    pub(crate) fn own(&mut self, key: &DeploymentKey) -> &mut Own {
        self.owns.entry(key.clone()).or_default()
    }

    /// A deployment is gone.
    pub(crate) fn forget(&mut self, key: &DeploymentKey) {
        self.baselines.remove(key);
        self.heads.remove(key);
        self.retain_endpoints(key, &HashSet::new());
        self.owns.remove(key);
    }

    /// These replicas are there; others of this deployment are not remembered.
    pub(crate) fn retain_endpoints(&mut self, key: &DeploymentKey, present: &HashSet<EndpointId>) {
        let gone: Vec<EndpointId> = self
            .homes
            .iter()
            .filter(|(id, home)| *home == key && !present.contains(*id))
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            self.homes.remove(&id);
            self.endpoints.remove(&id);
        }
        for id in present {
            self.homes.entry(id.clone()).or_insert_with(|| key.clone());
        }
        self.own(key).restarts.retain(|id, _| present.contains(id));
    }
}

/// Whether the planner would see another world: counts of requests are for people.
fn matters(before: &EndpointReport, now: &EndpointReport) -> bool {
    let quiet = |report: &EndpointReport| EndpointReport {
        sequence: 0,
        serial: 0,
        in_flight: 0,
        queued: 0,
        restarts: report.restarts.ageless(),
        ..report.clone()
    };
    quiet(before) != quiet(now)
}
