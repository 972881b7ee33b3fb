//! What keeps replicas from being had: shortages in one's own words with the numbers, everything else in the
//! scheduler's and the API server's, shortened.

use super::nodes::{Amount, Left, Nodes, bare, draining, in_words, needs};
use super::refusal::refusal;
use super::replica::has_ended;
use super::trouble::turned_away;
use super::types::{Pod, ReplicaSet, condition};
use super::words::{counted, plain, sentence};
use outrigger_plan::{Capacity, Trouble};
use std::cmp::Reverse;

/// Resources that are counted in pieces of which one node has few, and for which the words say more than the others'.
fn is_accelerator(resource: &str) -> bool {
    resource.contains('/') && !resource.contains("kubernetes.io/")
}

/// What can't be had, what says most first; each once.
///
/// `pods` and `sets` are those of one deployment. What is free is exact where `nodes` knows what is taken; else it is
/// what the scheduler's answer implies.
pub fn capacity(pods: &[&Pod], sets: &[&ReplicaSet], nodes: &Nodes) -> Capacity {
    let mut missing: Vec<Trouble> = Vec::new();
    let waiting = pods.iter().filter(|pod| !has_ended(pod) && pod.metadata.deletion_timestamp.is_none());
    missing.extend(waiting.filter_map(|pod| unschedulable(pod, pods, nodes)));
    let living = sets.iter().filter(|set| set.metadata.deletion_timestamp.is_none());
    missing.extend(living.filter_map(|set| refused(set)));
    missing.extend(latest_turned_away(pods));
    missing.sort_by_key(|trouble| Reverse(rank(trouble)));
    let mut told: Vec<Trouble> = Vec::new();
    for trouble in missing {
        if told.iter().all(|before| before.message != trouble.message) {
            told.push(trouble);
        }
    }
    Capacity { missing: told, gateway: None }
}

/// What can be acted on first: a refusal names the very limit, a shortage the very number.
fn rank(trouble: &Trouble) -> (bool, u8) {
    let says = match trouble.reason.as_str() {
        "InsufficientResources" => 3,
        "TurnedAway" | "Unschedulable" => 1,
        "Draining" | "Evicted" | "NodeLost" => 0,
        _ => 2,
    };
    (trouble.blocks, says)
}

fn refused(set: &ReplicaSet) -> Option<Trouble> {
    let failure =
        condition(&set.status.conditions, "ReplicaFailure").filter(|failure| failure.status == "True")?;
    // A failed deletion keeps no replica from being had.
    let created = failure.reason.as_deref() == Some("FailedCreate");
    created.then(|| refusal(failure.message.as_deref().unwrap_or_default()))
}

/// The newest pod of its revision was turned away by its node: its replacement, if there is one, fares no better yet.
fn latest_turned_away(pods: &[&Pod]) -> Option<Trouble> {
    let born = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let set =
        |pod: &Pod| pod.metadata.owner_references.iter().flatten().map(|owner| owner.uid.clone()).next();
    let last = pods
        .iter()
        .filter(|pod| pod.status.phase.as_deref() == Some("Failed"))
        .max_by_key(|pod| born(pod))?;
    let replaced = pods.iter().any(|other| {
        let alive = !has_ended(other) && other.metadata.deletion_timestamp.is_none();
        alive && set(other) == set(last) && born(other) >= born(last)
    });
    if replaced { None } else { turned_away(last) }
}

fn unschedulable(pod: &Pod, all: &[&Pod], nodes: &Nodes) -> Option<Trouble> {
    let scheduled = condition(&pod.status.conditions, "PodScheduled")?;
    if scheduled.status != "False" {
        return None;
    }
    let message = plain(scheduled.message.as_deref().unwrap_or_default());
    match scheduled.reason.as_deref() {
        Some("Unschedulable") => Some(in_vain(pod, &Answer::read(&message), all, nodes)),
        Some("SchedulingGated") => {
            let message = format!("held back by a scheduling gate: {}", sentence(&message));
            Some(Trouble { reason: "SchedulingGated".to_owned(), message, blocks: true })
        }
        Some("SchedulerError") => {
            let message = format!("the scheduler failed: {}", sentence(&message));
            Some(Trouble { reason: "SchedulerError".to_owned(), message, blocks: true })
        }
        _ => None,
    }
}

/// The scheduler's answer: `0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) were unschedulable.
/// preemption: ...`
struct Answer {
    /// How many nodes were looked at.
    nodes: u32,
    /// Resources of which too little is free, with the number of nodes where that is so.
    short: Vec<(u32, String)>,
    /// The other reasons, in words.
    other: Vec<String>,
    /// Everything, where it has another form.
    whole: String,
}

impl Answer {
    fn read(message: &str) -> Self {
        let whole = without_preemption(message);
        let mut answer = Self { nodes: 0, short: Vec::new(), other: Vec::new(), whole: sentence(whole) };
        let Some((head, reasons)) = whole.split_once(" nodes are available: ") else { return answer };
        answer.nodes = head.rsplit('/').next().and_then(|all| all.parse().ok()).unwrap_or(0);
        for reason in split_reasons(reasons) {
            let (count, text) = match reason.split_once(' ') {
                Some((count, text)) if count.parse::<u32>().is_ok() => (count.parse().unwrap_or(0), text),
                _ => (0, reason.as_str()),
            };
            match text.strip_prefix("Insufficient ") {
                Some(resource) => answer.short.push((count, resource.trim().to_owned())),
                None if text == "Too many pods" => answer.short.push((count, "pods".to_owned())),
                None => answer.other.push(other_reason(count, text)),
            }
        }
        answer
    }
}

/// Whether others could be thrown out for it is the scheduler's own affair.
fn without_preemption(message: &str) -> &str {
    let ends = [" preemption:", " no new claims to deallocate"];
    let end = ends.iter().filter_map(|end| message.find(end)).min();
    end.and_then(|end| message.get(..end)).unwrap_or(message).trim_end_matches([' ', ',', '.'])
}

/// Reasons are separated by commas, which also stand within taints' braces and within selectors.
fn split_reasons(text: &str) -> Vec<String> {
    let mut reasons: Vec<String> = Vec::new();
    let mut depth = 0i32;
    for piece in text.split(", ") {
        let begins = depth == 0 && piece.split(' ').next().is_some_and(|word| word.parse::<u32>().is_ok());
        match reasons.last_mut() {
            Some(last) if !begins => {
                last.push_str(", ");
                last.push_str(piece);
            }
            _ => reasons.push(piece.to_owned()),
        }
        depth += piece.matches('{').count() as i32 - piece.matches('}').count() as i32;
    }
    reasons
}

/// `2 node(s) didn't match Pod's node affinity/selector` → `2 nodes don't match its node selector or affinity`.
fn other_reason(count: u32, text: &str) -> String {
    if let Some(claim) = text.strip_prefix("persistentvolumeclaim \"") {
        let name = claim.split('"').next().unwrap_or_default();
        return format!("PersistentVolumeClaim {name} does not exist");
    }
    if text.starts_with("pod has unbound immediate PersistentVolumeClaims") {
        return "a PersistentVolumeClaim of it is not bound to a volume".to_owned();
    }
    let Some(rest) = text.strip_prefix("node(s) ") else {
        return if count > 0 { format!("{count} {text}") } else { text.to_owned() };
    };
    let who = if count > 0 { counted(count, "node") } else { "nodes".to_owned() };
    let (does, has, is) = if count == 1 { ("doesn't", "has", "is") } else { ("don't", "have", "are") };
    let what = match rest {
        "didn't match Pod's node affinity/selector" => format!("{does} match its node selector or affinity"),
        "were unschedulable" | "is/are unschedulable" => format!("{is} cordoned"),
        "didn't match pod affinity rules" => format!("{does} match its pod affinity"),
        "didn't match pod anti-affinity rules" => format!("{is} excluded by its pod anti-affinity"),
        "didn't match pod topology spread constraints" => format!("{is} excluded by its topology spread"),
        "had volume node affinity conflict" | "didn't match PersistentVolume's node affinity" => {
            format!("{does} reach its volume")
        }
        "didn't have free ports for the requested pod ports" => format!("{has} no such host port free"),
        other => match taint(other) {
            Some(taint) => taint_in_words(taint, has, is),
            None => other.to_owned(),
        },
    };
    format!("{who} {what}")
}

/// What stands in the braces of `had untolerated taint {key: value}` (or, since 1.34, `taint(s)`).
fn taint(text: &str) -> Option<&str> {
    let (before, rest) = text.split_once('{')?;
    before.contains("untolerated taint").then(|| rest.split('}').next().unwrap_or_default().trim())
}

fn taint_in_words(taint: &str, has: &str, is: &str) -> String {
    let (key, value) = taint.split_once(':').unwrap_or((taint, ""));
    match key.trim() {
        "node.kubernetes.io/unreachable" => format!("{is} unreachable"),
        "node.kubernetes.io/not-ready" => format!("{is} not ready"),
        "node.kubernetes.io/unschedulable" => format!("{is} cordoned"),
        "node.kubernetes.io/disk-pressure" => format!("{has} too little disk"),
        "node.kubernetes.io/memory-pressure" => format!("{has} too little memory"),
        key if value.trim().is_empty() => format!("{has} the taint {key}, which it does not tolerate"),
        key => format!("{has} the taint {key}={}, which it does not tolerate", value.trim()),
    }
}

/// A pod for which the scheduler found no node.
fn in_vain(pod: &Pod, answer: &Answer, all: &[&Pod], nodes: &Nodes) -> Trouble {
    let wants = needs(&pod.spec);
    let mut short: Vec<(bool, String)> = Vec::new();
    let mut drains = !answer.short.is_empty();
    for (count, resource) in &answer.short {
        let need = wants.get(resource).copied().unwrap_or_default();
        let left = nodes.left(resource);
        let everywhere = answer.nodes > 0 && *count >= answer.nodes;
        short.push((
            is_accelerator(resource),
            shortage(resource, need, &left, everywhere, nodes.is_counted()),
        ));
        drains &= need > 0.0 && draining(all, resource) >= need;
    }
    if short.is_empty() {
        let message = match answer.other.as_slice() {
            [] => answer.whole.clone(),
            reasons => format!("no node fits: {}", sentence(&reasons.join("; "))),
        };
        return Trouble { reason: reason_of(&message).to_owned(), message, blocks: true };
    }
    short.sort_by_key(|(accelerator, _)| Reverse(*accelerator));
    let mut parts: Vec<String> = short.into_iter().map(|(_, text)| text).collect();
    parts.extend(answer.other.iter().map(|reason| sentence(reason)));
    let mut message = parts.join("; ");
    if drains {
        // Held by the deployment's own replicas that finish what is in flight: given back soon.
        message.push_str("; replicas that drain will give it back");
    }
    let reason = if drains { "Draining" } else { "InsufficientResources" };
    Trouble { reason: reason.to_owned(), message, blocks: !drains }
}

fn reason_of(message: &str) -> &'static str {
    let lower = message.to_lowercase();
    let volume = lower.contains("persistentvolumeclaim") || lower.contains("volume");
    if volume { "VolumeNotFound" } else { "Unschedulable" }
}

/// `needs 1 × nvidia.com/gpu, 0 of 2 free`.
fn shortage(resource: &str, need: Amount, left: &Left, everywhere: bool, counted_usage: bool) -> String {
    if resource == "pods" {
        return "every node has as many pods as it may".to_owned();
    }
    let needs = format!("needs {}", in_words(resource, need));
    if left.nodes == 0 {
        return format!("{needs}, no node has any");
    }
    if need > left.largest {
        return format!("{needs} on one node, the largest has {}", bare(resource, left.largest));
    }
    let total = bare(resource, left.total);
    let out = if left.out > 0.0 && left.out <= left.total {
        format!(" ({} on nodes that take no pods)", bare(resource, left.out))
    } else {
        String::new()
    };
    if counted_usage {
        if left.free < need {
            return format!("{needs}, {} of {total} free{out}", bare(resource, left.free));
        }
        if left.freest < need {
            let (best, free) = (bare(resource, left.freest), bare(resource, left.free));
            return format!("{needs} on one node, {best} free on the best ({free} of {total} in all){out}");
        }
        return format!("{needs}, none of the {} free where it may run{out}", bare(resource, left.free));
    }
    // The scheduler found less than what is needed on each node; of a single piece, that is none.
    match (need <= 1.0 && is_accelerator(resource), everywhere) {
        (true, true) => format!("{needs}, 0 of {total} free{out}"),
        (true, false) => format!("{needs}, none of {total} free where it may run{out}"),
        (false, _) => format!("{needs} on one node, none has so much free ({total} in all){out}"),
    }
}
