//! From cumulative reports to what came since the verdict's state was last stored.

use crate::rates::{Recent, Window};
use jiff::{SignedDuration, Timestamp};
use outrigger_wire::{
    DeploymentKey, DeploymentReport, GapCounts, GatewayId, GatewayReport, Histogram, RevisionId,
    RevisionReport, StratumReport,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

#[cfg(test)]
mod tests;

/// Incarnations of gateways that are remembered. Beyond it the one unheard for longest is forgotten; should it be
/// heard again, that report is a baseline.
const MOST_GATEWAYS: usize = 1024;
/// Deployments that are remembered, for each incarnation and in all.
const MOST_DEPLOYMENTS: usize = 4096;
/// Revisions of one deployment that are remembered: two are live, some drain.
const MOST_REVISIONS: usize = 32;
/// Pieces of what isn't stored yet. A state is stored every 10 s while a canary is tried; without one nobody asks,
/// and the pieces are put together.
const MOST_PIECES: usize = 64;
/// A gateway unheard for longer doesn't count as reporting: thirty times the usual interval.
const FRESH: SignedDuration = SignedDuration::from_secs(30);
/// A leader younger than this may hear late what another has already counted and stored: a report is given up
/// after a few seconds, and newer ones have replaced it by then.
const SETTLED: SignedDuration = SignedDuration::from_secs(30);
/// First tokens after which a revision's distribution starts a new half, so that it follows the last 5 000 to
/// 10 000: a 90th percentile of these is known to within 3 % of its rank.
const FIRST_TOKENS: u64 = 5_000;

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

/// The baselines of the cumulative counters, in the leader's memory; each term of a leader begins with new ones.
///
/// The first report that is heard of an incarnation is its baseline: what it counted before may stand in a stored
/// state already. Only the very first report of an incarnation (sequence 1) counts from zero, once this leader has
/// listened for 30 s: nobody else can have counted it. So nothing is counted twice, and of a gateway that dies what
/// came after its last report is lost.
///
/// This rests on how gateways report: one report is under way at a time, and only the newest is tried again. So what
/// a new leader hears first of an incarnation is no older than what the one before heard.
#[derive(Debug, Default)]
pub struct Baselines {
    began: Option<Timestamp>,
    gateways: BTreeMap<(GatewayId, u64), Incarnation>,
    deployments: BTreeMap<DeploymentKey, Counted>,
}

/// One run of a gateway.
#[derive(Debug)]
struct Incarnation {
    sequence: u64,
    heard: Timestamp,
    last: BTreeMap<DeploymentKey, DeploymentReport>,
}

/// What was counted of one deployment.
#[derive(Debug, Default)]
struct Counted {
    /// The reference generation of the slow and beyond counts in `pieces`.
    reference: u32,
    /// When the state was stored last, or when the first report came.
    since: Option<Timestamp>,
    heard: Option<Timestamp>,
    /// What isn't stored yet, by the time at which it was heard.
    pieces: VecDeque<(Timestamp, BTreeMap<RevisionId, RevisionReport>)>,
    revisions: BTreeMap<RevisionId, Total>,
    recent: Recent,
}

/// What was ever heard of one revision.
#[derive(Debug, Default)]
struct Total {
    counts: StratumReport,
    /// First tokens of late, in two halves.
    first_token: [Histogram; 2],
}

impl Baselines {
    /// Takes in a gateway's report. One that was heard before, or is older than another of the same incarnation,
    /// changes nothing.
    pub fn absorb(&mut self, report: &GatewayReport, now: Timestamp) {
        let began = *self.began.get_or_insert(now);
        let settled = now.duration_since(began) >= SETTLED;
        let key = (report.gateway.clone(), report.incarnation);
        let before = self.gateways.remove(&key);
        let stranger = before.is_none();
        let mut incarnation =
            before.unwrap_or(Incarnation { sequence: 0, heard: now, last: BTreeMap::new() });
        if stranger || report.sequence > incarnation.sequence {
            incarnation.sequence = report.sequence;
            incarnation.heard = now;
            let from_zero = !stranger || (settled && report.sequence == 1);
            for (deployment, counted) in &report.deployments {
                self.take(&mut incarnation.last, deployment, counted, from_zero, now);
            }
        }
        // An earlier run of the gateway may be heard a little late; it is kept for as long.
        self.gateways
            .retain(|(id, _), known| *id != report.gateway || now.duration_since(known.heard) <= SETTLED);
        self.gateways.insert(key, incarnation);
        while self.gateways.len() > MOST_GATEWAYS {
            let longest =
                self.gateways.iter().min_by_key(|(_, known)| known.heard).map(|(key, _)| key.clone());
            longest.map(|key| self.gateways.remove(&key));
        }
    }

    fn take(
        &mut self,
        last: &mut BTreeMap<DeploymentKey, DeploymentReport>,
        deployment: &DeploymentKey,
        counted: &DeploymentReport,
        from_zero: bool,
        now: Timestamp,
    ) {
        if !last.contains_key(deployment) && last.len() >= MOST_DEPLOYMENTS {
            return;
        }
        if !self.deployments.contains_key(deployment) && self.deployments.len() >= MOST_DEPLOYMENTS {
            let longest = self.deployments.iter().min_by_key(|(_, known)| known.heard);
            longest.map(|(key, _)| key.clone()).map(|key| self.deployments.remove(&key));
        }
        let sums = self.deployments.entry(deployment.clone()).or_default();
        sums.since.get_or_insert(now);
        sums.heard = Some(now);
        sums.advance(counted.reference);
        // A deployment that left a report for a while comes back with its counts, so the last ones are kept.
        let known = last.contains_key(deployment);
        let last = last.entry(deployment.clone()).or_default();
        for (revision, report) in &counted.revisions {
            let before = last.revisions.get(revision);
            if before.is_none() && last.revisions.len() >= MOST_REVISIONS {
                let gone = last.revisions.keys().find(|id| !counted.revisions.contains_key(*id)).cloned();
                let Some(gone) = gone else { continue };
                last.revisions.remove(&gone);
            }
            let before = last.revisions.get(revision);
            let same = before.is_some() && last.reference == counted.reference;
            let came = since(report, before, same, counted.reference == sums.reference);
            sums.add(revision, came, known || from_zero, now);
            last.revisions.insert(revision.clone(), report.clone());
        }
        // Of a revision that isn't in this report, slow counts of another reference would be taken for this one's.
        if last.reference != counted.reference {
            let others = last.revisions.iter_mut().filter(|(id, _)| !counted.revisions.contains_key(*id));
            others.flat_map(|(_, report)| report.strata.values_mut()).for_each(unjudged);
        }
        let revisions = std::mem::take(&mut last.revisions);
        *last = DeploymentReport { revisions, ..counted_head(counted) };
    }

    /// What came for these two revisions until `now` and isn't stored yet.
    pub fn delta(
        &self,
        deployment: &DeploymentKey,
        stable: Option<&RevisionId>,
        canary: Option<&RevisionId>,
        now: Timestamp,
    ) -> Delta {
        let fresh: Vec<_> = self.fresh(deployment, now).collect();
        let Some(sums) = self.deployments.get(deployment) else { return Delta::default() };
        let of = |revision: Option<&RevisionId>| {
            let mut sum = RevisionReport::default();
            let Some(revision) = revision else { return sum };
            let pieces = sums.pieces.iter().filter(|(at, _)| *at <= now);
            pieces.filter_map(|(_, revisions)| revisions.get(revision)).for_each(|piece| sum.add(piece));
            for report in fresh.iter().filter_map(|report| report.revisions.get(revision)) {
                sum.in_flight = sum.in_flight.saturating_add(report.in_flight);
                sum.oldest_millis = sum.oldest_millis.max(report.oldest_millis);
            }
            sum
        };
        let seconds = sums.since.map_or(0.0, |since| now.duration_since(since).as_secs_f64().max(0.0));
        let gateways = u32::try_from(fresh.len()).unwrap_or(u32::MAX);
        Delta { reference: sums.reference, stable: of(stable), canary: of(canary), seconds, gateways }
    }

    /// The state into which the delta as of `now` (the time that was given to [`Self::delta`]) went has been
    /// stored: from there on the next delta counts. What was heard later stays.
    pub fn stored(&mut self, deployment: &DeploymentKey, now: Timestamp) {
        if let Some(sums) = self.deployments.get_mut(deployment) {
            sums.pieces.retain(|(at, _)| *at > now);
            sums.since = Some(now);
        }
    }

    /// A revision's time to first token, of its last several thousand requests: what a reference is taken from.
    pub fn first_token(&self, deployment: &DeploymentKey, revision: &RevisionId) -> Histogram {
        let mut sum = Histogram::default();
        let halves = self.revision(deployment, revision).map(|total| &total.first_token);
        halves.into_iter().flatten().for_each(|half| sum.add(half));
        sum
    }

    /// Everything that gateways counted of a revision, as far as this leader heard of it.
    pub fn total(&self, deployment: &DeploymentKey, revision: &RevisionId) -> StratumReport {
        self.revision(deployment, revision).map(|total| total.counts.clone()).unwrap_or_default()
    }

    /// What a revision did in the last seconds, for people who watch.
    pub fn window(&self, deployment: &DeploymentKey, revision: &RevisionId, now: Timestamp) -> Window {
        self.deployments.get(deployment).map(|sums| sums.recent.window(revision, now)).unwrap_or_default()
    }

    /// A deployment is gone.
    pub fn remove(&mut self, deployment: &DeploymentKey) {
        self.deployments.remove(deployment);
        self.gateways.values_mut().for_each(|known| drop(known.last.remove(deployment)));
    }

    fn revision(&self, deployment: &DeploymentKey, revision: &RevisionId) -> Option<&Total> {
        self.deployments.get(deployment)?.revisions.get(revision)
    }

    /// The newest report of each gateway that was heard lately.
    fn fresh(&self, deployment: &DeploymentKey, now: Timestamp) -> impl Iterator<Item = &DeploymentReport> {
        let mut newest: BTreeMap<&GatewayId, &Incarnation> = BTreeMap::new();
        for ((gateway, _), known) in &self.gateways {
            let of = newest.entry(gateway).or_insert(known);
            if known.heard >= of.heard {
                *of = known;
            }
        }
        let fresh = newest.into_values().filter(move |known| now.duration_since(known.heard) <= FRESH);
        fresh.filter_map(|known| known.last.get(deployment))
    }
}

impl Counted {
    /// Counts against an older reference say nothing beside those against this one.
    fn advance(&mut self, reference: u32) {
        if reference > self.reference {
            self.reference = reference;
            let revisions = self.pieces.iter_mut().flat_map(|(_, revisions)| revisions.values_mut());
            revisions.flat_map(|report| report.strata.values_mut()).for_each(unjudged);
        }
    }

    /// Adds what came; what is no evidence (a baseline) goes into the totals alone.
    fn add(&mut self, revision: &RevisionId, came: RevisionReport, evidence: bool, now: Timestamp) {
        let counts = came.total();
        if !self.revisions.contains_key(revision) && self.revisions.len() >= MOST_REVISIONS {
            // The one with the fewest requests is the least missed; the live ones have the most.
            let least = self.revisions.iter().min_by_key(|(_, total)| total.counts.success);
            least.map(|(id, _)| id.clone()).map(|id| self.revisions.remove(&id));
        }
        let total = self.revisions.entry(revision.clone()).or_default();
        total.counts.add(&counts);
        let [older, newer] = &mut total.first_token;
        if newer.count() >= FIRST_TOKENS {
            *older = std::mem::take(newer);
        }
        newer.add(&counts.first_token);
        if !evidence {
            return;
        }
        self.recent.add(revision, &counts, now);
        if self.pieces.back().is_none_or(|(at, _)| *at != now) {
            self.pieces.push_back((now, BTreeMap::new()));
        }
        if let Some((_, piece)) = self.pieces.back_mut() {
            piece.entry(revision.clone()).or_default().add(&came);
        }
        self.put_together();
    }

    /// Bounds the pieces. Two become one under the earlier time: stored in between, the later part of it would be
    /// lost, but never counted twice.
    fn put_together(&mut self) {
        while self.pieces.len() > MOST_PIECES {
            let Some((_, later)) = self.pieces.remove(1) else { return };
            let Some((_, first)) = self.pieces.front_mut() else { return };
            for (revision, report) in later {
                first.entry(revision).or_default().add(&report);
            }
        }
    }
}

/// What came of one revision since `before`. `same` says whether both were counted against one reference, and
/// `judged` whether it is the present one.
fn since(
    report: &RevisionReport,
    before: Option<&RevisionReport>,
    same: bool,
    judged: bool,
) -> RevisionReport {
    let of = |(stratum, now): (&outrigger_wire::Stratum, &StratumReport)| {
        let before = before.and_then(|before| before.strata.get(stratum));
        let mut came = match before {
            Some(before) if !ran_backwards(now, before) => now.since(before),
            _ => now.clone(),
        };
        if !same {
            // A gateway begins these counts anew with every reference.
            (came.slow, came.beyond) = (now.slow, now.beyond);
        }
        if !judged {
            unjudged(&mut came);
        }
        (*stratum, came)
    };
    RevisionReport { strata: report.strata.iter().map(of).collect(), ..RevisionReport::default() }
}

/// Whether a gateway has forgotten a revision in between and counts it from zero again.
fn ran_backwards(now: &StratumReport, before: &StratumReport) -> bool {
    let columns = |s: &StratumReport| [s.success, s.failure, s.backpressure, s.cancelled];
    columns(now).iter().zip(columns(before)).any(|(now, before)| *now < before)
}

fn unjudged(counts: &mut StratumReport) {
    (counts.slow, counts.beyond) = (GapCounts::default(), GapCounts::default());
}

fn counted_head(counted: &DeploymentReport) -> DeploymentReport {
    DeploymentReport { revisions: BTreeMap::new(), ejected: Vec::new(), ..counted.clone() }
}
