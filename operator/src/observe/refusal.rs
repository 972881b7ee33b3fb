//! Why the API server would not have a pod: the message of a ReplicaSet's `ReplicaFailure`, in words.

use super::nodes::{amount, bare, in_words};
use super::words::{plain, sentence};
use outrigger_plan::Trouble;

/// A refusal in words. Its pods can't be had until somebody changes what refuses them.
pub(super) fn refusal(message: &str) -> Trouble {
    let text = plain(message);
    let why = match text.split_once(" is forbidden: ") {
        Some((subject, why)) if subject.starts_with("pods ") => why,
        _ => text.as_str(),
    };
    let found = exceeded(why).or_else(|| unspecified(why)).or_else(|| security(why)).or_else(|| webhook(why));
    let (reason, message) = found.unwrap_or_else(|| other(why));
    Trouble { reason: reason.to_owned(), message, blocks: true }
}

type Told = (&'static str, String);

/// `exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: …=2, limited: …=2`
fn exceeded(why: &str) -> Option<Told> {
    let rest = why.strip_prefix("exceeded quota: ")?;
    let (name, rest) = rest.split_once(", requested: ")?;
    let (requested, rest) = rest.split_once(", used: ")?;
    let (used, limited) = rest.split_once(", limited: ")?;
    let of = |list: &str, key: &str| {
        list.split(',').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=').and_then(amount))
    };
    let lines: Vec<String> = requested
        .split(',')
        .filter_map(|pair| {
            let (key, asked) = pair.split_once('=')?;
            let (asked, used, limit) = (amount(asked)?, of(used, key)?, of(limited, key)?);
            let resource = key.strip_prefix("requests.").unwrap_or(key);
            let (what, limits) = match resource.strip_prefix("limits.") {
                Some(resource) => (resource, "as limit "),
                None => (resource, ""),
            };
            let needs = in_words(what, asked);
            let (used, limit) = (bare(what, used), bare(what, limit));
            Some(format!("needs {limits}{needs}, {used} of {limit} used"))
        })
        .collect();
    let lines = if lines.is_empty() { sentence(why) } else { lines.join("; ") };
    Some(("QuotaExceeded", format!("quota {name} leaves too little: {lines}")))
}

/// `failed quota: gpus: must specify limits.cpu for: engine; limits.memory for: engine`
fn unspecified(why: &str) -> Option<Told> {
    let (name, rest) = why.strip_prefix("failed quota: ")?.split_once(": ")?;
    let rest = rest.strip_prefix("must specify ").unwrap_or(rest);
    Some((
        "QuotaExceeded",
        format!("quota {name} asks that these be set: {}", sentence(&rest.replace(" for: ", " of "))),
    ))
}

/// `violates PodSecurity "restricted:latest": runAsNonRoot != true (pod or container "engine" must set …)`
fn security(why: &str) -> Option<Told> {
    let (level, rest) = why.strip_prefix("violates PodSecurity \"")?.split_once("\": ")?;
    Some((
        "PodSecurity",
        format!("the namespace's Pod Security level {level} refuses it: {}", sentence(rest)),
    ))
}

/// `Internal error occurred: failed calling webhook "a.b.c": …`, `admission webhook "a.b.c" denied the request: …`
fn webhook(why: &str) -> Option<Told> {
    if let Some((_, rest)) = why.split_once("failed calling webhook \"") {
        let (name, rest) = rest.split_once('"')?;
        let rest = rest.trim_start_matches([':', ' ']);
        return Some(("WebhookFailed", format!("webhook {name} does not answer: {}", sentence(rest))));
    }
    let (_, rest) = why.split_once("admission webhook \"")?;
    let (name, rest) = rest.split_once("\" denied the request")?;
    let rest = rest.trim_start_matches([':', ' ']);
    Some(("Refused", format!("webhook {name} refuses it: {}", sentence(rest))))
}

fn other(why: &str) -> Told {
    let limit_range = ["usage per Container is", "usage per Pod is", "limit to request ratio per"];
    if limit_range.iter().any(|part| why.contains(part)) {
        let why = why.trim_start_matches('[').trim_end_matches(']');
        return ("LimitRange", format!("the namespace's limit range refuses it: {}", sentence(why)));
    }
    if why.contains("error looking up service account") {
        let name = why.rsplit("serviceaccount ").next().unwrap_or_default().replace(" not found", "");
        return ("NotFound", format!("service account {} does not exist", sentence(&name.replace('"', ""))));
    }
    if why.contains("because it is being terminated") {
        return ("NamespaceTerminating", "its namespace is being deleted".to_owned());
    }
    ("Refused", format!("the API server refuses its pods: {}", sentence(why)))
}
