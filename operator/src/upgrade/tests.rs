//! The upgrade over drawn clusters: kubelets that restart containers late, images that can't be had or don't work,
//! leaders that are replaced.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

use super::act::{last_words, pre_pull, pre_pull_name, swap_patch, with_kubelets_words};
use super::mark::{GIVEN, PRE_PULL};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const OLD: &str = "outrigger/sidecar:0.1.0";
const NEW: &str = "outrigger/sidecar:0.1.1";

/// What is wrong with the new image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Image {
    Good,
    /// No node can pull it.
    Missing,
    /// It ends at once.
    Crashes,
    /// It runs and never gets ready.
    NeverReady,
    /// It was on the node, and is gone when the kubelet wants it.
    Vanishes,
}

/// A pod as it is, behind what is shown of it.
#[derive(Clone, Debug)]
struct Truth {
    shown: PodImage,
    /// Seconds until the kubelet has done what it was told, and what it runs then.
    changing: Option<(i64, String)>,
    /// Seconds until it is ready.
    rising: Option<i64>,
    /// Away for a reason of its own.
    sick: bool,
    touched: bool,
}

struct Cluster {
    now: Timestamp,
    image: Image,
    pods: Vec<Truth>,
    pulls: BTreeMap<String, Pull>,
    memory: Memory,
    halted: Option<String>,
    delay: i64,
    /// Whoever admits pods asks a mirror for every image.
    mirror: bool,
}

/// What an admission controller makes of an image.
fn mirrored(image: &str) -> String {
    format!("mirror.local/{}", image.trim_start_matches("mirror.local/"))
}

impl Cluster {
    fn new(deployments: &[usize], image: Image, delay: i64, sick: &BTreeSet<usize>) -> Self {
        let now: Timestamp = "2026-11-21T08:00:00Z".parse().unwrap();
        let ago = now.checked_sub(SignedDuration::from_secs(3600)).unwrap();
        let mut pods = Vec::new();
        for (deployment, replicas) in deployments.iter().enumerate() {
            for replica in 0..*replicas {
                let n = pods.len();
                let sick = sick.contains(&n);
                let shown = PodImage {
                    namespace: "models".into(),
                    name: format!("d{deployment}-{replica}"),
                    uid: format!("uid-{n}"),
                    deployment: format!("models/d{deployment}"),
                    node: Some(format!("node-{}", n % 3)),
                    image: OLD.into(),
                    given: None,
                    ended: None,
                    ready_since: (!sick).then_some(ago),
                    restarts: 0,
                    waiting: None,
                    terminating: false,
                };
                pods.push(Truth { shown, changing: None, rising: None, sick, touched: false });
            }
        }
        let memory = Memory::new(now);
        Self { now, image, pods, pulls: BTreeMap::new(), memory, halted: None, delay, mirror: false }
    }

    fn shown(&self) -> Vec<PodImage> {
        self.pods.iter().map(|pod| pod.shown.clone()).collect()
    }

    /// One look, and what it asks for. Returns whether something was done.
    fn look(&mut self) -> bool {
        let shown = self.shown();
        let step = next(&shown, &self.pulls, NEW, self.now, &self.memory);
        assert_eq!(
            step,
            next(&shown, &self.pulls, NEW, self.now, &self.memory),
            "the same world, another step"
        );
        self.memory = step.memory;
        let mut done = false;
        for action in step.actions {
            match action {
                Action::PrePull { node } => {
                    assert!(!self.pulls.contains_key(&node));
                    let pull = Pull { brings: mark(NEW), since: self.now, state: Pulled::Waiting };
                    self.pulls.insert(node, pull);
                }
                Action::EndPrePull { node } => drop(self.pulls.remove(&node).unwrap()),
                Action::Swap { pod: PodRef { name, uid, .. }, image } => {
                    let delay = self.delay;
                    let pod = self.pods.iter_mut().find(|pod| pod.shown.uid == uid).unwrap();
                    assert_eq!(pod.shown.name, name);
                    pod.shown.given = Some(mark(&image));
                    if self.mirror {
                        pod.touched |= image == NEW;
                        if pod.shown.image != mirrored(&image) {
                            pod.changing = Some((delay, mirrored(&image)));
                        }
                        done = true;
                        continue;
                    }
                    if image == NEW {
                        let node = pod.shown.node.as_ref().unwrap();
                        assert_eq!(self.pulls[node].state, Pulled::Here, "before it is there");
                        pod.touched = true;
                    } else {
                        assert_eq!(image, OLD);
                    }
                    pod.changing = Some((delay, image));
                }
                Action::Halt(halted) => {
                    self.halted = Some(halted.reason);
                    continue;
                }
                Action::Wait { .. } => continue,
            }
            done = true;
        }
        done
    }

    fn pass(&mut self) {
        self.now = self.now.checked_add(SignedDuration::from_secs(1)).unwrap();
        let (now, image) = (self.now, self.image);
        for pull in self.pulls.values_mut().filter(|pull| pull.state == Pulled::Waiting) {
            let age = now.duration_since(pull.since).as_secs();
            match image {
                Image::Missing if age >= 35 => pull.state = Pulled::Failed("ErrImagePull: not found".into()),
                Image::Missing => {}
                _ if age >= 5 => pull.state = Pulled::Here,
                _ => {}
            }
        }
        for pod in &mut self.pods {
            if let Some((left, to)) = pod.changing.take() {
                pod.shown.image = to.clone();
                // It drains, and takes nothing new.
                pod.shown.ready_since = None;
                if left > 0 {
                    pod.changing = Some((left - 1, to));
                    continue;
                }
                if to == NEW && image == Image::Vanishes {
                    // Its status says no more than that.
                    pod.shown.ended = Some(now);
                    continue;
                }
                pod.shown.ended = None;
                pod.shown.restarts += 1;
                let bad = to == NEW;
                pod.shown.waiting = (bad && image == Image::Crashes)
                    .then(|| ("CrashLoopBackOff".to_owned(), "back-off 10s".to_owned()));
                pod.rising = (!bad || image == Image::Good).then_some(2);
            } else if let Some(left) = pod.rising.take() {
                if left > 0 {
                    pod.rising = Some(left - 1);
                } else if !pod.sick {
                    pod.shown.ready_since = Some(now);
                }
            }
        }
    }

    fn check(&self) {
        let mut away: BTreeMap<&str, usize> = BTreeMap::new();
        for pod in &self.pods {
            // Between two touches it is away because of us, and one that wasn't ready before isn't.
            let ours = pod.touched && pod.shown.ready_since.is_none() && !pod.sick;
            *away.entry(&pod.shown.deployment).or_default() += usize::from(ours);
        }
        assert!(away.values().all(|n| *n <= 1), "{away:?} at {}: {:#?}", self.now, self.memory);
        if self.image != Image::Good {
            assert!(self.pods.iter().filter(|pod| pod.touched).count() <= 1, "a bad image spread");
        }
    }

    /// Looks every two seconds, for so long.
    fn run(&mut self, seconds: i64, new_leader_at: i64) -> i64 {
        let mut last = 0;
        for second in 0..seconds {
            if second == new_leader_at {
                self.memory = Memory::new(self.now);
            }
            if second % 2 == 0 && self.look() {
                last = second;
            }
            self.check();
            self.pass();
            self.check();
        }
        last
    }
}

fn cases() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let cases = if asked { ProptestConfig::default().cases } else { 40 };
    ProptestConfig { cases, max_shrink_iters: 1000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    /// proves H.5
    #[test]
    fn a_good_image_reaches_every_pod_one_of_a_deployment_at_a_time(
        deployments in prop::collection::vec(1usize..4, 1..8),
        delay in 0i64..40,
        sick in prop::collection::btree_set(0usize..20, 0..3),
        new_leader_at in 0i64..300,
    ) {
        let mut cluster = Cluster::new(&deployments, Image::Good, delay, &sick);
        let ready = cluster.pods.iter().any(|pod| !pod.sick);
        let last = cluster.run(3600, new_leader_at);
        let left = cluster.pods.iter().filter(|pod| pod.shown.image != NEW).count();
        prop_assert!(!ready || left == 0, "{left} left: {:#?}", cluster.memory);
        prop_assert!(last < 3500, "it goes on for ever");
        prop_assert!(!ready || cluster.pulls.is_empty(), "{:?}", cluster.pulls);
        prop_assert_eq!(cluster.halted, None);
        prop_assert!(cluster.pods.iter().all(|pod| pod.shown.restarts <= 1), "swapped twice");
    }

    /// proves H.5
    #[test]
    fn a_bad_image_touches_one_pod_at_most_and_that_one_is_given_back(
        deployments in prop::collection::vec(1usize..4, 1..8),
        image in prop_oneof![
            Just(Image::Missing), Just(Image::Crashes), Just(Image::NeverReady), Just(Image::Vanishes)
        ],
        delay in 0i64..40,
    ) {
        let mut cluster = Cluster::new(&deployments, image, delay, &BTreeSet::new());
        cluster.run(1800, -1);
        prop_assert!(cluster.halted.is_some());
        let shown = cluster.shown();
        prop_assert!(shown.iter().all(|pod| pod.image == OLD && pod.ready_since.is_some()), "{shown:#?}");
        let touched = cluster.pods.iter().filter(|pod| pod.touched).count();
        prop_assert_eq!(touched, usize::from(image != Image::Missing));
    }
}

#[test]
fn what_halted_it_is_said_in_words() {
    let mut cluster = Cluster::new(&[2], Image::Missing, 0, &BTreeSet::new());
    cluster.run(120, -1);
    assert_eq!(
        cluster.halted.as_deref(),
        Some("outrigger/sidecar:0.1.1 can't be had on node node-0: ErrImagePull: not found")
    );
    let mut cluster = Cluster::new(&[2], Image::Crashes, 0, &BTreeSet::new());
    cluster.run(300, -1);
    assert_eq!(
        cluster.halted.as_deref(),
        Some(
            "models/d0-0 did not come back with outrigger/sidecar:0.1.1: CrashLoopBackOff: back-off 10s; it is \
             given outrigger/sidecar:0.1.0 again"
        )
    );
}

/// A registry's mirror, or digests for tags: each pod is given the image once and counts as having it, also where it was
/// made with it; and a leader that comes later knows.
#[test]
fn images_that_are_rewritten_on_their_way_end_in_no_loop() {
    let mut cluster = Cluster::new(&[2, 2], Image::Good, 3, &BTreeSet::new());
    cluster.mirror = true;
    for (n, pod) in cluster.pods.iter_mut().enumerate() {
        // One is new, and what it was made with was rewritten too.
        pod.shown.image = mirrored(if n == 3 { NEW } else { OLD });
    }
    let last = cluster.run(600, -1);
    assert!(last < 300, "it goes on: {:#?}", cluster.memory);
    assert!(cluster.pods.iter().all(|pod| pod.shown.image == mirrored(NEW)), "{:#?}", cluster.shown());
    let restarts: Vec<i32> = cluster.pods.iter().map(|pod| pod.shown.restarts).collect();
    assert_eq!(restarts, [1, 1, 1, 0]);
    assert!(cluster.pulls.is_empty() && cluster.halted.is_none());
    cluster.memory = Memory::new(cluster.now);
    cluster.run(100, -1);
    assert!(cluster.pods.iter().map(|pod| pod.shown.restarts).eq(restarts), "a new leader begins anew");
    assert!(cluster.pulls.is_empty());
}

/// The kubelet ends the old sidecar before it has the new one's image, and its status says nothing of that.
#[test]
fn a_sidecar_whose_image_is_gone_is_given_the_old_one_again() {
    let mut cluster = Cluster::new(&[2], Image::Vanishes, 0, &BTreeSet::new());
    cluster.run(400, -1);
    assert_eq!(
        cluster.halted.as_deref(),
        Some(
            "models/d0-0 did not come back with outrigger/sidecar:0.1.1: the old sidecar has ended and the new one has \
             not started in 120 s; it is given outrigger/sidecar:0.1.0 again"
        )
    );
    assert!(cluster.pods.iter().all(|pod| pod.shown.image == OLD && pod.shown.ready_since.is_some()));
    let pod = cluster.memory.halted.as_ref().map(|halted| halted.pod.name.as_str());
    assert_eq!(pod, Some("d0-0"), "who is told");
    let event = |reason: &str, of: &str, second: i64, message: &str| {
        serde_json::from_value(serde_json::json!({
            "metadata": {}, "reason": reason, "message": message,
            "involvedObject": {"fieldPath": format!("spec.{of}")},
            "lastTimestamp": Timestamp::from_second(1_700_000_000 + second).unwrap(),
        }))
        .unwrap()
    };
    let sidecar = "initContainers{outrigger}";
    let words = last_words(vec![
        event("Failed", sidecar, 1, "Failed to pull image \"x\": an older word"),
        event("Failed", sidecar, 2, "Failed to pull image \"x\": not found"),
        event("Failed", sidecar, 2, "Error: ErrImagePull"),
        event("BackOff", sidecar, 3, "Back-off pulling image"),
        event("Failed", "containers{engine}", 4, "of the engine"),
    ]);
    assert_eq!(
        with_kubelets_words("halted", words),
        "halted; its kubelet says: Failed to pull image \"x\": not found"
    );
    assert_eq!(with_kubelets_words("halted", last_words(Vec::new())), "halted");
}

/// Users' own pods are upgraded too, those of one controller one after the other.
#[test]
fn injected_pods_are_known_by_their_controller_and_for_as_long_as_they_are_there() {
    use kube_runtime::watcher::Event;
    let pod = |name: &str, sidecar: &str| -> crate::observe::Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": name, "namespace": "team", "uid": name, "labels": {"outrigger.dev/inject": "true"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "own-7f", "uid": "r",
                    "controller": true}],
            },
            "spec": {"nodeName": "n", "initContainers": [{"name": sidecar, "image": OLD}]},
        }))
        .unwrap()
    };
    let injected = Injected::default();
    let names = || injected.pods().into_iter().map(|pod| (pod.deployment, pod.name)).collect::<Vec<_>>();
    let own = |name: &str| ("team/ReplicaSet/own-7f".to_owned(), name.to_owned());
    injected.take(Event::Init);
    injected.take(Event::InitApply(pod("a", "outrigger")));
    injected.take(Event::InitApply(pod("b", "outrigger")));
    injected.take(Event::InitApply(pod("c", "another")));
    injected.take(Event::InitDone);
    assert_eq!(names(), [own("a"), own("b")]);
    injected.take(Event::Delete(pod("a", "outrigger")));
    injected.take(Event::Apply(pod("d", "outrigger")));
    assert_eq!(names(), [own("b"), own("d")]);
    // After a watch that broke: what is not named is gone.
    injected.take(Event::Init);
    injected.take(Event::InitApply(pod("d", "outrigger")));
    injected.take(Event::InitDone);
    assert_eq!(names(), [own("d")]);
}

/// The next image is another chance, and begins where the bad one was tried.
#[test]
fn a_better_image_ends_a_halt() {
    let mut cluster = Cluster::new(&[2, 1], Image::Crashes, 0, &BTreeSet::new());
    cluster.run(200, -1);
    assert!(cluster.memory.halted.is_some());
    let better = "outrigger/sidecar:0.1.2";
    let step = next(&cluster.shown(), &BTreeMap::new(), better, cluster.now, &cluster.memory);
    assert_eq!(step.memory.halted, None);
    assert!(matches!(step.actions[..], [Action::PrePull { .. }]), "{:?}", step.actions);
}

#[test]
fn a_swap_names_the_sidecar_alone_and_a_pull_holds_nothing() {
    let patch = swap_patch("u", NEW);
    assert_eq!(patch["spec"], serde_json::json!({"initContainers": [{"name": "outrigger", "image": NEW}]}));
    assert_eq!(patch["metadata"], serde_json::json!({"uid": "u", "labels": {GIVEN: mark(NEW)}}));
    let settings = Settings {
        namespace: "outrigger-system".into(),
        image: NEW.into(),
        pull_policy: Some("Never".into()),
        pull_secrets: vec!["registry".into(), "mirror".into()],
    };
    let pod = serde_json::to_value(pre_pull(&settings, "node-1")).unwrap();
    assert_eq!(pod["spec"]["containers"][0]["image"], NEW);
    assert_eq!(pod["metadata"]["labels"][PRE_PULL], mark(NEW), "whatever becomes of the image");
    assert_eq!(pod["spec"]["nodeName"], "node-1");
    assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["spec"]["containers"][0]["securityContext"]["capabilities"]["drop"][0], "ALL");
    assert_eq!(
        pod["spec"]["imagePullSecrets"],
        serde_json::json!([{"name": "registry"}, {"name": "mirror"}])
    );
    let resources = &pod["spec"]["containers"][0]["resources"];
    assert_eq!(resources["requests"], serde_json::json!({"cpu": "0", "memory": "0"}), "a full node takes it");
    assert_eq!(resources["limits"], serde_json::json!({"cpu": "100m", "memory": "32Mi"}));
    let long = "n".repeat(253);
    for node in ["node-1", "a.b-c.", long.as_str()] {
        let name = pre_pull_name(node);
        assert!(name.len() <= 253 && name.ends_with(|c: char| c.is_ascii_alphanumeric()), "{name}");
    }
    assert_ne!(pre_pull_name(&format!("{long}a")), pre_pull_name(&format!("{long}b")));
}
