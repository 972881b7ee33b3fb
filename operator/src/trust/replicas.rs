//! Which pods are replicas, as far as the watches have shown it.

use crate::names;
use crate::watch::{Index, kept};
use outrigger_wire::EndpointId;

/// Whether the pod of this uid is a replica: it says of which ModelDeployment, and that one is declared beside it. Who
/// may make pods in its namespace may well make one that says so; nobody can in other namespaces.
pub fn is_replica(index: &Index, uid: &EndpointId) -> bool {
    let pods = index.pods();
    let pod = pods.iter().find(|pod| pod.metadata.uid.as_deref() == Some(uid.as_str()));
    let of = pod.and_then(|pod| {
        let name = pod.metadata.labels.as_ref()?.get(names::DEPLOYMENT)?;
        Some(kept::key(pod.metadata.namespace.as_deref()?, name))
    });
    of.is_some_and(|key| index.entry(&key).declared().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Pod;
    use kube::core::DeserializeGuard;
    use kube_runtime::watcher::Event;
    use outrigger_crds::ModelDeployment;
    use serde_json::json;

    #[test]
    fn a_replica_is_a_pod_of_a_deployment_that_is_declared() {
        let index = Index::default();
        let known = |uid: &str| is_replica(&index, &uid.into());
        let pod = |uid: &str, namespace: &str| {
            let labels = json!({names::DEPLOYMENT: "chat"});
            let meta = json!({"name": uid, "namespace": namespace, "uid": uid, "labels": labels});
            let pod: Pod = serde_json::from_value(json!({"metadata": meta})).unwrap();
            index.take(Event::Apply(pod));
        };
        pod("ours", "team");
        pod("theirs", "elsewhere");
        assert!(!known("ours"), "not declared, or not heard of yet");
        let object = json!({
            "apiVersion": "outrigger.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "chat", "namespace": "team", "uid": "u"},
            "spec": {"model": {"name": "m"}, "engine": {"image": "x"}},
        });
        let declared: DeserializeGuard<ModelDeployment> = serde_json::from_value(object).unwrap();
        index.take(Event::Apply(declared));
        assert!(known("ours"));
        assert!(!known("theirs"), "a label alone makes no replica");
        assert!(!known("another"));
    }
}
