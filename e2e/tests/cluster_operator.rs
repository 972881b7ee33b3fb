//! The operator in the cluster: killed again and again in the middle of a rollout, measured, and upgraded with a new
//! sidecar for pods that run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use outrigger_e2e::caller::Callers;
use outrigger_e2e::cluster::{Cluster, Namespace};
use outrigger_e2e::installed::{Installed, Lives, NAMESPACE};
use outrigger_e2e::simulated::{IMAGE, NAME, changed, deployment, serving, text};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A whole rollout of three short steps, with interruptions.
const ROLLOUT: Duration = Duration::from_secs(300);
/// What is put right by itself within seconds.
const SOON: Duration = Duration::from_secs(90);
/// Kills that must hit, in the middle of one rollout.
const KILLS: usize = 8;
/// What the operator may hold with ten deployments, in KiB.
const MOST: u64 = 40 * 1024;

fn name(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap()
}

/// Who leads, and how often that has changed.
fn lease(installed: &Installed) -> anyhow::Result<(String, i64)> {
    let lease = installed.cluster.json(&["get", "lease", "outrigger-operator", "-n", NAMESPACE])?;
    let spec = &lease["spec"];
    let holder = spec["holderIdentity"].as_str().unwrap_or_default().to_owned();
    Ok((holder, spec["leaseTransitions"].as_i64().unwrap_or(0)))
}

/// The name of the pod that holds a lease: it stands before what tells its lives apart.
fn pod_of(holder: &str) -> &str {
    holder.split('_').next().unwrap()
}

/// Kills the operator's replicas: the leader, the other one, and both at once, in turn.
struct Killer {
    installed: &'static Installed,
    draw: fastrand::Rng,
    next: Instant,
    turn: usize,
    hits: usize,
    /// When the last one was hit.
    last: Instant,
    killed: BTreeSet<String>,
    leaders: BTreeSet<String>,
}

impl Killer {
    fn new(installed: &'static Installed, seed: u64) -> Self {
        Self {
            installed,
            draw: fastrand::Rng::with_seed(seed),
            next: Instant::now(),
            turn: 0,
            hits: 0,
            last: Instant::now(),
            killed: BTreeSet::new(),
            leaders: BTreeSet::new(),
        }
    }

    /// Kills, if it is time to.
    fn look(&mut self) {
        if Instant::now() < self.next || self.hits >= KILLS {
            return;
        }
        let (holder, _) = lease(self.installed).unwrap();
        let pods = self.installed.pods_of("operator").unwrap();
        let (leader, others): (Vec<&Value>, Vec<&Value>) =
            pods.iter().partition(|pod| name(pod) == pod_of(&holder));
        let victims = match self.turn % 3 {
            // Nobody has taken over from the last one yet.
            0 if leader.is_empty() || self.leaders.contains(&holder) => return,
            0 => leader,
            1 => others.into_iter().take(1).collect(),
            _ => pods.iter().collect(),
        };
        let before = self.hits;
        for victim in victims {
            self.kill(victim, &holder);
        }
        if self.hits > before {
            self.turn += 1;
            self.next = Instant::now() + Duration::from_millis(self.draw.u64(2_000..8_000));
        }
    }

    fn kill(&mut self, victim: &Value, holder: &str) {
        let cluster = self.installed.cluster;
        if cluster.signal(NAMESPACE, name(victim), "operator", "KILL").is_err() {
            // It doesn't run at this moment: no kill.
            return;
        }
        self.hits += 1;
        self.last = Instant::now();
        self.killed.insert(name(victim).to_owned());
        if name(victim) == pod_of(holder) {
            self.leaders.insert(holder.to_owned());
        }
        // The kubelet starts one at once again, and one that ends a second time only after a pause: that would be a
        // rest for the test. Its pod is made anew instead.
        if victim["status"]["containerStatuses"][0]["restartCount"].as_i64() > Some(0) {
            let args = ["delete", "pod", "-n", NAMESPACE, name(victim), "--wait=false", "--grace-period=1"];
            cluster.kubectl(&args).unwrap();
        }
    }
}

/// Steps that last for as long as it is killed.
fn lasting(text: String) -> String {
    let steps = "[{weight: 10, hold: 5s}, {weight: 25, hold: 5s}, {weight: 50, hold: 5s}]";
    changed(&text, steps, "[{weight: 10, hold: 10s}, {weight: 25, hold: 10s}, {weight: 50, hold: 10s}]")
}

/// proves O.2: the operator's replicas, the leading one first, are killed at moments that are drawn, again and again,
/// while a rollout is under way; it is promoted all the same, step by step, and no request fails.
#[test]
fn an_operator_that_is_killed_goes_on_where_it_was() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let installed = Installed::get().unwrap();
    let model = "operator-killed";
    let namespace = serving(installed, "killed", model).unwrap();
    let before = installed.stable(namespace.name(), NAME).unwrap();
    let (_, transitions) = lease(installed).unwrap();
    let calls = Callers::start(installed.gateway(), model, 8, 8, false, Duration::from_millis(50));
    namespace.apply(&lasting(text(model, "v2", &[], IMAGE))).unwrap();
    let seed = u64::from(std::process::id());
    let mut killer = Killer::new(installed, seed);
    let mut steps = Vec::new();
    cluster
        .wait_until(namespace.name(), "the promotion", ROLLOUT, || {
            killer.look();
            let status = installed.deployment(namespace.name(), NAME)?["status"].clone();
            if let Some(step) = status["canary"]["step"].as_u64()
                && steps.last() != Some(&step)
            {
                steps.push(step);
            }
            let promoted = status["canary"].is_null() && status["stable"] != before.as_str();
            assert!(!promoted || killer.hits >= KILLS, "promoted after {} kills", killer.hits);
            Ok(promoted)
        })
        .unwrap();
    let tally = calls.stop();
    let (_, now) = lease(installed).unwrap();
    println!("seed {seed}: {} kills, the last {:?} before the promotion", killer.hits, killer.last.elapsed());
    println!("{:?}; steps {steps:?}; {tally:?}", killer.killed);
    assert_eq!(tally.failed, 0, "{tally:?}");
    assert!(
        now >= transitions + 2 && killer.leaders.len() >= 2,
        "{transitions} → {now}: {:?}",
        killer.leaders
    );
    assert!(killer.killed.len() >= 2, "{:?}", killer.killed);
    assert!(steps.starts_with(&[0, 1, 2]), "no step is left out or repeated: {steps:?}");
    assert!(steps.is_sorted(), "{steps:?}");
    let lives = installed.lives(namespace.name(), NAME).unwrap();
    assert_eq!(lives.all_restarts("engine") + lives.all_restarts("outrigger"), 0, "{lives:?}");
    cluster.wait_available(NAMESPACE, "outrigger-operator", SOON).unwrap();
}

/// What a process holds, in KiB.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Both replicas of the operator, while ten deployments serve.
#[test]
fn ten_deployments_cost_less_than_forty_mebibytes() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let installed = Installed::get().unwrap();
    let namespace = cluster.restricted_namespace("ten").unwrap();
    let one = |n: usize| {
        let model = format!("ten-{n}");
        let flag = format!("--model={model}");
        let text = deployment(&model, 1, &[&flag], IMAGE);
        changed(&text, "{name: chat}", &format!("{{name: chat-{n}}}"))
    };
    namespace.apply(&(0..10).map(one).collect::<Vec<_>>().join("\n---\n")).unwrap();
    for n in 0..10 {
        let bound = Duration::from_secs(180);
        installed.wait_condition(namespace.name(), &format!("chat-{n}"), "Available", "True", bound).unwrap();
    }
    for pod in installed.pods_of("operator").unwrap() {
        let pid = cluster.container_pid(NAMESPACE, name(&pod), "operator").unwrap();
        let held = resident(pid);
        println!("{} holds {held} KiB", name(&pod));
        assert!(held < MOST, "{} holds {held} KiB", name(&pod));
    }
}

/// What this test changes in the installation, put back when it ends.
struct Release(&'static Installed);

impl Drop for Release {
    fn drop(&mut self) {
        let back = self.0.upgrade(&[]);
        if !std::thread::panicking() {
            back.unwrap();
        }
    }
}

fn sidecar_images(namespace: &Namespace) -> Vec<String> {
    let path = "jsonpath={.items[*].spec.initContainers[?(@.name==\"outrigger\")].image}";
    let images = namespace.kubectl(&["get", "pods", "-o", path]).unwrap();
    images.split_whitespace().map(str::to_owned).collect()
}

/// Pods that bring an image to a node.
fn pre_pulls(cluster: &Cluster) -> Vec<String> {
    let list = ["get", "pods", "-n", NAMESPACE, "-l", "outrigger.dev/pre-pull", "-o", "name"];
    cluster.kubectl(&list).unwrap().lines().map(str::to_owned).collect()
}

/// A new sidecar comes with an upgrade of the release: into the pods that run, one after the other, without restarting
/// an engine. One that can't be had stops before anything is touched. The operator restarts for each, under traffic.
#[test]
fn a_new_sidecar_is_brought_into_pods_that_run() {
    let Some(cluster) = Cluster::owned().unwrap() else { return };
    let installed = Installed::get().unwrap();
    let next = "outrigger/sidecar:0.1.0-next";
    cluster.tag_image("outrigger/sidecar:0.1.0", next).unwrap();
    let release = Release(installed);
    let model = "operator-upgraded";
    let namespace = serving(installed, "upgraded", model).unwrap();
    cluster.wait_until(namespace.name(), "both replicas", SOON, || two_ready(installed, &namespace)).unwrap();
    let before = installed.lives(namespace.name(), NAME).unwrap();
    let calls = Callers::start(installed.gateway(), model, 4, 8, false, Duration::from_millis(50));
    installed.upgrade(&["--set", &format!("sidecar.image={next}")]).unwrap();
    let mut brought = BTreeSet::new();
    cluster
        .wait_until(namespace.name(), "the sidecars to be swapped", ROLLOUT, || {
            brought.extend(pre_pulls(cluster));
            let lives = installed.lives(namespace.name(), NAME)?;
            let swapped = sidecar_images(&namespace).iter().all(|image| image == next);
            Ok(swapped && lives.all_restarts("outrigger") == 2 && two_ready(installed, &namespace)?)
        })
        .unwrap();
    assert!(!brought.is_empty(), "the image was brought to the nodes before");
    once_each(&before, &installed.lives(namespace.name(), NAME).unwrap());
    cluster
        .wait_until(NAMESPACE, "what brought it to be gone", SOON, || Ok(pre_pulls(cluster).is_empty()))
        .unwrap();
    let swapped = installed.lives(namespace.name(), NAME).unwrap();
    let tally = calls.tally();
    assert_eq!(tally.failed, 0, "{tally:?}");

    let missing = "outrigger/sidecar:nowhere";
    installed.upgrade(&["--set", &format!("sidecar.image={missing}")]).unwrap();
    cluster
        .wait_until(namespace.name(), "a pod's event that nothing is swapped", SOON, || {
            let events = namespace.json(&["get", "events.events.k8s.io"])?;
            Ok(events["items"].as_array().unwrap().iter().any(|event| {
                let note = event["note"].as_str().unwrap_or_default();
                event["reason"] == "SidecarUpgradeHalted" && note.contains(missing)
            }))
        })
        .unwrap();
    assert_eq!(sidecar_images(&namespace), [next, next]);
    assert_eq!(installed.lives(namespace.name(), NAME).unwrap(), swapped);

    // Back to what they have: nothing is left to do, and nothing of the attempt stays.
    cluster.helm(&["rollback", outrigger_e2e::installed::RELEASE, "-n", NAMESPACE]).unwrap();
    cluster.wait_available(NAMESPACE, "outrigger-operator", SOON).unwrap();
    cluster
        .wait_until(NAMESPACE, "the attempt to be gone", SOON, || Ok(pre_pulls(cluster).is_empty()))
        .unwrap();
    assert_eq!(sidecar_images(&namespace), [next, next]);
    assert_eq!(installed.lives(namespace.name(), NAME).unwrap(), swapped);
    let tally = calls.stop();
    println!("{tally:?}");
    assert_eq!(tally.failed, 0, "{tally:?}");
    // Before the release is put back: these need not be swapped once more.
    drop(namespace);
    drop(release);
}

fn two_ready(installed: &Installed, namespace: &Namespace) -> anyhow::Result<bool> {
    let found = installed.deployment(namespace.name(), NAME)?;
    let path = "jsonpath={.items[*].status.readyReplicas}";
    let ready = namespace.kubectl(&["get", "replicasets", "-o", path])?;
    Ok(found["status"]["replicas"] == 2 && ready.split_whitespace().eq(["2"]))
}

/// The same pods, each sidecar restarted once, no engine.
fn once_each(before: &Lives, after: &Lives) {
    assert_eq!(before.uids(), after.uids(), "{before:?}\n{after:?}");
    for pod in before.pods() {
        assert_eq!(after.restarts(pod, "outrigger").unwrap(), 1, "{after:?}");
        assert_eq!(after.restarts(pod, "engine").unwrap(), 0, "{after:?}");
    }
}
