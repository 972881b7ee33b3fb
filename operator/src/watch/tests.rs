//! What the index knows after events in any order.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use super::index::Index;
use super::kept::key;
use crate::names;
use crate::observe::Pod;
use k8s_openapi::api::core::v1::Service;
use kube::core::PartialObjectMeta;
use kube_runtime::watcher::Event;
use outrigger_crds::ObjectMeta;
use serde_json::json;

fn pod(name: &str, deployment: &str, version: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {
        "name": name, "namespace": "team", "uid": name, "resourceVersion": version,
        "labels": {names::DEPLOYMENT: deployment, names::REVISION: "1"},
    }}))
    .unwrap()
}

/// Somebody takes a pod aside to look into it: it is no replica of its deployment from then on, and nothing of it stays
/// when it ends.
#[test]
fn a_pod_that_is_given_another_label_leaves_its_deployment() {
    let index = Index::default();
    let (chat, aside) = (key("team", "chat"), key("team", "aside"));
    assert_eq!(index.take(Event::Apply(pod("one", "chat", "1"))), std::slice::from_ref(&chat));
    assert_eq!(index.take(Event::Apply(pod("one", "aside", "2"))), [chat.clone(), aside.clone()]);
    assert!(index.entry(&chat).pods.is_empty());
    assert_eq!(index.entry(&aside).pods.len(), 1);
    assert_eq!(index.take(Event::Delete(pod("one", "aside", "3"))), std::slice::from_ref(&aside));
    assert!(index.entry(&aside).pods.is_empty());
    // Of which deployment it was is not known from its last word alone.
    index.take(Event::Apply(pod("two", "chat", "4")));
    assert_eq!(index.take(Event::Delete(pod("two", "aside", "5"))), std::slice::from_ref(&chat));
    assert!(index.entry(&chat).pods.is_empty());
}

/// proves O.3
#[test]
fn an_object_whose_label_was_taken_away_is_known_by_its_owner() {
    let index = Index::default();
    let mut meta: ObjectMeta = serde_json::from_value(json!({
        "name": "chat", "namespace": "team", "uid": "s", "resourceVersion": "7",
        "labels": {names::DEPLOYMENT: "chat"},
        "ownerReferences": [{"apiVersion": "outrigger.dev/v1alpha1", "kind": "ModelDeployment", "name": "chat",
            "uid": "m", "controller": true}],
    }))
    .unwrap();
    let service = |meta: &ObjectMeta| PartialObjectMeta::<Service> {
        metadata: meta.clone(),
        ..PartialObjectMeta::default()
    };
    index.take(Event::Apply(service(&meta)));
    let before = index.entry(&key("team", "chat")).services["chat"].value;
    meta.labels = None;
    meta.resource_version = Some("8".to_owned());
    assert_eq!(index.take(Event::Apply(service(&meta))), [key("team", "chat")]);
    let after = index.entry(&key("team", "chat")).services["chat"].value;
    assert_ne!(before, after, "which makes it be applied again");
    assert_eq!(after.owner, super::kept::owner(&meta));
    assert!(after.owner.is_some());
}
