//! Carries the decision out: two kinds of write, by the leader alone.

use super::mark::{GIVEN, PRE_PULL, hash, mark};
use super::{Action, Memory, PodImage, Pull, next, pull};
use crate::names;
use crate::observe::Pod;
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;

/// Between two looks, before jitter.
const LOOK: Duration = Duration::from_secs(2);
/// How long one call to the API server may take.
const CALL: Duration = Duration::from_secs(10);
/// A pre-pull pod ends by itself after this many seconds, whatever happens to this program.
const DEADLINE: i64 = 600;

/// What is the same for every look.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator's namespace, where images are brought from.
    pub namespace: String,
    /// The sidecar's image.
    pub image: String,
    /// Its pull policy.
    pub pull_policy: Option<String>,
    /// Secrets of that namespace, by which registries know it.
    pub pull_secrets: Vec<String>,
}

/// Brings the sidecar's image into all pods that `pods` names, for as long as this is the leader; ends when `leader`
/// does. `tell` hears what happens: whether it is bad news, one word, a sentence.
pub async fn run(
    client: kube::Client,
    settings: Settings,
    mut leader: watch::Receiver<bool>,
    pods: impl Fn() -> Vec<PodImage>,
    mut tell: impl FnMut(bool, &'static str, &str),
) {
    let hands = Hands { client, settings };
    loop {
        if leader.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let mut memory = Memory::new(Timestamp::now());
        let mut told = String::new();
        while *leader.borrow() {
            memory = look(&hands, &pods(), memory, &mut told, &mut tell).await;
            let pause = LOOK.mul_f64(0.75 + fastrand::f64() / 2.0);
            // The channel's end is seen by the outer wait.
            let _ = tokio::time::timeout(pause, leader.wait_for(|leads| !*leads)).await;
        }
    }
}

/// One look, and what it asks for.
async fn look(
    hands: &Hands,
    pods: &[PodImage],
    memory: Memory,
    told: &mut String,
    tell: &mut impl FnMut(bool, &'static str, &str),
) -> Memory {
    let wanted = &hands.settings.image;
    let given = Some(mark(wanted));
    let has = |pod: &PodImage| pod.image == *wanted || pod.given == given;
    let same = memory.swapped.is_empty() && pods.iter().all(has);
    if same && memory.wanted == *wanted && told.is_empty() {
        // Nothing to do, and nothing asked of the API server.
        return memory;
    }
    let now = Timestamp::now();
    let pulls = match hands.pulls(now).await {
        Ok(pulls) => pulls,
        Err(error) => {
            tracing::warn!(%error, "pods that bring the sidecar's image can't be listed");
            return memory;
        }
    };
    let mut step = next(pods, &pulls, wanted, now, &memory);
    let mut words = String::new();
    for action in &step.actions {
        match (hands.perform(action).await, action) {
            (Err(error), Action::Swap { uid, namespace, name, .. }) => {
                tracing::warn!(%error, pod = %format!("{namespace}/{name}"), "the sidecar can't be swapped");
                step.memory.swapped.remove(uid);
            }
            (Err(error), _) => tracing::warn!(%error, ?action, "upgrade"),
            (Ok(()), Action::Swap { namespace, name, image, .. }) => {
                tell(false, "SidecarSwapped", &format!("{namespace}/{name} is given {image}"));
            }
            (Ok(()), Action::Halt { reason }) => words.clone_from(reason),
            (Ok(()), _) => {}
        }
    }
    if !words.is_empty() && *told != words {
        tell(true, "SidecarUpgradeHalted", &words);
    }
    // While there is something left to take away, it is looked again.
    *told = if words.is_empty() && !pulls.is_empty() { " ".to_owned() } else { words };
    step.memory
}

struct Hands {
    client: kube::Client,
    settings: Settings,
}

/// A call that took too long is an error like any other.
async fn in_time<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(CALL, call).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", CALL.as_secs())),
    }
}

impl Hands {
    fn own(&self) -> Api<core::Pod> {
        Api::namespaced(self.client.clone(), &self.settings.namespace)
    }

    async fn pulls(&self, now: Timestamp) -> Result<BTreeMap<String, Pull>, String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let list = in_time(pods.list(&ListParams::default().labels(PRE_PULL))).await?;
        Ok(list.items.iter().filter_map(|pod| pull(pod, now)).collect())
    }

    async fn perform(&self, action: &Action) -> Result<(), String> {
        match action {
            Action::PrePull { node } => {
                let pod = pre_pull(&self.settings, node);
                in_time(self.own().create(&PostParams::default(), &pod)).await.map(|_| ())
            }
            Action::EndPrePull { node } => {
                let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                in_time(self.own().delete(&pre_pull_name(node), &now)).await.map(|_| ())
            }
            Action::Swap { namespace, name, uid, image } => self.swap(namespace, name, uid, image).await,
            Action::Wait { .. } | Action::Halt { .. } => Ok(()),
        }
    }

    /// The image of the sidecar's container, and the label that says so; nothing else of the pod.
    async fn swap(&self, namespace: &str, name: &str, uid: &str, image: &str) -> Result<(), String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let patch = Patch::Strategic(swap_patch(uid, image));
        let params =
            PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..Default::default() };
        in_time(pods.patch(name, &params, &patch)).await.map(|_| ())
    }
}

/// The patch of a swap. The uid makes the API server refuse it for another pod of that name.
pub(super) fn swap_patch(uid: &str, image: &str) -> serde_json::Value {
    json!({
        "metadata": {"uid": uid, "labels": {GIVEN: mark(image)}},
        "spec": {"initContainers": [{"name": names::SIDECAR_CONTAINER, "image": image}]},
    })
}

/// A node's name may be longer than a pod's may be with something before it.
pub(super) fn pre_pull_name(node: &str) -> String {
    let short: String = node.chars().take(200).collect();
    let short = short.trim_end_matches(['.', '-']);
    format!("outrigger-pre-pull-{:016x}-{short}", hash(node))
        .chars()
        .take(253)
        .collect::<String>()
        .trim_end_matches(['.', '-'])
        .to_owned()
}

/// The pod that brings the image to a node: it runs its helper once and ends. It holds nothing and may do nothing. It
/// asks for nothing either, in words, for namespaces whose quota wants them: a full node would turn it away, whatever
/// small amount it asked for.
pub(super) fn pre_pull(settings: &Settings, node: &str) -> core::Pod {
    let secrets = settings.pull_secrets.iter().map(|name| json!({"name": name}));
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pre_pull_name(node),
            "namespace": settings.namespace,
            "labels": {names::MANAGED_BY: names::OUTRIGGER, PRE_PULL: mark(&settings.image)},
        },
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": DEADLINE,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "tolerations": [{"operator": "Exists"}],
            "imagePullSecrets": secrets.collect::<Vec<_>>(),
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "pre-pull",
                "image": settings.image,
                "imagePullPolicy": settings.pull_policy,
                "command": ["/outrigger-helper", "--help"],
                "resources": {
                    "requests": {"cpu": "0", "memory": "0"},
                    "limits": {"cpu": "100m", "memory": "32Mi"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    });
    serde_json::from_value(pod).unwrap_or_default()
}
