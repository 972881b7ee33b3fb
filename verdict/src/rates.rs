//! What happened in the last seconds, for people who watch. Nothing is judged by it.

use jiff::{SignedDuration, Timestamp};
use outrigger_wire::{Histogram, RevisionId, StratumReport};
use std::collections::{BTreeMap, VecDeque};

/// How far back a window reaches: long enough for a steady figure at a few requests a second, short enough that a
/// change is seen while it happens.
const WINDOW: SignedDuration = SignedDuration::from_secs(10);
/// What comes within this time is kept as one slot, so that there are about ten, whatever the number of gateways.
const SLOT: SignedDuration = SignedDuration::from_secs(1);

/// What a revision did in the last seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// Requests that ended, per second.
    pub requests_per_second: f64,
    /// The share of failures among successes and failures; absent when there was neither.
    pub errors: Option<f64>,
    /// Time to the answer's end.
    pub duration: Histogram,
    /// Time to the first byte of the answer's body.
    pub first_token: Histogram,
}

/// The slots of the last seconds.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    slots: VecDeque<(Timestamp, BTreeMap<RevisionId, StratumReport>)>,
    began: Option<Timestamp>,
}

impl Recent {
    /// Takes in what a report brought.
    pub(crate) fn add(&mut self, revision: &RevisionId, came: &StratumReport, now: Timestamp) {
        self.began.get_or_insert(now);
        if self.slots.back().is_none_or(|(at, _)| now.duration_since(*at).abs() >= SLOT) {
            self.slots.push_back((now, BTreeMap::new()));
        }
        if let Some((_, revisions)) = self.slots.back_mut() {
            revisions.entry(revision.clone()).or_default().add(came);
        }
        while self.slots.front().is_some_and(|(at, _)| !within(*at, now)) {
            self.slots.pop_front();
        }
    }

    /// What a revision did until now.
    pub(crate) fn window(&self, revision: &RevisionId, now: Timestamp) -> Window {
        let mut sum = StratumReport::default();
        let slots = self.slots.iter().filter(|(at, _)| within(*at, now));
        slots.filter_map(|(_, revisions)| revisions.get(revision)).for_each(|came| sum.add(came));
        // Who has watched for three seconds has three to divide by. The first report stands for up to a second.
        let watched = self.began.map_or(0.0, |began| now.duration_since(began).as_secs_f64());
        let seconds = watched.clamp(1.0, WINDOW.as_secs_f64());
        let judged = sum.success.saturating_add(sum.failure);
        let ended = judged.saturating_add(sum.backpressure).saturating_add(sum.cancelled);
        Window {
            requests_per_second: ended as f64 / seconds,
            errors: (judged > 0).then(|| sum.failure as f64 / judged as f64),
            duration: sum.duration,
            first_token: sum.first_token,
        }
    }
}

/// A clock that was set back shows what is later as recent, for as long as that was.
fn within(at: Timestamp, now: Timestamp) -> bool {
    now.duration_since(at) < WINDOW
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
    }

    fn came(success: u64, failure: u64) -> StratumReport {
        let mut came = StratumReport { success, failure, ..StratumReport::default() };
        (0..success).for_each(|_| came.duration.record(50_000));
        came
    }

    #[test]
    fn the_last_ten_seconds_are_shown() {
        let id = RevisionId::from("r1");
        let mut recent = Recent::default();
        for second in 0..60 {
            // The rate doubles in the last ten.
            let rate = if second < 50 { 10 } else { 20 };
            recent.add(&id, &came(rate - 1, 1), at(second * 1000));
        }
        let window = recent.window(&id, at(59_500));
        assert_eq!(window.requests_per_second, 20.0);
        assert_eq!(window.errors, Some(0.05));
        assert_eq!(window.duration.count(), 190);
        assert_eq!(recent.window(&"r2".into(), at(59_500)), Window::default());
        assert_eq!(recent.window(&id, at(80_000)), Window::default(), "what is past is not shown");
    }

    #[test]
    fn a_short_watch_divides_by_its_own_length() {
        let id = RevisionId::from("r1");
        let mut recent = Recent::default();
        assert_eq!(recent.window(&id, at(0)), Window::default());
        for second in 1..=3 {
            recent.add(&id, &came(30, 0), at(second * 1000));
        }
        assert_eq!(recent.window(&id, at(4000)).requests_per_second, 30.0);
    }

    #[test]
    fn many_gateways_need_no_more_slots() {
        let id = RevisionId::from("r1");
        let mut recent = Recent::default();
        (0..100_000).for_each(|i| recent.add(&id, &came(1, 0), at(i * 3)));
        assert!(recent.slots.len() <= 12, "{}", recent.slots.len());
    }
}
