//! The world of one machine: from what the store, the children and the reports say.

use super::store::Stored;
use jiff::Timestamp;
use outrigger_crds::ModelDeploymentSpec;
use outrigger_plan::{Capacity, Declared, Evidence, Gateway, Replica, Trouble, World};
use outrigger_verdict::Baselines;
use outrigger_wire::{GatewayId, GatewayReport};
use std::collections::BTreeMap;

/// What was observed, beside what is stored.
pub(crate) struct Observed<'a> {
    pub(crate) replicas: Vec<Replica>,
    /// The newest report of each gateway.
    pub(crate) reports: &'a BTreeMap<GatewayId, GatewayReport>,
    /// Gateways whose stream lives.
    pub(crate) live: Vec<GatewayId>,
    /// What keeps the gateway from running.
    pub(crate) gateway: Option<Trouble>,
    pub(crate) baselines: &'a Baselines,
}

/// The world, for `spec` as it is declared now.
pub(crate) fn world(
    stored: &Stored,
    spec: &ModelDeploymentSpec,
    observed: Observed<'_>,
    now: Timestamp,
) -> World {
    let (key, status) = (&stored.deployment, &stored.status);
    let canary = status.canary.as_ref().map(|canary| &canary.revision);
    let delta = observed.baselines.delta(key, status.stable.as_ref(), canary, now);
    let first_token = |stable| observed.baselines.first_token(key, stable);
    let stable_first_token = status.stable.as_ref().map(first_token).unwrap_or_default();
    World {
        spec: Declared {
            key: key.clone(),
            generation: stored.generation,
            created: Default::default(),
            spec: spec.clone(),
        },
        status: status.clone(),
        revisions: stored.revisions.clone(),
        replicas: observed.replicas,
        gateways: gateways(stored, observed.reports, &observed.live),
        capacity: Capacity { missing: Vec::new(), gateway: observed.gateway },
        evidence: Evidence { delta, stable_first_token },
        // There is no cluster whose people could ask for anything.
        action: None,
    }
}

/// Gateways that live or reported; one that has not reported yet works by no routes.
fn gateways(
    stored: &Stored,
    reports: &BTreeMap<GatewayId, GatewayReport>,
    live: &[GatewayId],
) -> Vec<Gateway> {
    let mut ids: Vec<&GatewayId> = reports.keys().chain(live).collect();
    ids.sort();
    ids.dedup();
    let gateway = |id: &GatewayId| {
        let report = reports.get(id).and_then(|report| report.deployments.get(&stored.deployment));
        let report = report.cloned().unwrap_or_default();
        Gateway {
            id: id.clone(),
            live: live.contains(id),
            serial: report.serial,
            assigned_stable: report.assigned_stable,
            assigned_canary: report.assigned_canary,
            ejected: report.ejected,
        }
    };
    ids.into_iter().map(gateway).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_wire::DeploymentReport;

    fn stored() -> Stored {
        let spec =
            serde_json::from_value(serde_json::json!({"model": {"name": "demo"}, "engine": {}})).unwrap();
        let mut stored = Stored::new("default/demo".into(), spec);
        stored.status.stable = Some("aaaaaaaaaa".into());
        stored
    }

    fn report(gateway: &str) -> (GatewayId, GatewayReport) {
        let deployment = DeploymentReport { serial: 4, assigned_stable: 3, ..Default::default() };
        let deployments = [("default/demo".into(), deployment)].into();
        (gateway.into(), GatewayReport { gateway: gateway.into(), deployments, ..Default::default() })
    }

    fn observe(reports: &BTreeMap<GatewayId, GatewayReport>, live: &[&str]) -> World {
        let observed = Observed {
            replicas: Vec::new(),
            reports,
            live: live.iter().map(|id| (*id).into()).collect(),
            gateway: None,
            baselines: &Baselines::default(),
        };
        let stored = stored();
        world(&stored, &stored.spec, observed, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_gateway_without_a_report_works_by_no_routes() {
        let world = observe(&BTreeMap::new(), &["gateway"]);
        assert_eq!(world.gateways.len(), 1);
        assert!(world.gateways[0].live);
        assert_eq!(world.gateways[0].serial, 0);
    }

    #[test]
    fn a_gateway_that_left_is_known_and_not_live() {
        let world = observe(&BTreeMap::from([report("gone")]), &["gateway"]);
        let found: Vec<_> = world.gateways.iter().map(|g| (g.id.as_str(), g.live, g.serial)).collect();
        assert_eq!(found, [("gateway", true, 0), ("gone", false, 4)]);
    }
}
