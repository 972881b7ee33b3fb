//! The shape of the ModelDeployment API: types, documentation (the text of `kubectl explain`), schema and CEL.
//! What a field means beyond its shape is `outrigger-plan`'s.

pub mod rollout;
pub mod spec;
pub mod status;

pub use rollout::{Analysis, OnUndecided, Rollout, Step};
pub use spec::{Engine, Model, ModelDeployment, ModelDeploymentSpec, Ports, Process, Scale};
pub use status::ModelDeploymentStatus;
