//! An index of everything that belongs to a deployment, kept by the watches and by the operator's own writes.
//! Indexed by deployment, because a scan over all pods for each of a thousand deployments would be quadratic.

use super::kept::Kept;
use crate::observe::{Node, Pod, ReplicaSet};
use kube_runtime::watcher::Event;
use outrigger_crds::{ModelDeployment, ObjectMeta};
use outrigger_plan::Revision;
use outrigger_wire::DeploymentKey;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// What users declare.
    ModelDeployment,
    /// Replicas.
    Pod,
    /// One per revision with replicas.
    ReplicaSet,
    /// One per revision that is kept.
    ControllerRevision,
    /// The stable revision's address within the cluster.
    Service,
    /// How many replicas a node's drain may take at once.
    PodDisruptionBudget,
    /// That engines are reached through sidecars alone.
    NetworkPolicy,
    /// Where replicas run.
    Node,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ModelDeployment,
        Self::Pod,
        Self::ReplicaSet,
        Self::ControllerRevision,
        Self::Service,
        Self::PodDisruptionBudget,
        Self::NetworkPolicy,
        Self::Node,
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ModelDeployment => "ModelDeployment",
            Self::Pod => "Pod",
            Self::ReplicaSet => "ReplicaSet",
            Self::ControllerRevision => "ControllerRevision",
            Self::Service => "Service",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Node => "Node",
        }
    }
}

/// A ModelDeployment as it was read.
#[derive(Clone, Debug)]
pub enum Declared {
    /// It can be understood.
    Readable(Arc<ModelDeployment>),
    /// It can't: of an older or newer schema. Why, in words.
    Unreadable(Arc<ObjectMeta>, String),
}

/// Which version of an owned object was seen: enough to tell an edit by hand from what was applied, and no more, for
/// there are several of each deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// A digest of uid, generation (or version, where the kind counts none), labels and owners.
    pub digest: u64,
    /// A digest of the uid of the ModelDeployment whose it is.
    pub owner: Option<u64>,
}

/// An object and how new it is.
#[derive(Clone, Debug)]
pub struct Held<T> {
    /// The resource version, which since Kubernetes 1.35 may be compared; 0 where it is no number.
    pub version: u64,
    /// The object's uid.
    pub uid: String,
    /// What is kept of it.
    pub value: T,
}

/// Objects of one kind by name. Mostly there is one, and a map's node has room for eleven: of pointers.
pub type Named<T> = BTreeMap<String, Arc<Held<T>>>;

/// Everything that belongs to one deployment.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// What is declared, under its one name; empty when it is gone.
    pub declared: Named<Declared>,
    /// Its replicas.
    pub pods: Named<Arc<Pod>>,
    /// Its ReplicaSets.
    pub sets: Named<Arc<ReplicaSet>>,
    /// Its revisions; an unreadable one has its error.
    pub revisions: Named<Result<Arc<Revision>, String>>,
    /// Which version of each further object was seen.
    pub services: Named<Seen>,
    /// Likewise.
    pub budgets: Named<Seen>,
    /// Likewise.
    pub policies: Named<Seen>,
}

impl Entry {
    /// What is declared.
    pub fn declared(&self) -> Option<&Declared> {
        self.declared.values().next().map(|held| &held.value)
    }

    fn is_empty(&self) -> bool {
        self.declared.is_empty()
            && self.pods.is_empty()
            && self.sets.is_empty()
            && self.revisions.is_empty()
            && self.services.is_empty()
            && self.budgets.is_empty()
            && self.policies.is_empty()
    }
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<DeploymentKey, Entry>,
    nodes: BTreeMap<String, Arc<Node>>,
    /// What a list under way has named so far.
    listing: HashMap<Kind, BTreeSet<(DeploymentKey, String)>>,
    synced: BTreeSet<Kind>,
}

/// The index. Shared by watches and workers; nothing waits while it is held.
#[derive(Debug, Default)]
pub struct Index {
    inner: Mutex<Inner>,
}

impl Index {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a watch said; the deployments that it concerns.
    pub fn take<K: Kept>(&self, event: Event<K>) -> Vec<DeploymentKey> {
        let mut inner = self.inner();
        match event {
            Event::Init => {
                inner.listing.insert(K::KIND, BTreeSet::new());
                Vec::new()
            }
            // A list is of the moment and believed, whatever its versions: after a restored etcd they are lower.
            Event::InitApply(object) => {
                let place = place(&object);
                if let (Some(place), Some(listing)) = (place, inner.listing.get_mut(&K::KIND)) {
                    listing.insert(place);
                }
                inner.put(object, true).into_iter().collect()
            }
            Event::InitDone => inner.listed::<K>(),
            Event::Apply(object) => {
                let left = inner.left(&object);
                left.into_iter().chain(inner.put(object, false)).collect()
            }
            Event::Delete(object) => {
                let left = inner.left(&object);
                left.into_iter().chain(inner.drop_one(&object)).collect()
            }
        }
    }

    /// Takes in what the operator has written itself, so that its next look already knows.
    pub fn wrote<K: Kept>(&self, object: K) {
        self.inner().put(object, false);
    }

    /// Takes out what the operator has deleted itself.
    pub fn deleted<K: Kept>(&self, object: &K) {
        self.inner().drop_one(object);
    }

    /// Takes in a node event; whether nodes differ in what matters.
    pub fn take_node(&self, event: Event<Node>) {
        let mut inner = self.inner();
        let name = |node: &Node| node.metadata.name.clone().unwrap_or_default();
        match event {
            Event::Init => {
                inner.listing.insert(Kind::Node, BTreeSet::new());
            }
            Event::InitApply(node) => {
                let place = (DeploymentKey(String::new()), name(&node));
                inner.listing.entry(Kind::Node).or_default().insert(place);
                inner.nodes.insert(name(&node), Arc::new(node));
            }
            Event::InitDone => {
                let named = inner.listing.remove(&Kind::Node).unwrap_or_default();
                inner.nodes.retain(|name, _| named.contains(&(DeploymentKey(String::new()), name.clone())));
                inner.synced.insert(Kind::Node);
            }
            Event::Apply(node) => {
                inner.nodes.insert(name(&node), Arc::new(node));
            }
            Event::Delete(node) => {
                inner.nodes.remove(&name(&node));
            }
        }
    }

    /// Everything of one deployment.
    pub fn entry(&self, key: &DeploymentKey) -> Entry {
        self.inner().entries.get(key).cloned().unwrap_or_default()
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.inner().nodes.values().cloned().collect()
    }

    /// All deployments that are known by anything.
    pub fn keys(&self) -> Vec<DeploymentKey> {
        self.inner().entries.keys().cloned().collect()
    }

    /// All replicas of all deployments.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        let inner = self.inner();
        inner.entries.values().flat_map(|entry| entry.pods.values().map(|held| held.value.clone())).collect()
    }

    /// Kinds of which no whole list has been read yet.
    pub fn missing(&self) -> Vec<Kind> {
        let inner = self.inner();
        Kind::ALL.into_iter().filter(|kind| !inner.synced.contains(kind)).collect()
    }
}

/// Where an object belongs: its deployment and its own name.
fn place<K: Kept>(object: &K) -> Option<(DeploymentKey, String)> {
    Some((object.deployment()?, object.metadata().name.clone()?))
}

fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

impl Inner {
    fn put<K: Kept>(&mut self, object: K, believed: bool) -> Option<DeploymentKey> {
        let (key, name) = place(&object)?;
        let meta = object.metadata();
        let (version, uid) = (version(meta), meta.uid.clone().unwrap_or_default());
        let place = K::place(self.entries.entry(key.clone()).or_default());
        // The echo of an older write must not hide a newer one of our own.
        if let Some(held) = place.get(&name)
            && !believed
            && held.uid == uid
            && held.version > version
        {
            return None;
        }
        place.insert(name, Arc::new(Held { version, uid, value: object.keep() }));
        Some(key)
    }

    /// Takes a pod out of another deployment than the one that its labels now name, if it was there: somebody has put
    /// it aside. A list needs no such look, for it names everything.
    fn left<K: Kept>(&mut self, object: &K) -> Option<DeploymentKey> {
        let (home, name) = place(object).filter(|_| K::KIND == Kind::Pod)?;
        if self.entries.get(&home).is_some_and(|entry| entry.pods.contains_key(&name)) {
            return None;
        }
        let uid = object.metadata().uid.as_deref().unwrap_or_default();
        let is_it = |entry: &Entry| entry.pods.get(&name).is_some_and(|held| held.uid == uid);
        let (key, entry) = self.entries.iter_mut().find(|(_, entry)| is_it(entry))?;
        entry.pods.remove(&name);
        Some(key.clone())
    }

    fn drop_one<K: Kept>(&mut self, object: &K) -> Option<DeploymentKey> {
        let (key, name) = place(object)?;
        let entry = self.entries.get_mut(&key)?;
        let uid = object.metadata().uid.clone().unwrap_or_default();
        // The late word of a former object of the same name says nothing of the present one.
        if K::place(entry).get(&name).is_some_and(|held| held.uid == uid) {
            K::place(entry).remove(&name);
        }
        if entry.is_empty() {
            self.entries.remove(&key);
        }
        Some(key)
    }

    /// A list is whole: what it didn't name is gone.
    fn listed<K: Kept>(&mut self) -> Vec<DeploymentKey> {
        let named = self.listing.remove(&K::KIND).unwrap_or_default();
        let mut changed = Vec::new();
        self.entries.retain(|key, entry| {
            let place = K::place(entry);
            let before = place.len();
            place.retain(|name, _| named.contains(&(key.clone(), name.clone())));
            if place.len() != before {
                changed.push(key.clone());
            }
            !entry.is_empty()
        });
        self.synced.insert(K::KIND);
        changed
    }
}
