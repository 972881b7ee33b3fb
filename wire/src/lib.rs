//! What a proxy is told and what it reports.
//!
//! These types are the contract between the planner (operator, `up`) and the proxies (gateway, sidecar). They
//! know nothing of Kubernetes, so that both halves upgrade apart and the proxies link no client of it. Hot fields
//! of the resource are defined here with their checks and embedded by `outrigger-crds`.
//!
//! Everything is serde; `JsonSchema` stands behind the feature `schema`, reading hand-written documents behind
//! `document`.

pub mod cohort;
#[cfg(feature = "document")]
pub mod document;
pub mod endpoint;
pub mod engine;
pub mod gaps;
pub mod histogram;
pub mod ids;
pub mod mistake;
pub mod quantity;
pub mod report;
pub mod routes;
pub mod serving;
pub mod stream;
pub mod traffic;

pub use endpoint::{
    EndpointConfig, EndpointReport, EngineState, EngineTrouble, RestartAsk, RestartOrder, Restarts,
};
pub use engine::EngineKind;
pub use gaps::{GAPS, GapCounter, GapCounts};
pub use histogram::Histogram;
pub use ids::{DeploymentKey, EndpointId, GatewayId, RevisionId};
pub use mistake::Mistake;
pub use quantity::{BasisPoints, Percent, Period};
pub use report::{DeploymentReport, GatewayReport, Outcome, RevisionReport, Stratum, StratumReport};
pub use routes::{Arm, Endpoint, Reference, RevisionRoute, Routes};
pub use serving::Serving;
pub use stream::{Change, Subscribe, Subscription};
pub use traffic::Traffic;
