//! What the operator shows at `/metrics`. A deployment's series are what its last plan says, encoded when asked for:
//! what the plan does not know has no series, and with the deployment, or with the leadership, they are gone.

mod deployment;

use deployment::Snapshot;
use outrigger_plan::{Plan, Replica};
use outrigger_wire::DeploymentKey;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Seconds: from a look that finds nothing to do to one whose every request takes its longest.
const SECONDS: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfResult {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

/// The operator's metrics. Clones are one.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Family<OfResult, Counter>,
    seconds: Histogram,
    restarts: Family<OfKind, Counter>,
    events_dropped: Counter,
    leader: Gauge,
    upgrade_halted: Gauge,
    deployments: Deployments,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reconciles: Family::default(),
            seconds: Histogram::new(SECONDS),
            restarts: Family::default(),
            events_dropped: Counter::default(),
            leader: Gauge::default(),
            upgrade_halted: Gauge::default(),
            deployments: Deployments::default(),
        }
    }
}

impl Metrics {
    /// Shows them in this registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.deployments.clone()));
        let own = registry.sub_registry_with_prefix("outrigger_operator");
        own.register("leader", "1 on the replica that plans and writes", self.leader.clone());
        own.register(
            "sidecar_upgrade_halted",
            "1 on the replica that leads while no more pods are given a new sidecar, because its image could not be had \
             or did not work; an event of the pod says why",
            self.upgrade_halted.clone(),
        );
        let reconciles = self.reconciles.clone();
        own.register("reconciles", "Looks at a deployment, by how they ended", reconciles);
        let took = self.seconds.clone();
        own.register_with_unit("reconcile", "Time that a look at a deployment took", Unit::Seconds, took);
        let restarts = self.restarts.clone();
        own.register("watch_restarts", "Watches that broke and were started again, by kind", restarts);
        let dropped = self.events_dropped.clone();
        own.register("events_dropped", "Events that were not told for want of room or of an answer", dropped);
    }

    /// Whether this replica leads. Who doesn't shows no deployments: the leader does.
    pub fn led(&self, leader: bool) {
        self.leader.set(i64::from(leader));
        if !leader {
            self.deployments.inner().retain(|_, snapshot| snapshot.fade());
        }
    }

    /// What a plan says, once it is acted upon. `steps` is how many the spec has, `replicas` what was observed.
    pub fn deployment(&self, key: &DeploymentKey, plan: &Plan, steps: usize, replicas: &[Replica]) {
        self.deployments.inner().entry(key.clone()).or_default().take(plan, steps, replicas);
    }

    /// The deployment is gone.
    pub fn forget(&self, key: &DeploymentKey) {
        self.deployments.inner().remove(key);
    }

    /// A look at a deployment has ended.
    pub fn reconciled(&self, fine: bool, took: Duration) {
        let result = if fine { "success" } else { "error" };
        self.reconciles.get_or_create(&OfResult { result }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Whether a new sidecar is held back.
    pub fn upgrade_halted(&self, halted: bool) {
        self.upgrade_halted.set(i64::from(halted));
    }

    /// A watch of this kind broke and starts again.
    pub fn watch_restarted(&self, kind: &'static str) {
        self.restarts.get_or_create(&OfKind { kind }).inc();
    }

    /// An event was not told.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }
}

/// What each deployment's last plan says.
#[derive(Clone, Debug, Default)]
struct Deployments(Arc<Mutex<BTreeMap<DeploymentKey, Snapshot>>>);

impl Deployments {
    fn inner(&self) -> MutexGuard<'_, BTreeMap<DeploymentKey, Snapshot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Deployments {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.inner();
        if all.is_empty() {
            return Ok(());
        }
        for family in &deployment::FAMILIES {
            let counts = matches!(family.kind, MetricType::Counter);
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, family.kind)?;
            for (key, snapshot) in all.iter() {
                let (namespace, name) = key.as_str().split_once('/').unwrap_or(("", key.as_str()));
                let mut samples = deployment::Samples::default();
                (family.read)(snapshot, &mut samples);
                for (more, value) in samples.0 {
                    let mut labels = vec![("namespace", namespace), ("deployment", name)];
                    labels.extend(more.iter().map(|(name, value)| (*name, value.as_str())));
                    let sample = metric.encode_family(&labels);
                    match counts {
                        true => sample?.encode_counter::<[(&str, &str); 0], f64, f64>(&value, None)?,
                        false => sample?.encode_gauge(&value)?,
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
