//! What is shown of one deployment: taken from a plan, and turned into samples.

use outrigger_plan::{Outcome, Phase, Plan, Replica};
use outrigger_verdict::{Metric, MetricVerdict, Verdict};
use outrigger_wire::RevisionId;
use prometheus_client::metrics::MetricType;
use std::collections::BTreeMap;

/// What the last plan of one deployment says.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    /// Absent where this replica has not planned since it leads.
    shown: Option<Shown>,
    promoted: u32,
    rolled_back: u32,
}

#[derive(Clone, Debug, Default)]
struct Shown {
    outcome: Outcome,
    /// Desired, programmed, observed, as shares.
    weights: [Option<f64>; 3],
    /// The step from 1 while there is a canary; one more than there are is the taking over.
    step: Option<u32>,
    steps: usize,
    verdicts: Vec<MetricVerdict>,
    revisions: BTreeMap<RevisionId, Counts>,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    role: &'static str,
    wanted: u32,
    ready: u32,
}

impl Snapshot {
    pub(super) fn take(&mut self, plan: &Plan, steps: usize, replicas: &[Replica]) {
        for event in &plan.events {
            match event.reason.as_str() {
                "Promoted" => self.promoted += 1,
                "RolledBack" => self.rolled_back += 1,
                _ => {}
            }
        }
        let weights = &plan.weights;
        let share = |points: outrigger_wire::BasisPoints| points.fraction();
        // Between two rollouts the last one's stay: what it was rolled back for is asked afterwards.
        let now = if plan.verdicts.is_empty() { &plan.status.verdicts } else { &plan.verdicts };
        let verdicts = now.iter().map(|verdict| MetricVerdict { reason: String::new(), ..verdict.clone() });
        self.shown = Some(Shown {
            outcome: plan.outcome,
            weights: [
                Some(share(weights.desired)),
                weights.programmed.map(share),
                weights.observed.map(share),
            ],
            step: plan.status.canary.as_ref().map(|canary| canary.step + 1),
            steps,
            verdicts: verdicts.collect(),
            revisions: revisions(plan, replicas),
        });
    }

    /// Another leads: what is counted stays, for a counter must not fall; the rest is the leader's to show. Whether
    /// anything is left.
    pub(super) fn fade(&mut self) -> bool {
        self.shown = None;
        self.promoted + self.rolled_back > 0
    }
}

fn revisions(plan: &Plan, replicas: &[Replica]) -> BTreeMap<RevisionId, Counts> {
    let mut all: BTreeMap<RevisionId, Counts> = BTreeMap::new();
    let status = &plan.status;
    let stable = status.stable.as_ref().or(status.starting.as_ref().map(|starting| &starting.revision));
    let canary = status.canary.as_ref().map(|canary| &canary.revision);
    let named =
        stable.into_iter().chain(canary).chain(plan.workloads.iter().map(|workload| &workload.revision));
    for id in named.chain(replicas.iter().map(|replica| &replica.revision)) {
        let role = if Some(id) == stable {
            "stable"
        } else if Some(id) == canary {
            "canary"
        } else {
            "other"
        };
        all.entry(id.clone()).or_default().role = role;
    }
    for workload in &plan.workloads {
        all.entry(workload.revision.clone()).or_default().wanted += workload.replicas;
    }
    for replica in replicas.iter().filter(|replica| replica.phase == Phase::Ready) {
        all.entry(replica.revision.clone()).or_default().ready += 1;
    }
    all
}

type Labels = Vec<(&'static str, String)>;

/// Further labels and values.
#[derive(Debug, Default)]
pub(super) struct Samples(pub(super) Vec<(Labels, f64)>);

impl Samples {
    fn push<const N: usize>(&mut self, labels: [(&'static str, &str); N], value: f64) {
        let labels = labels.into_iter().map(|(name, value)| (name, value.to_owned()));
        self.0.push((labels.collect(), value));
    }
}

/// One metric of every deployment.
pub(super) struct OfDeployment {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    pub(super) read: fn(&Snapshot, &mut Samples),
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&Snapshot, &mut Samples)) -> OfDeployment {
    OfDeployment { name, help, kind: MetricType::Gauge, read }
}

/// All of them, in the order in which they are shown.
pub(super) const FAMILIES: [OfDeployment; 11] = [
    gauge("outrigger_deployment_phase", "1 for the phase that the deployment is in", |snapshot, out| {
        let Some(shown) = &snapshot.shown else { return };
        out.push([("phase", phase(shown.outcome))], 1.0);
    }),
    gauge(
        "outrigger_deployment_weight_ratio",
        "The canary's share of callers: desired, programmed into every gateway, observed in requests",
        |snapshot, out| {
            let Some(shown) = &snapshot.shown else { return };
            for (kind, weight) in ["desired", "programmed", "observed"].into_iter().zip(shown.weights) {
                if let Some(weight) = weight {
                    out.push([("kind", kind)], weight);
                }
            }
        },
    ),
    gauge(
        "outrigger_deployment_step",
        "The canary's step, from 1; one more than there are steps while it takes over",
        |snapshot, out| {
            if let Some(step) = snapshot.shown.as_ref().and_then(|shown| shown.step) {
                out.push([], f64::from(step));
            }
        },
    ),
    gauge("outrigger_deployment_steps", "How many steps a rollout has", |snapshot, out| {
        if let Some(shown) = &snapshot.shown {
            out.push([], shown.steps as f64);
        }
    }),
    gauge("outrigger_deployment_verdict", "1 for what an analysis says of the canary", |snapshot, out| {
        for verdict in verdicts(snapshot) {
            let labels = [("metric", metric(verdict.metric)), ("verdict", word(&verdict.verdict))];
            out.push(labels, 1.0);
        }
    }),
    gauge(
        "outrigger_deployment_evidence",
        "Evidence that the canary is worse, as log10 of the e-value; it fails at the bound",
        |snapshot, out| judged(snapshot, out, |verdict| verdict.evidence),
    ),
    gauge(
        "outrigger_deployment_evidence_bound",
        "The bound of evidence and of exclusion, as log10",
        |snapshot, out| judged(snapshot, out, |verdict| verdict.bound),
    ),
    gauge(
        "outrigger_deployment_excluded",
        "Evidence that degradation beyond the margin is excluded, as log10; it passes at the bound",
        |snapshot, out| judged(snapshot, out, |verdict| verdict.excluded),
    ),
    gauge("outrigger_deployment_replicas", "Replicas by revision, wanted and ready", |snapshot, out| {
        for (id, counts) in snapshot.shown.iter().flat_map(|shown| &shown.revisions) {
            for (state, count) in [("wanted", counts.wanted), ("ready", counts.ready)] {
                let labels = [("revision", id.as_str()), ("role", counts.role), ("state", state)];
                out.push(labels, f64::from(count));
            }
        }
    }),
    gauge(
        "outrigger_deployment_revision_info",
        "1 for the stable and the canary revision, to join others' metrics with",
        |snapshot, out| {
            for (id, counts) in snapshot.shown.iter().flat_map(|shown| &shown.revisions) {
                if counts.role != "other" {
                    out.push([("revision", id.as_str()), ("role", counts.role)], 1.0);
                }
            }
        },
    ),
    OfDeployment {
        name: "outrigger_deployment_rollouts",
        help: "Rollouts that have ended, by outcome",
        kind: MetricType::Counter,
        read: |snapshot, out| {
            out.push([("outcome", "promoted")], f64::from(snapshot.promoted));
            out.push([("outcome", "rolledBack")], f64::from(snapshot.rolled_back));
        },
    },
];

fn verdicts(snapshot: &Snapshot) -> impl Iterator<Item = &MetricVerdict> {
    snapshot.shown.iter().flat_map(|shown| &shown.verdicts)
}

fn judged(snapshot: &Snapshot, out: &mut Samples, value: fn(&MetricVerdict) -> f64) {
    for verdict in verdicts(snapshot) {
        out.push([("metric", metric(verdict.metric))], value(verdict));
    }
}

const fn phase(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Starting => "starting",
        Outcome::RollingOut => "rollingOut",
        Outcome::Serving => "serving",
        Outcome::RolledBack => "rolledBack",
        Outcome::Blocked => "blocked",
    }
}

const fn metric(metric: Metric) -> &'static str {
    match metric {
        Metric::Errors => "errors",
        Metric::TimeToFirstToken => "timeToFirstToken",
        Metric::Health => "health",
    }
}

const fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Undecided { .. } => "undecided",
        Verdict::NoData => "noData",
        Verdict::ProviderError => "providerError",
    }
}
