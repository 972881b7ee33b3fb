//! From cumulative reports to what came since the verdict's state was last stored.

use jiff::Timestamp;
use outrigger_wire::{DeploymentKey, GatewayReport, RevisionId, RevisionReport};
use serde::{Deserialize, Serialize};

/// What gateways counted of both revisions since the state was stored, over all gateways.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Delta {
    /// The reference generation of the slow and beyond counts.
    pub reference: u32,
    /// The stable revision's.
    pub stable: RevisionReport,
    /// The canary's.
    pub canary: RevisionReport,
    /// Seconds since the state was stored, for rates and ETAs.
    pub seconds: f64,
    /// Gateways whose reports are in.
    pub gateways: u32,
}

/// The baselines of the cumulative counters, in the leader's memory. A first report of a gateway's incarnation
/// that was running before the leader is its baseline: nothing is counted twice.
#[derive(Debug, Default)]
pub struct Baselines {}

impl Baselines {
    /// Takes in a gateway's report.
    pub fn absorb(&mut self, _report: &GatewayReport, _now: Timestamp) {}

    /// What came for these two revisions since [`Self::stored`] was last called for the deployment.
    pub fn delta(
        &self,
        _deployment: &DeploymentKey,
        _stable: Option<&RevisionId>,
        _canary: Option<&RevisionId>,
        _now: Timestamp,
    ) -> Delta {
        Delta::default()
    }

    /// The state into which the present delta went has been stored: from here on the next delta counts.
    pub fn stored(&mut self, _deployment: &DeploymentKey, _now: Timestamp) {}
}
