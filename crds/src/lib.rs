//! The shape of the ModelDeployment API: types, documentation (the text of `kubectl explain`), schema and CEL.
//! What a field means beyond its shape is `outrigger-plan`'s.

pub mod pod;
pub mod rollout;
mod schema;
pub mod spec;
pub mod status;

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
pub use pod::{Claim, PodTemplate, Quantity, Resources};
pub use rollout::{Analysis, OnUndecided, Rollout, Step};
pub use schema::NAME_PATTERN;
pub use spec::{Engine, Model, ModelDeployment, ModelDeploymentSpec, Ports, Process, Scale};
pub use status::ModelDeploymentStatus;

/// `apiVersion` of the resource.
pub const API_VERSION: &str = "outrigger.dev/v1alpha1";
/// `kind` of the resource.
pub const KIND: &str = "ModelDeployment";

/// What names a deployment: a part of host names, and with a revision's hash behind it still one.
pub const DEPLOYMENT_NAME_PATTERN: &str = "^[a-z]([a-z0-9-]*[a-z0-9])?$";
/// The longest name of a deployment: with `-` and the ten digits of a revision it is a label of 63 characters.
pub const MAX_DEPLOYMENT_NAME: usize = 52;

/// The CustomResourceDefinition, as it is installed into a cluster.
pub fn definition() -> impl serde::Serialize {
    // Types of ours always have a JSON form.
    let crd = serde_json::to_value(<ModelDeployment as kube::CustomResourceExt>::crd());
    schema::whole(crd.unwrap_or_default())
}
