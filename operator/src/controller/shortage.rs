//! What all pods of the cluster take of its nodes: asked only while something of ours can't be placed, page by page,
//! decoded into what is needed, and kept for a few seconds.

use crate::apply::{self, Error};
use crate::observe::{Foreign, Pod, Used};
use crate::watch::Entry;
use kube::api::ListParams;
use kube::{Api, Client};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// How long an answer is good for: `0 of 2 free` is to be true when it is read.
const FRESH: Duration = Duration::from_secs(3);
/// Pods of a page.
const PAGE: u32 = 500;
/// The most pages: a hundred thousand pods, and no more time than that takes.
const PAGES: usize = 200;

/// What is taken, as of a moment ago. Cheap to clone: all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Shortage {
    known: Arc<Mutex<Option<(Instant, Used)>>>,
}

impl Shortage {
    /// What is taken, where a pod of this deployment can't be placed; `None` where nobody need know.
    pub(crate) async fn used(&self, client: &Client, entry: &Entry) -> Option<Used> {
        if !entry.pods.values().any(|held| unplaced(&held.value)) {
            return None;
        }
        // Held while asking, so that a hundred deployments that wait for the same GPUs ask once. Of tokio's kind.
        let mut known = self.known.lock().await;
        if let Some((at, used)) = known.as_ref()
            && at.elapsed() < FRESH
        {
            return Some(used.clone());
        }
        match count(client).await {
            Ok(used) => {
                *known = Some((Instant::now(), used.clone()));
                Some(used)
            }
            Err(error) => {
                tracing::warn!(%error, "what other pods take is not known");
                known.as_ref().map(|(_, used)| used.clone())
            }
        }
    }
}

fn unplaced(pod: &Pod) -> bool {
    pod.spec.node_name.is_none() && pod.metadata.deletion_timestamp.is_none()
}

async fn count(client: &Client) -> Result<Used, Error> {
    let api: Api<Foreign> = Api::all(client.clone());
    let mut used = Used::default();
    // From the API server's cache: a count that is a second old serves as well and costs etcd nothing.
    let mut params = ListParams::default().match_any().limit(PAGE);
    for _ in 0..PAGES {
        let page = apply::bounded(api.list(&params)).await?;
        used.add(&page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = ListParams::default().limit(PAGE).continue_token(&token),
            None => break,
        }
    }
    Ok(used)
}
