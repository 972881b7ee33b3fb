//! The control thread's books: snapshots given out and acknowledged, outcomes, the revisions' breakers, the report.
//!
//! Synchronous, with the time as an argument; `control` gives it a thread.

use crate::metrics::{Metrics, RevisionMetrics};
use crate::record::{Counters, Record, Standing, Taken};
use crate::snapshot::{Builder, Deployment, Revision, Snapshot};
use outrigger_decide::breaker::{Admits, Breaker};
use outrigger_decide::tally::{DeploymentTally, FirstToken, InFlight};
use outrigger_table::Table;
use outrigger_wire::traffic::CircuitBreaker;
use outrigger_wire::{DeploymentKey, GatewayId, GatewayReport, RevisionId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(test)]
mod tests;

/// How long a revision or deployment that left the table is still reported and shown: its streams end within
/// minutes, and a scraper that comes every minute sees the last of them.
const KEPT_FOR: Duration = Duration::from_secs(15 * 60);

/// The books.
#[derive(Debug)]
pub(crate) struct Ledger {
    gateway: GatewayId,
    incarnation: u64,
    sequence: u64,
    builder: Builder,
    current: Arc<Snapshot>,
    acknowledged: Arc<Snapshot>,
    revisions: BTreeMap<u32, Known>,
    deployments: BTreeMap<u32, Counted>,
    /// What is in flight, by thread.
    standing: Vec<Vec<Standing>>,
    counters: Vec<Counters>,
    metrics: Metrics,
}

/// A revision that is, or lately was, in the table.
#[derive(Debug)]
struct Known {
    revision: Arc<Revision>,
    deployment: u32,
    is_canary: bool,
    settings: CircuitBreaker,
    breaker: Breaker,
    metrics: RevisionMetrics,
    gone_since: Option<Instant>,
}

#[derive(Debug)]
struct Counted {
    key: DeploymentKey,
    tally: DeploymentTally,
    gone_since: Option<Instant>,
}

impl Ledger {
    /// Empty books of one incarnation (a random number) of this gateway with so many data threads.
    pub(crate) fn new(gateway: GatewayId, incarnation: u64, threads: usize, metrics: Metrics) -> Self {
        let mut builder = Builder::default();
        let (snapshot, _) = builder.build(&Table::default(), false);
        let empty = Arc::new(snapshot);
        Self {
            gateway,
            incarnation,
            sequence: 0,
            builder,
            current: Arc::clone(&empty),
            acknowledged: empty,
            revisions: BTreeMap::new(),
            deployments: BTreeMap::new(),
            standing: vec![Vec::new(); threads],
            counters: vec![Counters::default(); threads],
            metrics,
        }
    }

    /// The snapshot that is given out.
    pub(crate) fn current(&self) -> &Arc<Snapshot> {
        &self.current
    }

    /// The snapshot that all threads work by.
    pub(crate) fn acknowledged(&self) -> &Arc<Snapshot> {
        &self.acknowledged
    }

    /// A table was heard, or read from disk or a file: the snapshot to give out, and what in the table can't be
    /// used, in words.
    pub(crate) fn take_table(&mut self, table: &Table, now: Instant) -> (Arc<Snapshot>, Vec<String>) {
        let known = table.live || !table.routes.is_empty();
        let (snapshot, trouble) = self.builder.build(table, known || self.current.known);
        let snapshot = Arc::new(snapshot);
        self.metrics.table_live(table.live);
        for known in self.revisions.values_mut() {
            known.gone_since.get_or_insert(now);
        }
        for counted in self.deployments.values_mut() {
            counted.gone_since.get_or_insert(now);
        }
        for deployment in &snapshot.deployments {
            self.know(deployment);
        }
        self.current = Arc::clone(&snapshot);
        (snapshot, trouble)
    }

    fn know(&mut self, deployment: &Deployment) {
        let counted = self.deployments.entry(deployment.number).or_insert_with(|| Counted {
            key: deployment.routes.deployment.clone(),
            tally: DeploymentTally::default(),
            gone_since: None,
        });
        counted.gone_since = None;
        counted.tally.set_reference(deployment.routes.reference);
        let sides = [(deployment.stable.as_ref(), false), (deployment.canary.as_ref(), true)];
        for (side, is_canary) in sides {
            let Some(side) = side else { continue };
            let metrics = &self.metrics;
            let known = self.revisions.entry(side.revision.number).or_insert_with(|| Known {
                metrics: metrics.revision(side.revision.deployment.as_str(), side.revision.id.as_str()),
                revision: Arc::clone(&side.revision),
                deployment: deployment.number,
                is_canary,
                settings: CircuitBreaker::default(),
                breaker: Breaker::default(),
                gone_since: None,
            });
            known.gone_since = None;
            known.settings = deployment.routes.traffic.circuit_breaker.clone();
            if known.is_canary != is_canary {
                // Another part, another record: what was counted as canary says nothing against it as stable,
                // which nobody could stand in for anyway.
                known.is_canary = is_canary;
                known.breaker = Breaker::default();
                known.revision.gate.close();
            }
        }
    }

    /// Takes in what a data thread put down.
    pub(crate) fn absorb(&mut self, thread: usize, taken: &Taken, now: Instant) {
        if taken.dropped > 0 {
            self.metrics.dropped(taken.dropped);
        }
        for record in &taken.records {
            self.enter(record, now);
        }
        if let Some(standing) = self.standing.get_mut(thread) {
            standing.clone_from(&taken.standing);
        }
        if let Some(counters) = self.counters.get_mut(thread) {
            *counters = taken.counters;
        }
    }

    /// What each thread held when it last looked.
    pub(crate) fn counters(&self) -> &[Counters] {
        &self.counters
    }

    fn enter(&mut self, record: &Record, now: Instant) {
        match *record {
            Record::Assigned { deployment, serial, arm } => {
                if let Some(counted) = self.deployments.get_mut(&deployment) {
                    let canary = u64::from(arm == outrigger_wire::Arm::Canary);
                    counted.tally.assigned(serial, 1 - canary, canary);
                }
            }
            Record::First { revision, stratum, token, generation } => {
                let Some(known) = self.revisions.get(&revision) else { return };
                if let FirstToken::Came(micros) = token {
                    known.metrics.first_token.observe(micros as f64 / 1e6);
                }
                if let Some(counted) = self.deployments.get_mut(&known.deployment) {
                    counted.tally.first_token(&known.revision.id, stratum, token, generation);
                }
            }
            Record::Ended { revision, stratum, outcome, signal, probe, micros } => {
                let Some(known) = self.revisions.get_mut(&revision) else { return };
                known.metrics.outcome(outcome).inc();
                if outcome == outrigger_wire::Outcome::Success {
                    known.metrics.duration.observe(micros as f64 / 1e6);
                }
                if let Some(counted) = self.deployments.get_mut(&known.deployment) {
                    counted.tally.ended(&known.revision.id, stratum, outcome, micros);
                }
                if known.is_canary {
                    known.breaker.record(signal, probe, &known.settings, now);
                }
            }
            Record::Retried { revision } => {
                if let Some(known) = self.revisions.get(&revision) {
                    known.metrics.retries.inc();
                }
            }
            Record::FellBack { revision } => {
                if let Some(known) = self.revisions.get(&revision) {
                    known.metrics.fallbacks.inc();
                }
            }
            Record::Refused { reason } => self.metrics.refused(reason),
        }
    }

    /// Sets the gates as the breakers say; returns when to do so again, if any is open.
    pub(crate) fn set_gates(&mut self, now: Instant) -> Option<Instant> {
        let mut again: Option<Instant> = None;
        for known in self.revisions.values_mut().filter(|known| known.is_canary) {
            let open_for = known.settings.open_for.get();
            let gate = &known.revision.gate;
            match known.breaker.admits(&known.settings, now) {
                Admits::Yes => gate.close(),
                Admits::No => gate.open_unless_probing(),
                Admits::Probe => {
                    gate.let_one_through();
                    known.breaker.probe(now);
                }
            }
            let ejected = known.breaker.is_open();
            known.metrics.ejected.set(i64::from(ejected));
            if ejected {
                let due = now + open_for.min(Duration::from_millis(50));
                again = Some(again.map_or(due, |at| at.min(due)));
            }
        }
        again
    }

    /// All threads work by this version or a later one; true when that is news.
    pub(crate) fn acknowledge(&mut self, version: u64) -> bool {
        if version < self.current.version || self.acknowledged.version == self.current.version {
            return false;
        }
        self.acknowledged = Arc::clone(&self.current);
        for deployment in &self.acknowledged.deployments {
            let routes = &deployment.routes;
            self.metrics.programmed(routes.deployment.as_str(), routes.serial, routes.weight.fraction());
        }
        true
    }

    /// The report as of now.
    pub(crate) fn report(&mut self, now: Instant) -> GatewayReport {
        self.forget(now);
        self.sequence += 1;
        let in_flight = self.in_flight(now);
        let mut report = GatewayReport {
            gateway: self.gateway.clone(),
            incarnation: self.incarnation,
            sequence: self.sequence,
            ..GatewayReport::default()
        };
        let none = BTreeMap::new();
        for deployment in &self.acknowledged.deployments {
            let Some(counted) = self.deployments.get(&deployment.number) else { continue };
            let ejected = self.revisions.values().filter(|known| {
                known.deployment == deployment.number && known.is_canary && known.breaker.is_open()
            });
            let ejected = ejected.filter(|known| known.gone_since.is_none());
            let ejected = ejected.map(|known| known.revision.id.clone()).collect();
            let standing = in_flight.get(&deployment.number).unwrap_or(&none);
            let counted = counted.tally.report(deployment.routes.serial, standing, ejected);
            report.deployments.insert(deployment.routes.deployment.clone(), counted);
        }
        report
    }

    /// What is in flight, over all threads, by deployment and revision.
    fn in_flight(&self, now: Instant) -> BTreeMap<u32, BTreeMap<RevisionId, InFlight>> {
        let mut sums: BTreeMap<u32, BTreeMap<RevisionId, InFlight>> = BTreeMap::new();
        for standing in self.standing.iter().flatten() {
            let Some(known) = self.revisions.get(&standing.revision) else { continue };
            let sum = sums.entry(known.deployment).or_default().entry(known.revision.id.clone()).or_default();
            let age = now.saturating_duration_since(standing.oldest).as_millis();
            sum.count += standing.count;
            sum.oldest_millis = sum.oldest_millis.max(u64::try_from(age).unwrap_or(u64::MAX));
        }
        for known in self.revisions.values() {
            let sum = sums.get(&known.deployment).and_then(|of| of.get(&known.revision.id));
            known.metrics.in_flight.set(sum.map_or(0, |sum| i64::from(sum.count)));
        }
        sums
    }

    /// Lets go of what left the table long ago.
    fn forget(&mut self, now: Instant) {
        let is_old = |gone: Option<Instant>| gone.is_some_and(|at| now.duration_since(at) > KEPT_FOR);
        let metrics = &self.metrics;
        self.revisions.retain(|_, known| {
            let old = is_old(known.gone_since);
            if old {
                metrics.forget(&known.metrics);
            }
            !old
        });
        self.deployments.retain(|_, counted| {
            let old = is_old(counted.gone_since);
            if old {
                metrics.forget_deployment(counted.key.as_str());
            }
            !old
        });
    }
}
