//! What the API server takes of a client that does nothing else: the ceiling of every controller.

use super::api::{Server, Write, Wrote};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// The smallest object that there is, [`CONFIG_MAPS`] times. Nothing watches it, nothing follows from it.
pub(crate) async fn config_maps(server: &Server, namespace: &str, round: usize) -> Result<Wrote> {
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let write = move |at| {
        let name = format!("raw-{round}-{at}");
        Write::create(&path, &json!({"metadata": {"name": name}, "data": {"a": "b"}}))
    };
    server.write(CONFIG_MAPS, write).await
}

/// How many ConfigMaps one round writes.
const CONFIG_MAPS: usize = 3_000;

/// A kind of object that the operator makes: where it is in the API.
const KINDS: [(&str, &str, &str); 4] = [
    ("apps/v1", "controllerrevisions", "ControllerRevision"),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
    ("apps/v1", "replicasets", "ReplicaSet"),
    ("v1", "services", "Service"),
];

/// Where objects of a kind are.
pub(crate) fn collection(version: &str, namespace: &str, plural: &str) -> String {
    let api = if version.contains('/') { "apis" } else { "api" };
    format!("/{api}/{version}/namespaces/{namespace}/{plural}")
}

/// How many objects of each kind that the operator makes there are.
pub(crate) async fn counts(server: &Server, namespace: &str) -> Result<Vec<(&'static str, usize)>> {
    let mut counts = Vec::new();
    for (version, plural, _) in KINDS {
        let path = format!("{}?resourceVersion=0", collection(version, namespace, plural));
        let list = server.get(&path, true).await?;
        let count = list.pointer("/items").and_then(Value::as_array).map_or(0, Vec::len);
        counts.push((plural, count));
    }
    Ok(counts)
}

/// Applies the very objects that the operator made for one deployment in `from`, `count` times under other names in
/// `into`, by the same kind of request.
pub(crate) async fn same_objects(server: &Server, from: &str, into: &str, count: usize) -> Result<Wrote> {
    let mut models = Vec::new();
    for (version, plural, kind) in KINDS {
        let list = server.get(&format!("{}?limit=1", collection(version, from, plural)), false).await?;
        let found = list.pointer("/items/0").with_context(|| format!("{from} has no {plural}"))?;
        models.push((collection(version, into, plural), bare(found, version, kind)?));
    }
    let write = move |at: usize| {
        let name = format!("raw-{}", at / KINDS.len());
        let Some((path, model)) = models.get(at % KINDS.len()) else {
            return Write::create("", &Value::Null);
        };
        let mut object = model.clone();
        if let Some(place) = object.pointer_mut("/metadata/name") {
            *place = json!(name);
        }
        Write::apply(&format!("{path}/{name}"), &object)
    };
    server.write(count * KINDS.len(), write).await
}

/// An object as it would be applied: without what the API server fills in, and nobody's.
fn bare(found: &Value, version: &str, kind: &str) -> Result<Value> {
    let mut object = found.clone();
    let labels = found.pointer("/metadata/labels").cloned().unwrap_or_else(|| json!({}));
    let fields = object.as_object_mut().context("no object")?;
    fields.remove("status");
    fields.insert("apiVersion".to_owned(), json!(version));
    fields.insert("kind".to_owned(), json!(kind));
    fields.insert("metadata".to_owned(), json!({"name": "", "labels": labels}));
    if let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) {
        // Drawn anew for each Service.
        for name in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            spec.remove(name);
        }
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_the_server_filled_in_is_not_written_again() {
        let found = json!({
            "metadata": {"name": "a", "uid": "u", "labels": {"x": "y"}, "ownerReferences": [{}], "resourceVersion": "1"},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}, "status": {"loadBalancer": {}},
        });
        let wanted = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "", "labels": {"x": "y"}},
            "spec": {"ports": [{"port": 80}]},
        });
        assert_eq!(bare(&found, "v1", "Service").unwrap(), wanted);
    }
}
