//! Carries the decision out: two kinds of write, by the leader alone.

use super::mark::{GIVEN, PRE_PULL, hash, mark};
use super::{Action, Halted, Memory, PodImage, PodRef, Pull, next, pull};
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
/// The most events of one pod that are looked through for a kubelet's words.
const MOST_EVENTS: u32 = 100;
/// What a kubelet's events are called that say why a container doesn't start.
const STARTS_NOT: [&str; 3] = ["Failed", "ErrImageNeverPull", "InspectFailed"];
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

/// What is worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News<'a> {
    /// A pod's sidecar is given an image.
    Swapped(&'a PodRef, &'a str),
    /// No more pods are given the image: with which pod that was found, and why in words.
    Halted(&'a PodRef, &'a str),
    /// Nothing keeps it from going on (any more).
    GoesOn,
}

/// Brings the sidecar's image into all pods that `pods` names, for as long as this is the leader; ends when `leader`
/// does. `tell` hears what happens.
pub async fn run(
    client: kube::Client,
    settings: Settings,
    mut leader: watch::Receiver<bool>,
    pods: impl Fn() -> Vec<PodImage>,
    mut tell: impl FnMut(News<'_>),
) {
    let hands = Hands { client, settings };
    loop {
        if leader.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let mut memory = Memory::new(Timestamp::now());
        let mut told = Told::default();
        while *leader.borrow() {
            memory = look(&hands, &pods(), memory, &mut told, &mut tell).await;
            let pause = LOOK.mul_f64(0.75 + fastrand::f64() / 2.0);
            // The channel's end is seen by the outer wait.
            let _ = tokio::time::timeout(pause, leader.wait_for(|leads| !*leads)).await;
        }
        // The next leader says what is to be said.
        tell(News::GoesOn);
    }
}

/// What was told last.
#[derive(Debug, Default)]
struct Told {
    /// Why nothing more is done.
    halted: Option<Halted>,
    /// There is something left to be taken away.
    untidy: bool,
}

/// One look, and what it asks for.
async fn look(
    hands: &Hands,
    pods: &[PodImage],
    memory: Memory,
    told: &mut Told,
    tell: &mut impl FnMut(News<'_>),
) -> Memory {
    let wanted = &hands.settings.image;
    let given = Some(mark(wanted));
    let same = pods.iter().all(|pod| pod.image == *wanted || pod.given == given);
    let quiet = memory.swapped.is_empty() && told.halted.is_none() && !told.untidy;
    if same && quiet && memory.wanted == *wanted {
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
    let mut halted = None;
    for action in &step.actions {
        match (hands.perform(action).await, action) {
            (Err(error), Action::Swap { pod, .. }) => {
                tracing::warn!(%error, pod = %format!("{}/{}", pod.namespace, pod.name), "the sidecar can't be swapped");
                step.memory.swapped.remove(&pod.uid);
            }
            (Err(error), _) => tracing::warn!(%error, ?action, "upgrade"),
            (Ok(()), Action::Swap { pod, image }) => tell(News::Swapped(pod, image)),
            (Ok(()), Action::Halt(why)) => halted = Some(why.clone()),
            (Ok(()), _) => {}
        }
    }
    match &halted {
        Some(why) if told.halted.as_ref() != Some(why) => {
            let words = with_kubelets_words(&why.reason, hands.kubelets_words(&why.pod).await);
            tell(News::Halted(&why.pod, &words));
        }
        None if told.halted.is_some() => tell(News::GoesOn),
        _ => {}
    }
    *told = Told { halted, untidy: !pulls.is_empty() };
    step.memory
}

/// Why nothing more is done, with what a kubelet said of the pod where that is more.
pub(super) fn with_kubelets_words(reason: &str, words: Option<String>) -> String {
    match words.filter(|words| !reason.contains(words.as_str())) {
        Some(words) => format!("{reason}; its kubelet says: {words}"),
        None => reason.to_owned(),
    }
}

/// What a kubelet said last of why this pod's sidecar does not start.
pub(super) fn last_words(events: Vec<core::Event>) -> Option<String> {
    let of_sidecar = |event: &core::Event| {
        let of = event.involved_object.field_path.as_deref().unwrap_or_default();
        of.ends_with(&format!("{{{}}}", names::SIDECAR_CONTAINER))
            && STARTS_NOT.contains(&event.reason.as_deref().unwrap_or_default())
    };
    let at = |event: &core::Event| event.last_timestamp.as_ref().map(|time| time.0);
    // Of one second the longer says more: `Error: ErrImagePull` comes with every failed pull.
    let newest = events
        .into_iter()
        .filter(of_sidecar)
        .max_by_key(|event| (at(event), event.message.as_ref().map_or(0, String::len)));
    newest?.message.filter(|words| !words.is_empty())
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
            Action::Swap { pod, image } => self.swap(pod, image).await,
            Action::Wait { .. } | Action::Halt(_) => Ok(()),
        }
    }

    /// What the kubelet says of why this pod's sidecar does not start: its status does not tell that an image can't be
    /// had for a container that ran. Without the right to ask, the rest is said all the same.
    async fn kubelets_words(&self, pod: &PodRef) -> Option<String> {
        let events: Api<core::Event> = Api::namespaced(self.client.clone(), &pod.namespace);
        let only = format!("involvedObject.uid={},type=Warning", pod.uid);
        let found = in_time(events.list(&ListParams::default().fields(&only).limit(MOST_EVENTS))).await;
        found
            .inspect_err(|error| tracing::debug!(error, "events can't be read"))
            .ok()
            .map(|found| found.items)
            .and_then(last_words)
    }

    /// The image of the sidecar's container, and the label that says so; nothing else of the pod.
    async fn swap(&self, pod: &PodRef, image: &str) -> Result<(), String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let patch = Patch::Strategic(swap_patch(&pod.uid, image));
        let params =
            PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..Default::default() };
        in_time(pods.patch(&pod.name, &params, &patch)).await.map(|_| ())
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
