//! From planned workloads to Kubernetes objects: pure and deterministic, so that the same plan is applied as the same
//! bytes and a difference in the cluster is somebody's edit.

mod engine;
mod objects;
mod revisions;
mod template;

use crate::names;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{PodTemplateSpec, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use outrigger_crds::{API_VERSION, KIND, ModelDeploymentSpec, ModelDeploymentStatus};
use outrigger_plan::Workload;
use outrigger_wire::{DeploymentKey, Mistake, RevisionId};
use std::collections::BTreeMap;

pub use revisions::{controller_revision, read_revision};

/// What is the same for all deployments of one installation.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The operator's namespace.
    pub namespace: String,
    /// The operator as sidecars reach it, `host:port`.
    pub table: String,
    /// The sidecar's image.
    pub sidecar_image: String,
    /// When the sidecar's image is pulled; Kubernetes' own rule when absent.
    pub pull_policy: Option<String>,
}

/// What is rendered.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The ModelDeployment's uid, for owner references.
    pub uid: &'a str,
    /// `namespace/name`.
    pub key: &'a DeploymentKey,
    /// Its spec, checked.
    pub spec: &'a ModelDeploymentSpec,
    /// Its status, as it was planned.
    pub status: &'a ModelDeploymentStatus,
    /// How many replicas of which revision.
    pub workloads: &'a [Workload],
    /// The installation.
    pub installation: &'a Installation,
}

/// All objects of one deployment but its ControllerRevisions.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// The stable revision, for callers without a gateway.
    pub service: Service,
    /// What may be evicted at once. None: there are fewer than two replicas, and an eviction is never refused.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// Who reaches the pods where.
    pub network_policy: NetworkPolicy,
    /// One per workload, in the workloads' order.
    pub replica_sets: Vec<ReplicaSet>,
}

/// The objects of one deployment.
///
/// # Errors
///
/// What in `engine.podTemplate` can't be brought together with what the sidecar needs. A spec that was checked has
/// next to nothing of it; what an older version stored may.
pub fn render(input: &Input<'_>) -> Result<Objects, Vec<Mistake>> {
    let mut replica_sets = Vec::with_capacity(input.workloads.len());
    let mut mistakes = Vec::new();
    for workload in input.workloads {
        match template::template(input, workload) {
            Ok(template) => replica_sets.push(replica_set(input, workload, template)),
            Err(found) => mistakes
                .extend(found.into_iter().filter(|mistake| !mistakes.contains(mistake)).collect::<Vec<_>>()),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    Ok(Objects {
        service: objects::service(input),
        disruption_budget: objects::disruption_budget(input),
        network_policy: objects::network_policy(input, &replica_sets),
        replica_sets,
    })
}

/// `namespace/name`, apart.
fn split(key: &DeploymentKey) -> (&str, &str) {
    key.as_str().split_once('/').unwrap_or(("default", key.as_str()))
}

/// The ModelDeployment as owner: its objects are collected with it. Nothing blocks its deletion, and so no finalizer
/// is needed, nor the right to set one.
fn owner(uid: &str, key: &DeploymentKey) -> OwnerReference {
    OwnerReference {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        name: split(key).1.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// The labels of everything of a deployment, those of one revision among them where it is about one.
fn labels(key: &DeploymentKey, revision: Option<&RevisionId>) -> BTreeMap<String, String> {
    let name = split(key).1;
    let mut labels: BTreeMap<String, String> =
        [(names::MANAGED_BY, names::OUTRIGGER), (names::APP_NAME, name), (names::DEPLOYMENT, name)]
            .map(|(label, value)| (label.to_owned(), value.to_owned()))
            .into();
    labels.extend(revision.map(|revision| (names::REVISION.to_owned(), revision.to_string())));
    labels
}

/// What finds the pods of a deployment, or of one revision of it.
fn selector(key: &DeploymentKey, revision: Option<&str>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([(names::DEPLOYMENT.to_owned(), split(key).1.to_owned())]);
    labels.extend(revision.map(|revision| (names::REVISION.to_owned(), revision.to_owned())));
    labels
}

fn label_selector(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), match_expressions: None }
}

fn metadata(uid: &str, key: &DeploymentKey, name: String, revision: Option<&RevisionId>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(split(key).0.to_owned()),
        labels: Some(labels(key, revision)),
        owner_references: Some(vec![owner(uid, key)]),
        ..ObjectMeta::default()
    }
}

fn replica_set(input: &Input<'_>, workload: &Workload, template: PodTemplateSpec) -> ReplicaSet {
    let revision = &workload.revision;
    let name = names::of_revision(split(input.key).1, revision);
    ReplicaSet {
        metadata: metadata(input.uid, input.key, name, Some(revision)),
        spec: Some(ReplicaSetSpec {
            replicas: Some(i32::try_from(workload.replicas).unwrap_or(i32::MAX)),
            selector: label_selector(selector(input.key, Some(revision.as_str()))),
            template: Some(template),
            ..ReplicaSetSpec::default()
        }),
        status: None,
    }
}
