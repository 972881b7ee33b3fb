//! Pods of users' own whose sidecar the webhook has put in. They are watched for its upgrade alone, and of each only what
//! that needs is kept.

use super::{PodImage, pod_image};
use crate::names;
use crate::observe::Pod;
use futures_util::StreamExt;
use kube::{Api, Client};
use kube_runtime::watcher::{self, Event, watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long one watch call lasts, in seconds, as of the other watches: a dead connection is noticed soon after.
const WATCH_SECONDS: u32 = 30;
/// The first and the longest rest after an error, drawn between half and the whole.
const REST: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Those pods, as the watch last showed them. Cheap to clone: all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Injected(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    pods: BTreeMap<(String, String), PodImage>,
    /// What a list under way has named so far.
    listed: BTreeSet<(String, String)>,
}

fn key(pod: &Pod) -> (String, String) {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

impl Injected {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them.
    pub fn pods(&self) -> Vec<PodImage> {
        self.seen().pods.values().cloned().collect()
    }

    /// Takes in what the watch said.
    pub(super) fn take(&self, event: Event<Pod>) {
        let mut seen = self.seen();
        match event {
            Event::Init => seen.listed.clear(),
            Event::InitApply(pod) => {
                seen.listed.insert(key(&pod));
                seen.put(&pod);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut seen.listed);
                seen.pods.retain(|key, _| listed.contains(key));
            }
            Event::Apply(pod) => seen.put(&pod),
            Event::Delete(pod) => drop(seen.pods.remove(&key(&pod))),
        }
    }

    /// Watches until the future is dropped; `restarted` hears whenever the watch broke.
    pub async fn follow(self, client: Client, restarted: impl Fn()) {
        let pods: Api<Pod> = Api::all(client);
        let config = watcher::Config::default().labels(&format!("{}=true", names::INJECT));
        let mut stream = std::pin::pin!(watcher(pods, config.timeout(WATCH_SECONDS)));
        let mut rest = REST.0;
        while let Some(event) = stream.next().await {
            match event {
                Ok(event) => {
                    rest = REST.0;
                    self.take(event);
                }
                Err(error) => {
                    restarted();
                    tracing::debug!(%error, "the watch over pods with a sidecar of ours broke; it starts again");
                    tokio::time::sleep(rest.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    rest = (rest * 2).min(REST.1);
                }
            }
        }
    }
}

impl Seen {
    /// A pod without a sidecar (the label came later), or one that has ended, is none.
    fn put(&mut self, pod: &Pod) {
        match pod_image(pod) {
            Some(image) => drop(self.pods.insert(key(pod), image)),
            None => drop(self.pods.remove(&key(pod))),
        }
    }
}
