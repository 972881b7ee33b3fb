//! Revisions, kept in the cluster as ControllerRevisions: a rollback needs nobody's Git.

use super::metadata;
use crate::names;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use outrigger_crds::Engine;
use outrigger_plan::Revision;
use outrigger_wire::{DeploymentKey, RevisionId};
use serde::{Deserialize, Serialize};

/// What a ControllerRevision holds.
#[derive(Serialize, Deserialize)]
struct Data {
    engine: Engine,
    created: Timestamp,
}

/// The object that keeps a revision. Its data can't be changed afterwards: the API server sees to it.
pub fn controller_revision(uid: &str, key: &DeploymentKey, revision: &Revision) -> ControllerRevision {
    let name = names::of_revision(super::split(key).1, &revision.id);
    let data = Data { engine: revision.engine.clone(), created: revision.created };
    ControllerRevision {
        metadata: metadata(uid, key, name, Some(&revision.id)),
        // Texts, numbers and maps of them always have a JSON form.
        data: Some(RawExtension(serde_json::to_value(data).unwrap_or_default())),
        // Kubernetes wants a number that grows: `kubectl get controllerrevisions` sorts by it.
        revision: revision.created.as_second(),
    }
}

/// The revision that an object keeps.
///
/// # Errors
///
/// What keeps it from being read, in a sentence that names the object.
pub fn read_revision(object: &ControllerRevision) -> Result<Revision, String> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(names::REVISION));
    let id = label.ok_or_else(|| format!("ControllerRevision {name} has no label {}", names::REVISION))?;
    let data = object.data.as_ref().ok_or_else(|| format!("ControllerRevision {name} has no data"))?;
    let data = Data::deserialize(&data.0)
        .map_err(|e| format!("ControllerRevision {name} can't be read by this version: {e}"))?;
    Ok(Revision { id: RevisionId(id.clone()), created: data.created, engine: data.engine })
}
