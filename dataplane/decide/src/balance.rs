//! Which endpoint gets a request: the less loaded of two drawn at random.
//!
//! Two choices rather than all of them: the cost is the same for three endpoints and for three hundred, and
//! gateways that know the same don't all run to the same endpoint at once.

use http::HeaderMap;
use std::time::{Duration, Instant};

/// The header in which a sidecar reports its load on every response. It is for gateways, clients don't see it.
pub const LOAD_HEADER: &str = "endpoint-load-metrics";
/// How long a reported load is believed. An endpoint that answers reports with every response; one that was quiet
/// for longer than this has had time to empty its queue.
pub const BELIEVED_FOR: Duration = Duration::from_secs(2);
/// How long an endpoint that refused or broke a connection is passed over while there are others. A dead endpoint
/// has nothing in flight and would otherwise look like the best of all until its breaker has seen enough.
pub const RESTS_FOR: Duration = Duration::from_millis(250);

/// A load as an endpoint reported it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reported {
    /// Share of its concurrency that is in use, 0 to 1 (more where the engine is overcommitted).
    pub utilization: f64,
    /// Requests that wait there.
    pub queued: f64,
    /// Requests that its engine works on, where it says so.
    pub in_flight: Option<f64>,
    /// Requests that this thread had there when it heard this.
    pub own: u32,
    /// When it was reported.
    pub at: Instant,
}

impl Reported {
    /// Reads the header, in ORCA's text format: `TEXT application_utilization=0.5, named_metrics.queued=3`. `None` when it isn't there or says nothing that is known. Numbers that no load can be (negative, not finite) are
    /// as if they weren't there.
    pub fn read(headers: &HeaderMap, now: Instant) -> Option<Self> {
        let text = headers.get(LOAD_HEADER)?.to_str().ok()?.trim_start();
        let pairs = text.strip_prefix("TEXT ")?;
        let (mut utilization, mut queued, mut in_flight) = (None, None, None);
        for pair in pairs.split(',') {
            let (name, value) = pair.split_once('=')?;
            let value = value.trim().parse::<f64>().ok().filter(|v| v.is_finite() && *v >= 0.0);
            match name.trim() {
                "application_utilization" => utilization = value,
                "named_metrics.queued" => queued = value,
                "named_metrics.in_flight" => in_flight = value,
                _ => {}
            }
        }
        if utilization.is_none() && queued.is_none() {
            return None;
        }
        let (utilization, queued) = (utilization.unwrap_or(0.0), queued.unwrap_or(0.0));
        Some(Self { utilization, queued, in_flight, own: 0, at: now })
    }

    /// The same, with so many requests of this thread there, the one that is answered included.
    #[must_use]
    pub fn with_own(self, own: u32) -> Self {
        Self { own, ..self }
    }

    /// What others have there: all that it has, less what this thread had there then.
    fn others(&self) -> f64 {
        let all = self.queued + self.in_flight.unwrap_or(0.0);
        match self.in_flight {
            Some(_) => (all - f64::from(self.own)).max(0.0),
            None => all,
        }
    }
}

/// What is known of one endpoint when a request is to be placed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests that this thread has there.
    pub in_flight: u32,
    /// What it last reported.
    pub reported: Option<Reported>,
    /// Until when it is passed over while there are others.
    pub rests_until: Option<Instant>,
    /// Not to be sent to: its breaker is open, or the request was there already.
    pub excluded: bool,
}

impl Load {
    /// Comparable cost: less is better. Own requests are exact and at once, but only this thread's; what others
    /// have there is known from reports, late by one response. Utilisation, at most about 1, decides between equals.
    fn cost(&self, now: Instant) -> (bool, f64) {
        let rests = self.rests_until.is_some_and(|until| now < until);
        let believed = self.reported.filter(|r| now.saturating_duration_since(r.at) < BELIEVED_FOR);
        let reported = believed.map_or(0.0, |r| r.others() + r.utilization);
        (rests, f64::from(self.in_flight) + reported)
    }
}

/// Which of `count` endpoints, whose loads `load` tells, gets the request; `None` when all are excluded. `random`
/// is 64 random bits.
pub fn pick(count: usize, random: u64, now: Instant, load: impl Fn(usize) -> Load) -> Option<usize> {
    let first = draw(count, random as u32, None, &load)?;
    let Some(second) = draw(count, (random >> 32) as u32, Some(first), &load) else {
        return Some(first);
    };
    let less = load(second).cost(now).partial_cmp(&load(first).cost(now));
    Some(if less == Some(std::cmp::Ordering::Less) { second } else { first })
}

/// One that isn't excluded and isn't `other`, each with the same chance unless some are excluded.
fn draw(count: usize, random: u32, other: Option<usize>, load: &impl Fn(usize) -> Load) -> Option<usize> {
    let others = count.checked_sub(usize::from(other.is_some())).filter(|n| *n > 0)?;
    // Multiply-shift: `random` as a fraction of 2^32, without the bias and the cost of a division.
    let start = ((u64::from(random) * others as u64) >> 32) as usize;
    // With `other` left out by counting around it, all that remain are alike; from an excluded one on to the next.
    (0..others)
        .map(|step| (start + step) % others)
        .map(|index| index + usize::from(other.is_some_and(|other| index >= other)))
        .find(|&index| !load(index).excluded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn busy(in_flight: u32) -> Load {
        Load { in_flight, ..Load::default() }
    }

    fn header(text: &str) -> Option<Reported> {
        let mut headers = HeaderMap::new();
        headers.insert(LOAD_HEADER, text.parse().unwrap());
        Reported::read(&headers, Instant::now())
    }

    #[test]
    fn loads_are_read() {
        let full =
            header("TEXT application_utilization=0.5, rps_fractional=3.25, named_metrics.queued=7").unwrap();
        assert_eq!((full.utilization, full.queued), (0.5, 7.0));
        assert_eq!(
            header("TEXT named_metrics.queued=1,named_metrics.in_flight=2").unwrap().in_flight,
            Some(2.0)
        );
        let part = header("TEXT named_metrics.queued=7").unwrap();
        assert_eq!((part.utilization, part.queued), (0.0, 7.0));
        for text in ["", "TEXT", "TEXT ", "JSON {}", "TEXT a", "TEXT rps_fractional=1", "BIN AAAA"] {
            assert_eq!(header(text), None, "{text}");
        }
        for text in ["NaN", "inf", "-1", "x", ""] {
            assert_eq!(header(&format!("TEXT named_metrics.queued={text}")), None, "{text}");
        }
    }

    #[test]
    fn of_two_the_less_loaded_is_taken() {
        let now = Instant::now();
        let loads = [busy(3), busy(1)];
        for random in 0..200u64 {
            let random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            assert_eq!(pick(2, random, now, |i| loads[i]), Some(1));
        }
    }

    #[test]
    fn a_reported_queue_counts_while_it_is_fresh() {
        let now = Instant::now();
        let reported = Reported { utilization: 1.0, queued: 5.0, in_flight: None, own: 0, at: now };
        let queue = Load { reported: Some(reported), ..busy(0) };
        let loads = [queue, busy(2)];
        assert_eq!(pick(2, 7, now, |i| loads[i]), Some(1));
        assert_eq!(pick(2, 7, now + BELIEVED_FOR, |i| loads[i]), Some(0), "later it is forgotten");
    }

    /// An endpoint that is full of this thread's own requests isn't charged for them twice.
    #[test]
    fn what_others_have_there_counts_beside_what_is_ours() {
        let now = Instant::now();
        let of = |own, in_flight| {
            let reported =
                Reported { utilization: 0.0, queued: 0.0, in_flight: Some(in_flight), own, at: now };
            Load { reported: Some(reported), ..busy(3) }
        };
        let loads = [of(6, 6.0), of(4, 6.0)];
        assert_eq!(pick(2, 7, now, |i| loads[i]), Some(0), "the other one has two requests of others");
        assert_eq!(loads[0].cost(now).1, 3.0);
    }

    /// A dead endpoint has nothing in flight: it must not draw all requests.
    #[test]
    fn one_that_refused_rests_unless_it_is_the_only_one() {
        let now = Instant::now();
        let resting = Load { rests_until: Some(now + RESTS_FOR), ..busy(0) };
        let loads = [resting, busy(9)];
        assert_eq!(pick(2, 1, now, |i| loads[i]), Some(1));
        assert_eq!(pick(1, 1, now, |i| loads[i]), Some(0));
        assert_eq!(pick(2, 1, now + RESTS_FOR, |i| loads[i]), Some(0));
    }

    #[test]
    fn idle_endpoints_share_evenly() {
        let (mut rng, now) = (fastrand::Rng::with_seed(7), Instant::now());
        let mut hits = [0u32; 5];
        for _ in 0..10_000 {
            hits[pick(5, rng.u64(..), now, |_| busy(0)).unwrap()] += 1;
        }
        // 10 000 × 0.2 ± 4σ, σ = 40.
        assert!(hits.iter().all(|&n| (1840..2160).contains(&n)), "{hits:?}");
    }

    proptest! {
        #[test]
        fn an_excluded_one_is_never_picked(
            loads in prop::collection::vec((0u32..5, any::<bool>()), 0..12),
            random: u64,
        ) {
            let loads: Vec<Load> =
                loads.into_iter().map(|(n, excluded)| Load { excluded, ..busy(n) }).collect();
            let picked = pick(loads.len(), random, Instant::now(), |i| loads[i]);
            prop_assert_eq!(picked.is_some(), loads.iter().any(|load| !load.excluded));
            prop_assert!(picked.is_none_or(|i| !loads[i].excluded));
        }

        /// With two to choose from the most loaded one is never picked.
        #[test]
        fn the_most_loaded_one_is_never_picked(
            loads in prop::collection::vec(0u32..5, 2..12),
            random: u64,
        ) {
            let picked = pick(loads.len(), random, Instant::now(), |i| busy(loads[i])).unwrap();
            let least = loads.iter().filter(|n| **n >= loads[picked]).count();
            prop_assert!(least >= 2, "{picked} of {loads:?}");
        }
    }
}
