//! Tells clients by which authorities they know the operator: a ConfigMap in each namespace with pods, and the
//! `caBundle` of the webhooks.

use crate::names;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fmt::Debug;

/// Keeps the ConfigMap [`names::CA_OBJECT`] of a namespace. `false`: the namespace is going or gone.
///
/// # Errors
/// The API server's.
pub async fn publish_bundle(client: &Client, namespace: &str, bundle: &str) -> kube::Result<bool> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": names::CA_OBJECT, "labels": {names::MANAGED_BY: names::OUTRIGGER}},
        "data": {names::CA_KEY: bundle},
    });
    let params = PatchParams::apply(names::FIELD_MANAGER).force();
    match api.patch(names::CA_OBJECT, &params, &Patch::Apply(&object)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 || is_ending(&status.message) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Nothing is made any more in a namespace that is being deleted.
fn is_ending(message: &str) -> bool {
    message.contains("because it is being terminated")
}

/// A configuration's webhooks as far as they matter here.
trait Webhooks {
    /// Names, and what each trusts.
    fn webhooks(&self) -> Vec<(String, Option<Vec<u8>>)>;
}

macro_rules! webhooks {
    ($kind:ty) => {
        impl Webhooks for $kind {
            fn webhooks(&self) -> Vec<(String, Option<Vec<u8>>)> {
                let all = self.webhooks.iter().flatten();
                all.map(|w| (w.name.clone(), w.client_config.ca_bundle.clone().map(|b| b.0))).collect()
            }
        }
    };
}
webhooks!(MutatingWebhookConfiguration);
webhooks!(ValidatingWebhookConfiguration);

/// Keeps `caBundle` of all webhooks of both configurations of this name; writes only where it differs. One that is
/// not there is none of ours.
///
/// # Errors
/// The API server's.
pub async fn keep_ca_bundle(client: &Client, name: &str, bundle: &str) -> kube::Result<()> {
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    keep(&mutating, name, bundle).await?;
    keep(&validating, name, bundle).await
}

async fn keep<K>(api: &Api<K>, name: &str, bundle: &str) -> kube::Result<()>
where
    K: Webhooks + Clone + Debug + DeserializeOwned + Serialize,
{
    let Some(object) = api.get_opt(name).await? else { return Ok(()) };
    let Some(patch) = ca_patch(&object.webhooks(), bundle) else { return Ok(()) };
    let params =
        PatchParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    api.patch(name, &params, &Patch::Strategic(&patch)).await.map(drop)
}

/// The patch that gives each webhook this bundle; webhooks are told apart by their names. `None` where all have it.
fn ca_patch(webhooks: &[(String, Option<Vec<u8>>)], bundle: &str) -> Option<serde_json::Value> {
    let bytes = k8s_openapi::ByteString(bundle.as_bytes().to_vec());
    let wrong: Vec<_> = webhooks
        .iter()
        .filter(|(_, has)| has.as_deref() != Some(bundle.as_bytes()))
        .map(|(name, _)| json!({"name": name, "clientConfig": {"caBundle": bytes}}))
        .collect();
    (!wrong.is_empty()).then(|| json!({"webhooks": wrong}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_patched() {
        let has = |name: &str, bundle: Option<&str>| (name.to_owned(), bundle.map(|b| b.as_bytes().to_vec()));
        assert_eq!(ca_patch(&[has("a", Some("x")), has("b", Some("x"))], "x"), None);
        let patch = ca_patch(&[has("a", Some("x")), has("b", None), has("c", Some("old"))], "x").unwrap();
        let expected = json!({"webhooks": [
            {"name": "b", "clientConfig": {"caBundle": "eA=="}},
            {"name": "c", "clientConfig": {"caBundle": "eA=="}},
        ]});
        assert_eq!(patch, expected);
    }
}
