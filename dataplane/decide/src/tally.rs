//! A gateway's counting of outcomes: from single attempts to the cumulative report.
//!
//! Runs on the control thread alone. The data threads hand over small records; nothing here is on a request's way.

use outrigger_wire::{
    DeploymentReport, GapCounter, Histogram, Outcome, Reference, RevisionId, RevisionReport, Stratum,
    StratumReport,
};
use std::collections::BTreeMap;

/// Revisions that are kept per deployment. Two are live at any time and some drain; further ones are forgotten,
/// the longest untouched first.
const MAX_REVISIONS: usize = 16;
/// Serials whose assignments are kept: threads take up a new table within milliseconds of each other, so that at
/// most a few are under way at once.
const MAX_SERIALS: usize = 8;

/// What was counted of one deployment.
#[derive(Clone, Debug, Default)]
pub struct DeploymentTally {
    reference: Option<Reference>,
    revisions: BTreeMap<RevisionId, RevisionTally>,
    /// Requests by the serial under which the hash assigned them: to stable, to the canary.
    assigned: BTreeMap<u64, (u64, u64)>,
    /// Grows with every record, to tell which revision was touched last.
    clock: u64,
}

#[derive(Clone, Debug, Default)]
struct RevisionTally {
    strata: BTreeMap<Stratum, StratumTally>,
    touched: u64,
}

#[derive(Clone, Debug, Default)]
struct StratumTally {
    success: u64,
    failure: u64,
    backpressure: u64,
    cancelled: u64,
    failures: GapCounter,
    slow: GapCounter,
    beyond: GapCounter,
    first_token: Histogram,
    duration: Histogram,
}

/// What is in flight of one revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    /// Requests.
    pub count: u32,
    /// Age of the oldest, in milliseconds.
    pub oldest_millis: u64,
}

/// When the first token of an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstToken {
    /// After so many microseconds.
    Came(u64),
    /// Not within its bound.
    Overdue,
}

impl DeploymentTally {
    /// The latencies against which first tokens are counted from now on. A new generation starts those counts
    /// anew, so that no count mixes two references.
    pub fn set_reference(&mut self, reference: Option<Reference>) {
        let generation = |r: Option<Reference>| r.map_or(0, |r| r.generation);
        if generation(self.reference) != generation(reference) {
            for stratum in self.revisions.values_mut().flat_map(|r| r.strata.values_mut()) {
                stratum.slow = GapCounter::default();
                stratum.beyond = GapCounter::default();
            }
        }
        self.reference = reference;
    }

    /// An attempt's first token came, or is overdue. `generation` is that of the reference that stood when the
    /// attempt began: one that began earlier is not judged by a later reference.
    pub fn first_token(
        &mut self,
        revision: &RevisionId,
        stratum: Stratum,
        token: FirstToken,
        generation: u32,
    ) {
        let reference = self.reference.filter(|r| r.generation == generation);
        let tally = self.stratum(revision, stratum);
        if let FirstToken::Came(micros) = token {
            tally.first_token.record(micros);
        }
        if let Some(reference) = reference {
            let slower = |than: u64| match token {
                FirstToken::Came(micros) => micros > than,
                FirstToken::Overdue => true,
            };
            tally.slow.record(slower(reference.slow_micros));
            tally.beyond.record(slower(reference.beyond_micros));
        }
    }

    /// An attempt ended after `micros`.
    pub fn ended(&mut self, revision: &RevisionId, stratum: Stratum, outcome: Outcome, micros: u64) {
        let tally = self.stratum(revision, stratum);
        match outcome {
            Outcome::Success => {
                tally.success += 1;
                tally.failures.record(false);
                tally.duration.record(micros);
            }
            Outcome::Failure => {
                tally.failure += 1;
                tally.failures.record(true);
            }
            Outcome::Backpressure => tally.backpressure += 1,
            Outcome::Cancelled => tally.cancelled += 1,
        }
    }

    /// So many requests were assigned to stable and to the canary under this serial.
    pub fn assigned(&mut self, serial: u64, stable: u64, canary: u64) {
        let counts = self.assigned.entry(serial).or_default();
        *counts = (counts.0 + stable, counts.1 + canary);
        while self.assigned.len() > MAX_SERIALS {
            self.assigned.pop_first();
        }
    }

    /// The report, for the serial that all threads work by.
    pub fn report(
        &self,
        serial: u64,
        in_flight: &BTreeMap<RevisionId, InFlight>,
        ejected: Vec<RevisionId>,
    ) -> DeploymentReport {
        let (assigned_stable, assigned_canary) = self.assigned.get(&serial).copied().unwrap_or_default();
        let mut revisions: BTreeMap<RevisionId, RevisionReport> =
            self.revisions.iter().map(|(id, tally)| (id.clone(), tally.report())).collect();
        for (id, now) in in_flight {
            let report = revisions.entry(id.clone()).or_default();
            report.in_flight = now.count;
            report.oldest_millis = now.oldest_millis;
        }
        DeploymentReport {
            serial,
            assigned_stable,
            assigned_canary,
            reference: self.reference.map_or(0, |r| r.generation),
            revisions,
            ejected,
        }
    }

    fn stratum(&mut self, revision: &RevisionId, stratum: Stratum) -> &mut StratumTally {
        self.clock += 1;
        if !self.revisions.contains_key(revision) && self.revisions.len() >= MAX_REVISIONS {
            let oldest = self.revisions.iter().min_by_key(|(_, tally)| tally.touched);
            if let Some(id) = oldest.map(|(id, _)| id.clone()) {
                self.revisions.remove(&id);
            }
        }
        let tally = self.revisions.entry(revision.clone()).or_default();
        tally.touched = self.clock;
        tally.strata.entry(stratum).or_default()
    }
}

impl RevisionTally {
    fn report(&self) -> RevisionReport {
        let of = |tally: &StratumTally| StratumReport {
            success: tally.success,
            failure: tally.failure,
            backpressure: tally.backpressure,
            cancelled: tally.cancelled,
            failures: tally.failures.counts(),
            slow: tally.slow.counts(),
            beyond: tally.beyond.counts(),
            first_token: tally.first_token.clone(),
            duration: tally.duration.clone(),
        };
        let strata = self.strata.iter().map(|(&stratum, tally)| (stratum, of(tally))).collect();
        RevisionReport { strata, ..RevisionReport::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: Reference = Reference { generation: 1, slow_micros: 100, beyond_micros: 200 };

    fn id() -> RevisionId {
        "r1".into()
    }

    fn counted(tally: &DeploymentTally) -> StratumReport {
        let report = tally.report(1, &BTreeMap::new(), Vec::new());
        report.revisions.get(&id()).and_then(|r| r.strata.get(&Stratum::Short)).cloned().unwrap_or_default()
    }

    #[test]
    fn outcomes_go_to_their_columns() {
        let mut tally = DeploymentTally::default();
        for (outcome, times) in [
            (Outcome::Success, 4),
            (Outcome::Failure, 3),
            (Outcome::Backpressure, 2),
            (Outcome::Cancelled, 1),
        ] {
            (0..times).for_each(|_| tally.ended(&id(), Stratum::Short, outcome, 1_000));
        }
        let counted = counted(&tally);
        let columns = (counted.success, counted.failure, counted.backpressure, counted.cancelled);
        assert_eq!(columns, (4, 3, 2, 1));
        assert_eq!(counted.failures.trials[0], 7, "backpressure and leaving clients are no trials");
        assert_eq!(counted.failures.events[0], 3);
        assert_eq!(counted.duration.count(), 4, "how long a failure took is no latency");
    }

    #[test]
    fn first_tokens_are_counted_against_the_reference() {
        let mut tally = DeploymentTally::default();
        tally.set_reference(Some(REFERENCE));
        for token in [50, 150, 250].map(FirstToken::Came).into_iter().chain([FirstToken::Overdue]) {
            tally.first_token(&id(), Stratum::Short, token, 1);
        }
        let counted = counted(&tally);
        assert_eq!((counted.slow.trials[0], counted.slow.events[0]), (4, 3));
        assert_eq!((counted.beyond.trials[0], counted.beyond.events[0]), (4, 2));
        assert_eq!(counted.first_token.count(), 3);
    }

    #[test]
    fn a_new_reference_starts_its_counts_anew() {
        let mut tally = DeploymentTally::default();
        tally.first_token(&id(), Stratum::Short, FirstToken::Came(500), 0);
        assert_eq!(counted(&tally).slow.trials[0], 0, "nothing is judged without a reference");
        tally.set_reference(Some(REFERENCE));
        tally.ended(&id(), Stratum::Short, Outcome::Failure, 1);
        tally.first_token(&id(), Stratum::Short, FirstToken::Came(500), 1);
        tally.set_reference(Some(REFERENCE));
        assert_eq!(counted(&tally).slow.trials[0], 1, "the same one again changes nothing");
        tally.set_reference(Some(Reference { generation: 2, ..REFERENCE }));
        tally.first_token(&id(), Stratum::Short, FirstToken::Came(500), 1);
        let counted = counted(&tally);
        assert_eq!(
            counted.slow.trials[0], 0,
            "one that began under the old reference is not judged by the new"
        );
        assert_eq!((counted.failures.trials[0], counted.first_token.count()), (1, 3), "the rest stands");
        assert_eq!(tally.report(1, &BTreeMap::new(), Vec::new()).reference, 2);
    }

    #[test]
    fn assignments_belong_to_their_serial() {
        let mut tally = DeploymentTally::default();
        tally.assigned(1, 10, 1);
        tally.assigned(2, 5, 5);
        tally.assigned(1, 1, 1);
        let of = |serial| {
            let report = tally.report(serial, &BTreeMap::new(), Vec::new());
            (report.assigned_stable, report.assigned_canary)
        };
        assert_eq!((of(1), of(2), of(3)), ((11, 2), (5, 5), (0, 0)));
    }

    #[test]
    fn revisions_and_serials_are_bounded() {
        let mut tally = DeploymentTally::default();
        for i in 0..100u64 {
            tally.ended(&id(), Stratum::Short, Outcome::Success, 1);
            tally.ended(&format!("r-{i}").as_str().into(), Stratum::Short, Outcome::Success, 1);
            tally.assigned(i, 1, 0);
        }
        assert_eq!(tally.revisions.len(), MAX_REVISIONS);
        assert_eq!(counted(&tally).success, 100, "one that is in use stays");
        assert_eq!(tally.assigned.len(), MAX_SERIALS);
    }

    #[test]
    fn what_is_in_flight_is_reported_before_anything_ended() {
        let tally = DeploymentTally::default();
        let now = BTreeMap::from([(id(), InFlight { count: 3, oldest_millis: 4_500 })]);
        let report = tally.report(1, &now, vec![id()]);
        let revision = &report.revisions[&id()];
        assert_eq!((revision.in_flight, revision.oldest_millis), (3, 4_500));
        assert_eq!(report.ejected, [id()]);
    }
}
