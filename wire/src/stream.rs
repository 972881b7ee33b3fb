//! One protocol with two subscriptions: `gateway` (routes) and `endpoint/<id>` (hot fields).
//!
//! A proxy opens `POST /v1/stream` with a [`Subscribe`] and is answered with newline-delimited JSON, one
//! [`Change`] a line, for as long as both sides live. It names the versions that it has, so a stream resumes
//! against any other server. Reports and acknowledgements go to `POST /v1/reports`. Where the server asks for
//! certificates, a proxy gets one at `POST /v1/identity`.

use crate::{DeploymentKey, DeploymentReport, EndpointConfig, EndpointId, EndpointReport, GatewayId, Routes};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The path of the stream.
pub const STREAM_PATH: &str = "/v1/stream";
/// The path of reports.
pub const REPORTS_PATH: &str = "/v1/reports";
/// The path at which a token is exchanged for a certificate.
pub const IDENTITY_PATH: &str = "/v1/identity";
/// A server sends at least this often, if only a [`Change::Alive`]; a client that hears nothing for three times
/// as long takes the stream for dead and dials again.
pub const HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(2);

/// What a proxy wants to hear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscribe {
    /// As whom.
    pub subscription: Subscription,
    /// The versions that it already has, by key (deployment, or endpoint).
    #[serde(default)]
    pub have: BTreeMap<String, Version>,
}

/// As whom a proxy subscribes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Subscription {
    /// A gateway: all routes.
    Gateway(GatewayId),
    /// A sidecar: its own configuration.
    Endpoint(EndpointId),
}

/// The version of one value: the serial, and a hash of the content (endpoints may change while a serial stands).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// See [`Routes::serial`].
    pub serial: u64,
    /// Of the value's canonical JSON.
    pub content: u64,
}

impl Version {
    /// The version of a value whose JSON is this.
    pub fn of(serial: u64, json: &[u8]) -> Self {
        Self { serial, content: xxhash_rust::xxh3::xxh3_64(json) }
    }
}

/// One line of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// A deployment's routes are now these.
    Routes(Box<Routes>),
    /// The deployment is gone.
    Removed(DeploymentKey),
    /// The sidecar's configuration is now this.
    Endpoint(Box<EndpointConfig>),
    /// Everything that the subscriber lacked has been sent: what it holds is complete.
    Synced,
    /// Nothing changed; the stream lives.
    Alive,
}

/// What is sent to `POST /v1/reports`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Report {
    /// From a gateway.
    Gateway(Box<crate::GatewayReport>),
    /// From a sidecar.
    Endpoint(Box<EndpointReport>),
}

/// What is sent to `POST /v1/identity`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityRequest {
    /// The token of the proxy's service account, bound to its pod, for the audience `outrigger`.
    pub token: String,
    /// A request for a certificate (PKCS #10, PEM). Only its key counts: who the proxy is, the token says.
    pub csr: String,
}

/// Without the token, which must not get into a log.
impl std::fmt::Debug for IdentityRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityRequest").field("csr", &self.csr).finish_non_exhaustive()
    }
}

/// The answer to an [`IdentityRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityAnswer {
    /// The certificate, PEM.
    pub certificate: String,
    /// For how many seconds it holds from now: a length and not a time, since clocks differ.
    pub lifetime_seconds: u64,
}

/// Per deployment, what a gateway counted.
pub type DeploymentReports = BTreeMap<DeploymentKey, DeploymentReport>;
