//! What users are told: the planner's events as `events.k8s.io/v1`, on the ModelDeployment that they are about.
//!
//! ```text
//! plan ─► tell ─► bounded queue ─► ledger: new, or seen lately ─┬─► create
//!          └ full: counted, not told                            └─► count in a series, at most now and then
//! ```
//!
//! A look at a deployment never waits for an event.

pub mod ledger;
mod write;

use crate::metrics::Metrics;
use crate::upgrade::PodRef;
use ledger::Told;
use outrigger_crds::{ModelDeployment, ObjectMeta};
use outrigger_plan::Event;
use tokio::sync::mpsc;
pub use write::Writer;

/// The most events that wait to be written.
const QUEUE: usize = 1024;

/// Where events are told. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<Told>,
    metrics: Metrics,
}

impl Events {
    /// A place to tell events, and who writes them ([`Writer::run`]). `instance` is this replica's pod.
    pub fn new(client: kube::Client, instance: &str, metrics: Metrics) -> (Self, Writer) {
        let (queue, told) = mpsc::channel(QUEUE);
        (Self { queue, metrics: metrics.clone() }, Writer::new(client, instance, told, metrics))
    }

    /// Tells of something that happened to this object.
    pub fn tell(&self, object: &ModelDeployment, event: &Event) {
        self.push(Told::new(&object.metadata, event.warning, &event.reason, &event.message));
    }

    /// Tells of an object that can't be read.
    pub fn unreadable(&self, meta: &ObjectMeta, why: &str) {
        let text = format!("this object can't be read, and stays as it was until it is changed: {why}");
        self.push(Told::new(meta, true, "Unreadable", &text));
    }

    /// Tells of what becomes of a pod's sidecar.
    pub fn of_sidecar(&self, pod: &PodRef, warning: bool, reason: &str, message: &str) {
        self.push(Told::pod(&pod.namespace, &pod.name, &pod.uid, warning, reason, message));
    }

    fn push(&self, told: Told) {
        if self.queue.try_send(told).is_err() {
            self.metrics.event_dropped();
        }
    }
}
