//! What objects as Kubernetes writes them mean. They were read from a cluster of version 1.36.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use super::types::{Condition, Pod, ReplicaSet, Terminated};
use super::{Foreign, Node, Nodes, Used, capacity, replica, restarts};
use jiff::{SignedDuration, Timestamp};
use outrigger_crds::Time;
use outrigger_plan::Phase;
use serde::de::DeserializeOwned;
use std::fs;
use std::path::PathBuf;

fn objects() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/observe/tests/objects")
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    let text = fs::read_to_string(objects().join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn names(prefix: &str) -> Vec<String> {
    let files = fs::read_dir(objects()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        files.filter(|name| name.starts_with(prefix)).map(|name| name.replace(".json", "")).collect();
    names.sort();
    names
}

fn nodes() -> Nodes {
    Nodes::new(&[read::<Node>("node-1"), read::<Node>("node-2")])
}

fn line(name: &str, pod: &Pod) -> String {
    let mut out = format!("{name}: ");
    match replica(pod) {
        None => out.push_str("no replica"),
        Some(replica) => {
            out.push_str(&format!(
                "{:?}, {}",
                replica.phase,
                replica.address.as_deref().unwrap_or("no address")
            ));
            if !replica.restarts.is_empty() {
                out.push_str(&format!(", {} restarts", replica.restarts.len()));
            }
            if let Some(trouble) = replica.trouble {
                let blocks = if trouble.blocks { ", blocks" } else { "" };
                out.push_str(&format!("\n    {}{blocks}: {}", trouble.reason, trouble.message));
            }
        }
    }
    for trouble in capacity(&[pod], &[], &nodes()).missing {
        let blocks = if trouble.blocks { ", blocks" } else { "" };
        out.push_str(&format!("\n    capacity: {}{blocks}: {}", trouble.reason, trouble.message));
    }
    out
}

#[test]
fn pods_of_a_real_cluster_are_told_in_words() {
    let lines: Vec<String> = names("pod-").iter().map(|name| line(name, &read::<Pod>(name))).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn refusals_of_a_real_cluster_are_told_in_words() {
    let lines: Vec<String> = names("set-")
        .iter()
        .map(|name| {
            let capacity = capacity(&[], &[&read::<ReplicaSet>(name)], &nodes());
            let trouble = capacity.missing.first().unwrap();
            assert!(trouble.blocks, "{name}");
            format!("{name}: {}: {}", trouble.reason, trouble.message)
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

/// proves O.4
#[test]
fn what_nobody_reads_is_not_kept() {
    let text = fs::read_to_string(objects().join("pod-ready.json")).unwrap();
    let mut whole: serde_json::Value = serde_json::from_str(&text).unwrap();
    whole["metadata"]["annotations"] = serde_json::json!({ "a": "x".repeat(10_000) });
    whole["metadata"]["managedFields"] = serde_json::json!([{ "manager": "kubelet", "operation": "Update" }]);
    let pod: Pod = serde_json::from_value(whole).unwrap();
    assert_eq!(pod.metadata.annotations, None);
    assert_eq!(pod.metadata.managed_fields, None);
    assert_eq!(pod.metadata.labels.as_ref().map(|labels| labels.len()), Some(3));
    // The debug form is several times what the memory holds.
    let kept = format!("{pod:?}").len();
    assert!(kept < 8_000, "{kept} bytes of {}", text.len());
}

fn message(name: &str, nodes: &Nodes) -> String {
    capacity(&[&read::<Pod>(name)], &[], nodes).missing.first().unwrap().message.clone()
}

#[test]
fn a_shortage_of_accelerators_is_counted() {
    assert_eq!(message("pod-gpu-short", &nodes()), "needs 1 × nvidia.com/gpu, 0 of 2 free");
    let mut used = Used::default();
    used.add(&[read::<Foreign>("pod-with-gpu")]);
    assert_eq!(
        message("pod-gpu-short", &nodes().with_used(used.clone())),
        "needs 1 × nvidia.com/gpu, none of the 1 free where it may run",
        "the scheduler has seen what this count has not"
    );
    let mut other = read::<Foreign>("pod-with-gpu");
    other.spec.node_name = Some("node-2".to_owned());
    used.add(&[other.clone()]);
    assert_eq!(
        message("pod-gpu-short", &nodes().with_used(used.clone())),
        "needs 1 × nvidia.com/gpu, 0 of 2 free"
    );
    // What has ended takes up no room.
    let mut ended = Used::default();
    other.status.phase = Some("Failed".to_owned());
    ended.add(&[other]);
    assert_eq!(ended, Used::default());
    assert_eq!(message("pod-gpu-many", &nodes()), "needs 2 × nvidia.com/gpu on one node, the largest has 1");
    assert_eq!(message("pod-gpu-short", &Nodes::default()), "needs 1 × nvidia.com/gpu, no node has any");
}

#[test]
fn nodes_that_take_no_pods_are_named() {
    let mut second = read::<Node>("node-2");
    second.spec.unschedulable = true;
    let nodes = Nodes::new(&[read::<Node>("node-1"), second]).with_used({
        let mut used = Used::default();
        used.add(&[read::<Foreign>("pod-with-gpu")]);
        used
    });
    let mut pod = read::<Pod>("pod-gpu-short");
    scheduled(&mut pod).message = Some(
        "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) were unschedulable. preemption: 0/2 \
         nodes are available: 2 Preemption is not helpful for scheduling."
            .to_owned(),
    );
    let told = capacity(&[&pod], &[], &nodes).missing;
    assert_eq!(
        told[0].message,
        "needs 1 × nvidia.com/gpu, 0 of 2 free (1 on nodes that take no pods); 1 node is cordoned"
    );
}

fn scheduled(pod: &mut Pod) -> &mut Condition {
    pod.status.conditions.iter_mut().find(|condition| condition.kind == "PodScheduled").unwrap()
}

#[test]
fn schedulers_reasons_are_shortened() {
    let cases = [
        (
            "0/5 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 4 \
             node(s) didn't match Pod's node affinity/selector. preemption: not eligible",
            "no node fits: 1 node has the taint node-role.kubernetes.io/control-plane, which it does not tolerate; 4 \
             nodes don't match its node selector or affinity",
        ),
        (
            "0/3 nodes are available: 2 node(s) had untolerated taint(s) {gpu: h100, a: b}, 1 node(s) had untolerated \
             taint {node.kubernetes.io/unreachable: }.",
            "no node fits: 2 nodes have the taint gpu=h100, a: b, which it does not tolerate; 1 node is unreachable",
        ),
        ("0/1 nodes are available: 1 Too many pods.", "every node has as many pods as it may"),
        ("something new\nwith two lines", "something new with two lines"),
        ("no nodes available to schedule pods", "no nodes available to schedule pods"),
    ];
    for (theirs, ours) in cases {
        let mut pod = read::<Pod>("pod-gpu-short");
        scheduled(&mut pod).message = Some(theirs.to_owned());
        assert_eq!(capacity(&[&pod], &[], &nodes()).missing[0].message, ours, "{theirs}");
    }
}

/// What the deployment's own replicas give back when they have drained is waited for, not lacking.
#[test]
fn what_drains_is_not_blocked() {
    let waiting = read::<Pod>("pod-gpu-short");
    let mut leaving = read::<Pod>("pod-with-gpu");
    leaving.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    let told = capacity(&[&waiting, &leaving], &[], &nodes()).missing;
    assert_eq!(told.len(), 1);
    assert!(!told[0].blocks);
    assert_eq!(told[0].reason, "Draining");
    assert!(
        told[0].message.starts_with("needs 1 × nvidia.com/gpu, 0 of 2 free; replicas that drain"),
        "{told:?}"
    );
}

/// Three replicas that lack the same say so once, and what says most comes first.
#[test]
fn the_trouble_that_says_most_is_told_first() {
    let (gpu, selector) = (read::<Pod>("pod-gpu-short"), read::<Pod>("pod-selector"));
    let set = read::<ReplicaSet>("set-quota");
    let told = capacity(&[&selector, &gpu, &gpu], &[&set], &nodes()).missing;
    let reasons: Vec<&str> = told.iter().map(|trouble| trouble.reason.as_str()).collect();
    assert_eq!(reasons, ["InsufficientResources", "QuotaExceeded", "Unschedulable"]);
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// The engine has ended so often, last at that time.
fn ended(restarts: i32, last: i64, reason: &str) -> Pod {
    let mut pod = read::<Pod>("pod-ready");
    pod.status.start_time = Some(Time(at(0)));
    let engine = pod.status.container_statuses.iter_mut().find(|status| status.name == "engine").unwrap();
    engine.restart_count = restarts;
    engine.last_state.terminated = Some(Terminated {
        exit_code: 137,
        reason: Some(reason.to_owned()),
        message: None,
        finished_at: Some(Time(at(last))),
    });
    pod
}

#[test]
fn restarts_are_gathered_one_by_one() {
    let mut known = restarts(&[], &read::<Pod>("pod-ready"));
    assert!(known.is_empty());
    for n in 1..=20 {
        let pod = ended(n, i64::from(n) * 60, "Error");
        known = restarts(&known, &pod);
        assert_eq!(restarts(&known, &pod), known, "the same pod again adds nothing");
        assert_eq!(known.len(), (n as usize).min(16));
        assert_eq!(known.last(), Some(&at(i64::from(n) * 60)));
    }
    assert_eq!(known.first(), Some(&at(5 * 60)));
}

/// A new leader knows how often, and of one when: the others lie between the pod's start and that one.
#[test]
fn restarts_that_nobody_saw_are_spread() {
    assert_eq!(restarts(&[], &ended(4, 400, "Error")), [at(100), at(200), at(300), at(400)]);
    let many = restarts(&[], &ended(1000, 10_000, "Error"));
    assert_eq!(many.len(), 16);
    assert!(many.windows(2).all(|two| two[0] < two[1]));
    assert_eq!(many[14] + SignedDuration::from_secs(10), many[15]);
    assert_eq!(restarts(&[], &ended(-3, 10, "Error")), [at(10)]);
    assert_eq!(restarts(&[], &ended(i32::MAX, 10, "Error")).len(), 16);
}

/// A node's fault is not the revision's.
#[test]
fn a_rebooted_node_restarts_nothing() {
    for reason in ["Unknown", "ContainerStatusUnknown"] {
        assert!(restarts(&[], &ended(1, 10, reason)).is_empty());
        assert_eq!(restarts(&[at(5)], &ended(2, 10, reason)), [at(5)]);
    }
    let mut leaving = ended(3, 10, "Error");
    leaving.metadata.deletion_timestamp = Some(Time(at(11)));
    assert!(restarts(&[], &leaving).is_empty(), "a pod that leaves is ended");
}

/// As the controller of nodes marks the pods of one that fell silent.
#[test]
fn a_silent_node_is_named() {
    let mut pod = read::<Pod>("pod-ready");
    let ready = pod.status.conditions.iter_mut().find(|condition| condition.kind == "Ready").unwrap();
    ready.status = "False".to_owned();
    ready.last_transition_time = Some(Time(at(100_000_000)));
    let replica = replica(&pod).unwrap();
    assert_eq!(replica.phase, Phase::Unheard);
    let trouble = replica.trouble.unwrap();
    assert_eq!((trouble.reason.as_str(), trouble.blocks), ("NodeLost", false));
    assert!(trouble.message.contains("does not answer"), "{}", trouble.message);
}

/// An evicted pod is no replica, and is told of while nothing has replaced it.
#[test]
fn an_evicted_pod_is_replaced() {
    let mut evicted = read::<Pod>("pod-ready");
    evicted.status.phase = Some("Failed".to_owned());
    evicted.status.reason = Some("Evicted".to_owned());
    evicted.status.message = Some("The node was low on resource: memory. ".to_owned());
    assert_eq!(replica(&evicted), None);
    let told = capacity(&[&evicted], &[], &nodes()).missing;
    assert_eq!(told[0].message, "evicted from node node-2: The node was low on resource: memory");
    assert!(!told[0].blocks);
    let mut next = read::<Pod>("pod-ready");
    next.metadata.creation_timestamp = evicted.metadata.creation_timestamp.clone();
    assert!(capacity(&[&evicted, &next], &[], &nodes()).missing.is_empty());
}

#[test]
fn an_address_of_the_sixth_version_is_bracketed() {
    let mut pod = read::<Pod>("pod-ready");
    pod.status.pod_ip = Some("fd00::7".to_owned());
    assert_eq!(replica(&pod).unwrap().address.as_deref(), Some("[fd00::7]:9000"));
}

#[test]
fn quantities_are_read_as_the_api_writes_them() {
    use super::nodes::{amount, in_words};
    for (text, value) in
        [("2", 2.0), ("1500m", 1.5), ("16Gi", 17_179_869_184.0), ("1e3", 1000.0), ("5M", 5e6)]
    {
        assert_eq!(amount(text), Some(value), "{text}");
    }
    for text in ["", "Gi", "-1", "1Q", "NaN", "inf", "1 Gi"] {
        assert_eq!(amount(text), None, "{text}");
    }
    assert_eq!(in_words("memory", 17_179_869_184.0), "16 GiB of memory");
    assert_eq!(in_words("memory", 1536.0 * 1024.0 * 1024.0), "1.5 GiB of memory");
    assert_eq!(in_words("cpu", 1.5), "1.5 CPU");
    assert_eq!(in_words("nvidia.com/mig-1g.5gb", 3.0), "3 × nvidia.com/mig-1g.5gb");
}

/// proves O.5
#[test]
fn condition_event_and_message_say_the_same() {
    let mut world: outrigger_plan::World = serde_json::from_value(serde_json::json!({
        "spec": {
            "key": "models/chat",
            "generation": 1,
            "spec": {
                "model": { "name": "chat" },
                "engine": { "image": "example.com/engine:1", "ports": { "http": 8000 } },
            },
        },
    }))
    .unwrap();
    let (pod, now) = (read::<Pod>("pod-gpu-short"), "2026-11-21T12:20:00Z".parse().unwrap());
    // The first plan writes what is to start; the second has its pods, which find no place.
    let first = outrigger_plan::plan(&world, now);
    world.status = first.status;
    world.replicas = vec![replica(&pod).unwrap()];
    world.replicas[0].revision = first.workloads[0].revision.clone();
    world.capacity = capacity(&[&pod], &[], &nodes());
    let plan = outrigger_plan::plan(&world, now);
    let words = "needs 1 × nvidia.com/gpu, 0 of 2 free";
    let condition = plan.status.conditions.iter().find(|condition| condition.type_ == "Blocked").unwrap();
    assert_eq!(condition.status, "True");
    assert!(condition.message.contains(words), "{condition:?}");
    assert_eq!(plan.status.message, format!("Blocked: {words}"));
    let event = plan.events.iter().find(|event| event.reason == "Blocked").unwrap();
    assert!(event.warning && event.message.contains(words), "{event:?}");
}
