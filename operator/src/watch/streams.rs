//! The watches themselves: one per kind, each started again whenever it ends, until the program does.

use super::index::Index;
use super::kept::Kept;
use crate::names;
use crate::observe::{Node, Pod, ReplicaSet};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::{Api, Client};
use kube_runtime::watcher::{self, Config, Event, watcher};
use outrigger_crds::ModelDeployment;
use outrigger_wire::DeploymentKey;
use std::sync::Arc;
use std::time::Duration;

/// How long one watch call lasts. A connection that died without a word (a node cut off, a firewall that forgot it)
/// is noticed 5 s after this; starting again from a bookmark costs one small request.
const WATCH_SECONDS: u32 = 30;
/// The first and the longest rest after an error, drawn between half and the whole: an API server that comes back
/// is not met by everybody at once, and is met soon.
const REST: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// What is told when something changed: a deployment, or (nodes) none in particular.
pub type Changed = Arc<dyn Fn(Vec<DeploymentKey>) + Send + Sync>;
/// What is told when a watch broke and starts again: the kind's name.
pub type Restarted = Arc<dyn Fn(&'static str) + Send + Sync>;

/// Watches everything, for as long as the future is polled.
pub async fn watch_all(client: Client, index: Arc<Index>, changed: Changed, restarted: Restarted) {
    let mine = || config().labels(&format!("{}={}", names::MANAGED_BY, names::OUTRIGGER));
    let of_deployments = || config().labels(names::DEPLOYMENT);
    let all = Feed { index: index.clone(), changed: changed.clone(), restarted: restarted.clone() };
    let deployments: Api<DeserializeGuard<ModelDeployment>> = Api::all(client.clone());
    let pods: Api<Pod> = Api::all(client.clone());
    let sets: Api<ReplicaSet> = Api::all(client.clone());
    let revisions: Api<ControllerRevision> = Api::all(client.clone());
    let services: Api<PartialObjectMeta<Service>> = Api::all(client.clone());
    let budgets: Api<PartialObjectMeta<PodDisruptionBudget>> = Api::all(client.clone());
    let policies: Api<PartialObjectMeta<NetworkPolicy>> = Api::all(client.clone());
    let nodes: Api<Node> = Api::all(client);
    tokio::join!(
        all.follow(watcher(deployments, config())),
        all.follow(watcher(pods, of_deployments())),
        all.follow(watcher(sets, mine())),
        all.follow(watcher(revisions, mine())),
        all.follow(watcher(services, mine())),
        all.follow(watcher(budgets, mine())),
        all.follow(watcher(policies, mine())),
        follow(watcher(nodes, config()), "Node", &restarted, |event| {
            index.take_node(event);
        }),
    );
}

fn config() -> Config {
    Config::default().timeout(WATCH_SECONDS)
}

struct Feed {
    index: Arc<Index>,
    changed: Changed,
    restarted: Restarted,
}

impl Feed {
    async fn follow<K: Kept>(&self, stream: impl Stream<Item = watcher::Result<Event<K>>>) {
        follow(stream, K::KIND.as_str(), &self.restarted, |event| {
            let changed = self.index.take(event);
            if !changed.is_empty() {
                (self.changed)(changed);
            }
        })
        .await;
    }
}

async fn follow<K>(
    stream: impl Stream<Item = watcher::Result<Event<K>>>,
    kind: &'static str,
    restarted: &Restarted,
    mut take: impl FnMut(Event<K>),
) {
    let mut stream = std::pin::pin!(stream);
    let mut rest = REST.0;
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                rest = REST.0;
                take(event);
            }
            Err(error) => {
                restarted(kind);
                tracing::warn!(kind, error = %brief(&error), "a watch broke; it starts again");
                tokio::time::sleep(rest.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                rest = (rest * 2).min(REST.1);
            }
        }
    }
}

/// An error without the objects that some carry in their debug form.
fn brief(error: &watcher::Error) -> String {
    let mut text = error.to_string();
    if let Some((at, _)) = text.char_indices().nth(300) {
        text.truncate(at);
    }
    text
}
