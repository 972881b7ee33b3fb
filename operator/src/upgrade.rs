//! A new sidecar for pods that run: its image is changed in place, the engine beside it is never touched.
//!
//! A ReplicaSet applies a changed template only to pods made afterwards, and a pod that is replaced loads its model
//! anew. So the image of the sidecar's container alone is changed in the running pod, which restarts that container
//! and no other. The kubelet kills first and pulls afterwards: the image is brought to the node before, by a
//! short-lived pod, one pod is swapped and watched first, and a bad image stops there.
//!
//! ```text
//! pods ─► next ─► PrePull ─► Swap the first, watch it ─► Swap others, paced ─► EndPrePull
//!                    └────────────┴─► Halt, in words; the first is swapped back
//! ```

use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

mod act;
mod injected;
mod mark;
mod read;
mod step;
#[cfg(test)]
mod tests;

pub use act::{News, Settings, run};
pub use injected::Injected;
pub use mark::mark;
pub use read::{pod_image, pull};
pub use step::next;

/// A pod with a sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodImage {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Whose replica it is, `namespace/name`; of a pod of a user's own, its controller's or its own.
    pub deployment: String,
    /// Where it runs; `None` while it has no node.
    pub node: Option<String>,
    /// The sidecar's image as the pod asks for it.
    pub image: String,
    /// The image that it was given last, as [`mark`] of it: whoever admits pods may have made another of it.
    pub given: Option<String>,
    /// Since when the pod is ready.
    pub ready_since: Option<Timestamp>,
    /// How often the sidecar's container was restarted.
    pub restarts: i32,
    /// Why the sidecar's container waits: the kubelet's word and message.
    pub waiting: Option<(String, String)>,
    /// Since when the sidecar's container has ended and nothing is said of a next one. So it looks where a swapped
    /// container's image can't be had.
    pub ended: Option<Timestamp>,
    /// Whether it goes.
    pub terminating: bool,
}

/// How bringing the image to a node goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    /// The image that is brought, as [`mark`] of it.
    pub brings: String,
    /// Since when.
    pub since: Timestamp,
    /// What came of it.
    pub state: Pulled,
}

/// What came of bringing an image to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// Nothing yet.
    Waiting,
    /// It is there and runs.
    Here,
    /// It can't be had, in words.
    Failed(String),
}

/// What has to be done. Nothing here names any container but the sidecar's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bring the image to this node.
    PrePull {
        /// Which node.
        node: String,
    },
    /// The pod that brought it is not needed any more.
    EndPrePull {
        /// Which node.
        node: String,
    },
    /// Give this pod's sidecar this image.
    Swap {
        /// The pod; another one of that name is left alone.
        pod: PodRef,
        /// The image.
        image: String,
    },
    /// Nothing more until then.
    Wait {
        /// When to look again at the latest.
        until: Timestamp,
        /// Why, in words.
        why: String,
    },
    /// Nothing more of this image.
    Halt(Halted),
}

/// Why no more pods are given an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halted {
    /// In words.
    pub reason: String,
    /// The pod with which it was tried.
    pub pod: PodRef,
}

/// A pod by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// A pod whose sidecar was swapped and which is not back for long enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swapped {
    /// Its deployment.
    pub deployment: String,
    /// The image that it goes back to: the one with which it was last well.
    pub from: String,
    /// The image that it showed when it was swapped.
    pub shown: String,
    /// The image that it was given.
    pub to: String,
    /// Whether it was ready before: one that wasn't need not be afterwards.
    pub was_ready: bool,
    /// Restarts of its sidecar before.
    pub restarts: i32,
    /// When the image was changed.
    pub at: Timestamp,
    /// When the new container was first seen: until then the old one finishes what is in flight.
    pub seen: Option<Timestamp>,
}

/// What a leader remembers; lost with it, and then pieced together from the pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Since when this leader looks: what a predecessor changed last may not show yet.
    pub since: Timestamp,
    /// The image that is wanted; with another one everything begins anew.
    pub wanted: String,
    /// Pods under way, by uid.
    pub swapped: BTreeMap<String, Swapped>,
    /// Uids of pods that were under way and are done with.
    pub done: BTreeSet<String>,
    /// Whether a pod has come back with this image and stayed.
    pub proven: bool,
    /// Why nothing more is done.
    pub halted: Option<Halted>,
}

impl Memory {
    /// A leader that begins now.
    pub fn new(now: Timestamp) -> Self {
        Self {
            since: now,
            wanted: String::new(),
            swapped: BTreeMap::new(),
            done: BTreeSet::new(),
            proven: false,
            halted: None,
        }
    }
}

/// What is to be done, and what is remembered once it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// In this order.
    pub actions: Vec<Action>,
    /// What to remember.
    pub memory: Memory,
}

/// How long a pod that came back is watched before it counts as back.
pub const WATCHED: SignedDuration = SignedDuration::from_secs(10);
/// How long a new sidecar may take until the pod is ready again.
pub const BACK_WITHIN: SignedDuration = SignedDuration::from_secs(120);
/// How long a predecessor's last changes may take to show.
pub const SETTLES: SignedDuration = SignedDuration::from_secs(30);
/// How long a node may take to pull the image before that is given up.
pub const PULL_WITHIN: SignedDuration = SignedDuration::from_secs(600);
/// Pods that are swapped at once, over all deployments.
pub const AT_ONCE: usize = 10;
