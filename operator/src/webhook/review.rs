//! An AdmissionReview and its answer. Pure.

use super::{patch, validate};
use crate::pod::inject;
use crate::render::Installation;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::{Value, json};

/// The only version of reviews.
const API_VERSION: &str = "admission.k8s.io/v1";
/// The longest warning that clients show in full, in bytes.
const MAX_WARNING: usize = 256;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    request: Request,
}

/// What is to be admitted, as far as it is looked at. `dryRun` is not: nothing here has effects.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    uid: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
    pub(super) operation: String,
    #[serde(default)]
    pub(super) object: Option<Value>,
    #[serde(default)]
    pub(super) old_object: Option<Value>,
}

#[derive(Deserialize)]
struct Resource {
    resource: String,
}

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Webhook {
    /// Labelled pods get their sidecar.
    Inject,
    /// ModelDeployments that can't mean anything are refused.
    Validate,
}

impl Webhook {
    /// By its path.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            "/inject" => Some(Self::Inject),
            "/validate" => Some(Self::Validate),
            _ => None,
        }
    }

    /// The name in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Inject => "inject",
            Self::Validate => "validate",
        }
    }
}

/// What is decided.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// For metrics: what came of it, and of a refusal why.
    pub(super) result: &'static str,
    pub(super) reason: &'static str,
    /// Of a refusal: the HTTP status that the user sees, Kubernetes' word for it, and the message.
    pub(super) refusal: Option<(u16, &'static str, String)>,
    pub(super) patch: Vec<Value>,
    pub(super) warnings: Vec<String>,
}

impl Decision {
    /// It is let pass.
    pub(super) fn pass(result: &'static str) -> Self {
        Self { result, ..Self::default() }
    }

    /// What was sent makes no sense to this program.
    pub(super) fn unreadable(message: String) -> Self {
        let refusal = Some((400, "BadRequest", message));
        Self { result: "failed", reason: "unreadable", refusal, ..Self::default() }
    }

    /// It was read, and can't be.
    pub(super) fn invalid(reason: &'static str, message: String) -> Self {
        let refusal = Some((422, "Invalid", message));
        Self { result: "refused", reason, refusal, ..Self::default() }
    }
}

/// The answer to a review's bytes, with what is to be counted.
///
/// # Errors
///
/// Why these bytes are no review that could be answered.
pub(super) fn answer(
    webhook: Webhook,
    body: &[u8],
    installation: &Installation,
) -> Result<(Value, Decision), String> {
    let review: Review =
        serde_json::from_slice(body).map_err(|error| format!("no AdmissionReview: {error}"))?;
    if review.api_version != API_VERSION {
        let shown: String = review.api_version.chars().take(80).collect();
        return Err(format!("apiVersion: `{shown}` is not known; allowed: {API_VERSION}"));
    }
    let request = review.request;
    if request.uid.is_empty() || request.uid.len() > 256 {
        return Err("request.uid: missing or too long; expected: the review's name".to_owned());
    }
    let uid = request.uid.clone();
    let decision = match webhook {
        Webhook::Inject => inject(request, installation),
        Webhook::Validate => match request.of("modeldeployments") {
            true => validate::decide(request),
            false => Decision::pass("allowed"),
        },
    };
    Ok((written(&uid, &decision), decision))
}

impl Request {
    /// Whether it is about objects of this kind themselves.
    fn of(&self, resource: &str) -> bool {
        self.resource.resource == resource && self.sub_resource.as_deref().unwrap_or_default().is_empty()
    }
}

fn inject(request: Request, installation: &Installation) -> Decision {
    if !request.of("pods") || request.operation != "CREATE" {
        return Decision::pass("unchanged");
    }
    let pod: Pod = match serde_json::from_value(request.object.unwrap_or_default()) {
        Ok(pod) => pod,
        Err(error) => return Decision::unreadable(format!("the pod can't be read: {error}")),
    };
    let namespace = request.namespace.or_else(|| pod.metadata.namespace.clone()).unwrap_or_default();
    match inject::inject(&pod, &namespace, installation) {
        Ok(None) => Decision::pass("unchanged"),
        Err(refusal) => Decision::invalid(refusal.reason.as_str(), refusal.to_string()),
        Ok(Some(injected)) => {
            // What the API server has may hold more than was read: the patch is of what was read alone.
            let values = serde_json::to_value(&pod)
                .and_then(|before| Ok((before, serde_json::to_value(&injected.pod)?)));
            match values {
                Ok((before, after)) => Decision {
                    patch: patch::between(&before, &after),
                    warnings: injected.warnings,
                    ..Decision::pass("injected")
                },
                Err(error) => Decision::unreadable(format!("the pod can't be written: {error}")),
            }
        }
    }
}

fn written(uid: &str, decision: &Decision) -> Value {
    let mut response = json!({"uid": uid, "allowed": decision.refusal.is_none()});
    let mut set = |key: &str, value: Value| {
        if let Some(fields) = response.as_object_mut() {
            fields.insert(key.to_owned(), value);
        }
    };
    if let Some((code, reason, message)) = &decision.refusal {
        set("status", json!({"status": "Failure", "code": code, "reason": reason, "message": message}));
    }
    if !decision.patch.is_empty() {
        let bytes = Value::from(decision.patch.clone()).to_string().into_bytes();
        set("patchType", json!("JSONPatch"));
        set("patch", json!(ByteString(bytes)));
    }
    if !decision.warnings.is_empty() {
        set("warnings", decision.warnings.iter().map(|warning| cut(warning)).collect());
    }
    json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
}

fn cut(warning: &str) -> Value {
    let end = warning.floor_char_boundary(MAX_WARNING);
    json!(warning.get(..end))
}
