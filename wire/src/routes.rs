//! What a gateway is told of one deployment.

use crate::serving::Timeouts;
use crate::{BasisPoints, DeploymentKey, EndpointId, Period, RevisionId, Traffic};
use serde::{Deserialize, Serialize};

/// Which of the two live revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Arm {
    /// The one that serves what the canary does not.
    Stable,
    /// The one that is tried.
    Canary,
}

/// The routes of one deployment: a pure function of the status that the leader wrote and of the endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Routes {
    /// Whose routes these are.
    pub deployment: DeploymentKey,
    /// Grows with every change of weights or revisions and never falls: a proxy refuses a lower one, so a server
    /// with an old cache can't undo a rollback. Endpoints may change while it stands. In a cluster it begins at the
    /// milliseconds of the object's creation, so that one made anew under the same name is above what it replaces.
    #[serde(default)]
    pub serial: u64,
    /// The name that the engines answer to; requests for an alias are rewritten to it.
    pub model: String,
    /// Further names under which clients may ask.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Cohort and breaker.
    #[serde(default)]
    pub traffic: Traffic,
    /// Bounds on the parts of a request.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// The most that an admitted request waits in a sidecar's queue; a gateway's first-byte bound allows for it.
    /// Where it isn't given: what a sidecar allows by default.
    #[serde(default = "default_max_queue_delay")]
    pub max_queue_delay: Period,
    /// The revision that serves; absent until the first one is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<RevisionRoute>,
    /// The revision that is tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<RevisionRoute>,
    /// The canary's share of callers.
    #[serde(default)]
    pub weight: BasisPoints,
    /// Latencies against which slow requests are counted; absent until stable's are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
}

fn default_max_queue_delay() -> Period {
    crate::serving::Admission::default().max_queue_delay
}

/// One live revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionRoute {
    /// Which one.
    pub revision: RevisionId,
    /// Its replicas that may be sent to: ready, warmed, not terminating.
    pub endpoints: Vec<Endpoint>,
}

/// One replica that may be sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Which one.
    pub id: EndpointId,
    /// Its sidecar, `address:port`.
    pub address: String,
}

/// Latencies of stable against which both revisions' requests are counted. Fixed before the requests that it
/// judges; a new one has a new generation and starts the counts anew, so that the test stays valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reference {
    /// Grows with every new reference of this deployment.
    pub generation: u32,
    /// Slower than this, in microseconds, is a slow first token: stable's 90th percentile.
    pub slow_micros: u64,
    /// Slower than this, in microseconds, is beyond the margin: `slow_micros` × (1 + margin).
    pub beyond_micros: u64,
}
