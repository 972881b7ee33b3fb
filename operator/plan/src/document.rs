//! A ModelDeployment file: read, checked, named.

use crate::world::Declared;
use crate::{validate, world};
use outrigger_crds::{API_VERSION, KIND, MAX_DEPLOYMENT_NAME, ModelDeploymentSpec, ObjectMeta};
use outrigger_wire::document::{self, Document};
use outrigger_wire::{DeploymentKey, Mistake};
use serde::Deserialize;

/// The namespace where a file names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The longest part of a host name.
const MAX_LABEL: usize = 63;

/// The resource as a file has it: without a status, which nobody writes by hand.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    spec: ModelDeploymentSpec,
    /// Of an object that was read from a cluster; not looked at.
    #[serde(default, rename = "status")]
    _status: Option<serde_json::Value>,
}

/// A file that was read and in which nothing is wrong.
#[derive(Debug)]
pub struct Declaration {
    /// `namespace/name`.
    pub key: DeploymentKey,
    /// What it wants.
    pub spec: ModelDeploymentSpec,
    document: Document<()>,
}

impl Declaration {
    /// Gives later mistakes their lines.
    pub fn locate(&self, mistakes: Vec<Mistake>) -> Vec<Mistake> {
        self.document.locate(mistakes)
    }

    /// The world's half that is wanted, in its `generation`.
    pub fn declared(&self, generation: i64) -> Declared {
        world::Declared {
            key: self.key.clone(),
            generation,
            created: Default::default(),
            spec: self.spec.clone(),
        }
    }
}

/// Reads a ModelDeployment file. Every mistake of shape at once, and when there is none, every mistake of meaning
/// at once, each with path and line.
pub fn read(bytes: &[u8]) -> Result<Declaration, Vec<Mistake>> {
    let document = document::read_bytes::<File>(bytes)?;
    let (file, document) = document.split();
    let mut mistakes = Vec::new();
    let key = head(&file, &mut mistakes);
    mistakes.extend(validate::mistakes(&file.spec));
    if mistakes.is_empty() {
        Ok(Declaration { key, spec: file.spec, document })
    } else {
        Err(document.locate(mistakes))
    }
}

/// What stands above `spec`.
fn head(file: &File, mistakes: &mut Vec<Mistake>) -> DeploymentKey {
    if file.api_version != API_VERSION {
        mistakes.push(Mistake::new(
            "apiVersion",
            format!("`{}` is not known; allowed: {API_VERSION}", file.api_version),
        ));
    }
    if file.kind != KIND {
        mistakes.push(Mistake::new("kind", format!("`{}` is not known; allowed: {KIND}", file.kind)));
    }
    let name = file.metadata.name.as_deref().unwrap_or_default();
    let namespace = file.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    for (path, text, most) in
        [("metadata.name", name, MAX_DEPLOYMENT_NAME), ("metadata.namespace", namespace, MAX_LABEL)]
    {
        if let Some(message) = label_mistake(text, most) {
            mistakes.push(Mistake::new(path, message));
        }
    }
    if label_mistake(name, MAX_DEPLOYMENT_NAME).is_none()
        && !name.starts_with(|c: char| c.is_ascii_lowercase())
    {
        let message =
            format!("`{name}` begins with a digit, and its Service can't; allowed: a small letter first");
        mistakes.push(Mistake::new("metadata.name", message));
    }
    DeploymentKey(format!("{namespace}/{name}"))
}

/// Names are parts of host names (RFC 1123), as everywhere in Kubernetes.
fn label_mistake(text: &str, most: usize) -> Option<String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let whole = !text.is_empty() && text.len() <= most && text.chars().all(inner);
    if text.is_empty() {
        return Some("this field is required and missing".to_owned());
    }
    if whole && !text.starts_with('-') && !text.ends_with('-') {
        return None;
    }
    let shown: String = text.chars().take(80).collect();
    Some(format!("`{shown}` is no name; allowed: 1 to {most} small letters, digits and - between them"))
}
