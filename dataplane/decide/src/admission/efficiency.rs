//! What the forming of batches costs against the ideal, in simulated time: callers that come again as soon as they
//! are answered, before an engine that works on one batch at a time and takes 5 ms and 0.2 ms for each row.

use super::*;
use std::collections::VecDeque;

const MICROS: Duration = Duration::from_micros(1);

/// What happens next, in microseconds of simulated time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    /// A caller's request arrives.
    Arrives,
    /// The engine finishes the batch that it works on.
    Finishes,
    /// The queue asked to be woken.
    Wakes,
}

struct Simulated {
    queue: Admission,
    start: Instant,
    now: u64,
    events: BTreeSet<(u64, u64, Happens)>,
    number: u64,
    /// Batches in the engine, in the order in which they came; it works on the first.
    engine: VecDeque<usize>,
    random: fastrand::Rng,
    answered: u64,
    sizes: Vec<usize>,
}

impl Simulated {
    fn at(&mut self, micros: u64, what: Happens) {
        self.number += 1;
        self.events.insert((micros, self.number, what));
    }

    fn instant(&self) -> Instant {
        self.start + MICROS * u32::try_from(self.now).unwrap()
    }

    /// How long the engine takes for so many rows.
    fn work(rows: usize) -> u64 {
        5_000 + 200 * rows as u64
    }

    fn pump(&mut self) {
        let now = self.instant();
        assert!(self.queue.expire(now).is_empty());
        while let Some(call) = self.queue.next(now) {
            let rows = call.tickets.len();
            self.sizes.push(rows);
            self.engine.push_back(rows);
            if self.engine.len() == 1 {
                self.at(self.now + Self::work(rows), Happens::Finishes);
            }
        }
        if let Some(wake) = self.queue.wake_at() {
            let wake = wake.duration_since(self.start).as_micros() as u64;
            let wake = wake.max(self.now + 1);
            if !self.events.iter().any(|(at, _, what)| *at <= wake && *what == Happens::Wakes) {
                self.at(wake, Happens::Wakes);
            }
        }
    }

    fn happen(&mut self, what: Happens) {
        match what {
            Happens::Arrives => {
                let now = self.instant();
                let group = Some((GroupKey::from(b"m".as_slice()), 1));
                let arrival = Arrival { bytes: 100, deadline: now + Duration::from_secs(60), group };
                self.queue.offer(arrival, now).unwrap();
            }
            Happens::Finishes => {
                let rows = self.engine.pop_front().unwrap();
                self.answered += rows as u64;
                self.queue.finish(rows, self.instant());
                if let Some(next) = self.engine.front() {
                    self.at(self.now + Self::work(*next), Happens::Finishes);
                }
                for i in 0..rows {
                    // Each answer takes its turn on the way out, and each caller a moment to come again.
                    let back = self.now + 10 * (i as u64 + 1) + self.random.u64(50..400);
                    self.at(back, Happens::Arrives);
                }
            }
            Happens::Wakes => {}
        }
        self.pump();
    }
}

/// Answers in two simulated seconds, and the batches' sizes.
fn simulate(callers: u64, concurrency: u32) -> (u64, Vec<usize>) {
    let batch = BatchLimits { max_rows: 32, max_delay: Duration::from_millis(10) };
    let limits = Limits {
        concurrency,
        max_queue: 1024,
        max_queue_bytes: 1 << 30,
        max_queue_delay: Duration::from_secs(10),
        batch: Some(batch),
    };
    let mut case = Simulated {
        queue: Admission::new(limits),
        start: Instant::now(),
        now: 0,
        events: BTreeSet::new(),
        number: 0,
        engine: VecDeque::new(),
        random: fastrand::Rng::with_seed(7),
        answered: 0,
        sizes: Vec::new(),
    };
    for i in 0..callers {
        case.at(i * 20, Happens::Arrives);
    }
    while let Some((at, _, what)) = case.events.pop_first() {
        if at > 2_000_000 {
            break;
        }
        case.now = at;
        case.happen(what);
    }
    (case.answered, case.sizes)
}

#[test]
fn full_batches_keep_the_engine_at_work() {
    // Full batches back to back: 32 rows in 11.4 ms.
    let ideal = 2.0e6 / Simulated::work(32) as f64 * 32.0;
    // A number of callers that is no multiple of the batch leaves some over; theirs goes when its window ends.
    for (callers, least) in [(64, 0.95), (100, 0.85), (256, 0.95)] {
        for concurrency in [1, 2, 4] {
            let (answered, sizes) = simulate(callers, concurrency);
            let share = answered as f64 / ideal;
            assert!(
                share > least,
                "{callers} callers, {concurrency} at once: {share:.3}, {:?}",
                &sizes[..40]
            );
        }
    }
}

/// proves B.3
#[test]
fn a_lone_caller_never_waits_for_company() {
    let (answered, sizes) = simulate(1, 4);
    assert!(sizes.iter().all(|n| *n == 1));
    // 5.2 ms of work and at most 0.41 ms on the way, back to back.
    assert!(answered >= 2_000_000 / 5_610 - 1, "{answered}");
}

/// With fewer callers than a batch takes, nobody waits for rows that can't come. Two cohorts that take turns, each
/// sent when the other is answered, are the worst of it.
#[test]
fn few_callers_do_about_as_well_as_they_can() {
    for callers in [2, 5, 16, 31] {
        for concurrency in [1, 4] {
            let (answered, sizes) = simulate(callers, concurrency);
            // The best is all of them in one batch, after their way there and back.
            let best = 2.0e6 / (Simulated::work(callers as usize) + 410) as f64 * callers as f64;
            let share = answered as f64 / best;
            assert!(
                share > 0.5,
                "{callers} callers, concurrency {concurrency}: {share:.3}, {:?}",
                &sizes[..40]
            );
        }
    }
}
