//! What all pods of the cluster take of its nodes: asked only while something of ours can't be placed, page by page,
//! decoded into what is needed, and kept for a few seconds.

use crate::apply::{self, Error};
use crate::observe::{Foreign, Pod, Used};
use crate::watch::Entry;
use kube::api::ListParams;
use kube::{Api, Client};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer is good for: `0 of 2 free` is to be true when it is read. One that took long to get is good for
/// ten times as long as it took.
const FRESH: Duration = Duration::from_secs(3);
/// For how much longer it is used where no newer one can be had.
const STALE: Duration = Duration::from_secs(60);
/// Pods of a page.
const PAGE: u32 = 500;
/// The most pages: a hundred thousand pods, and no more time than that takes.
const PAGES: usize = 200;
/// Pods that take something of a node.
const PLACED: &str = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed";

/// What is taken, as of a moment ago. Cheap to clone: all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Shortage {
    known: Arc<Mutex<Option<(Instant, Used)>>>,
    /// Held by who asks. Of tokio's kind.
    asking: Arc<tokio::sync::Mutex<()>>,
}

impl Shortage {
    fn known(&self) -> Option<(Instant, Used)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.filter(|(until, _)| Instant::now() < *until + STALE)
    }

    /// What is taken, where a pod of this deployment can't be placed; `None` where nobody need know, or nobody does yet.
    pub(crate) async fn used(&self, client: &Client, entry: &Entry) -> Option<Used> {
        if !is_wanted(entry) {
            return None;
        }
        let known = self.known();
        if let Some((until, used)) = &known
            && Instant::now() < *until
        {
            return Some(used.clone());
        }
        // A hundred deployments that wait for the same GPUs ask once; the others go by what was known, and are looked at
        // again within a second.
        let Ok(_asking) = self.asking.try_lock() else { return known.map(|(_, used)| used) };
        let began = Instant::now();
        match count(client).await {
            Ok(used) => {
                let until = Instant::now() + FRESH.max(began.elapsed() * 10);
                *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((until, used.clone()));
                Some(used)
            }
            Err(error) => {
                tracing::warn!(%error, "what other pods take is not known");
                known.map(|(_, used)| used)
            }
        }
    }
}

/// Whether a pod of this deployment can't be placed.
pub(crate) fn is_wanted(entry: &Entry) -> bool {
    entry.pods.values().any(|held| unplaced(&held.value))
}

fn unplaced(pod: &Pod) -> bool {
    pod.spec.node_name.is_none() && pod.metadata.deletion_timestamp.is_none()
}

async fn count(client: &Client) -> Result<Used, Error> {
    let api: Api<Foreign> = Api::all(client.clone());
    let mut used = Used::default();
    // Not "any version", which would be cheaper for etcd: for that the API server ignores the limit, and answers with
    // every pod of the cluster at once.
    let first = || ListParams::default().limit(PAGE).fields(PLACED);
    let mut params = first();
    for _ in 0..PAGES {
        let page = apply::bounded(api.list(&params)).await?;
        used.add(&page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = first().continue_token(&token),
            None => break,
        }
    }
    Ok(used)
}
