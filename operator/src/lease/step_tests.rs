//! Histories of elections, drawn: clocks that run at different rates, requests that hang, come late or get lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use super::*;
use proptest::prelude::*;

fn record(holder: &str, renewed: u64) -> Record {
    Record {
        holder: holder.to_owned(),
        address: Some(format!("{holder}:8443")),
        renewed: Some(renewed.to_string()),
        duration: Some(DURATION),
        transitions: 0,
    }
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_free_lease_is_taken_at_once() {
    let mut state = State::new("a");
    assert_eq!(state.step(None, s(0)), Action::Take);
    assert!(!state.leads(s(0)), "not before it is written");
    state.wrote(record("a", 1), s(0), s(1));
    assert!(state.leads(s(7)));
    assert!(!state.leads(s(8)), "counted from the request's beginning");
    let mut other = State::new("b");
    assert_eq!(other.step(Some(&record("", 1)), s(0)), Action::Take, "released");
}

#[test]
fn a_held_lease_is_taken_after_silence_by_ones_own_clock() {
    let mut state = State::new("b");
    let mut old = record("a", 1);
    old.renewed = Some("1970-01-01T00:00:00Z".to_owned());
    assert_eq!(state.step(Some(&old), s(100)), Action::Wait, "however old it says it is");
    assert_eq!(state.address(s(100)).as_deref(), Some("a:8443"));
    assert_eq!(state.step(Some(&old), s(109)), Action::Wait);
    assert_eq!(state.step(Some(&record("a", 2)), s(109)), Action::Wait, "a word of its holder");
    assert_eq!(state.step(Some(&record("a", 2)), s(118)), Action::Wait);
    assert_eq!(state.step(Some(&record("a", 2)), s(119)), Action::Take);
    assert_eq!(state.address(s(119)), None);
}

#[test]
fn another_holder_ends_ones_own_leadership() {
    let mut state = State::new("a");
    state.wrote(record("a", 1), s(0), s(0));
    assert_eq!(state.step(Some(&record("b", 2)), s(1)), Action::Wait);
    assert!(!state.leads(s(1)));
}

#[test]
fn ones_own_lease_is_renewed_and_a_shorter_one_is_not_believed() {
    let mut state = State::new("a");
    assert_eq!(state.step(Some(&record("a", 1)), s(0)), Action::Renew);
    let mut hasty = record("b", 1);
    hasty.duration = Some(s(1));
    let mut state = State::new("a");
    assert_eq!(state.step(Some(&hasty), s(0)), Action::Wait);
    assert_eq!(state.step(Some(&hasty), s(9)), Action::Wait);
    let mut eternal = record("b", 2);
    eternal.duration = Some(s(1_000_000));
    assert_eq!(state.step(Some(&eternal), s(10)), Action::Wait);
    assert_eq!(state.step(Some(&eternal), s(70)), Action::Take);
}

/// The API server's one object, written only with the version that was read.
#[derive(Default)]
struct Server {
    record: Option<Record>,
    version: u64,
}

/// A write that is on its way.
struct Flight {
    began: Duration,
    arrives: u64,
    answers: u64,
    version: u64,
    record: Record,
    landed: Option<bool>,
}

struct Replica {
    name: String,
    state: State,
    /// Its clock's rate in thousandths, and where it began.
    rate: u64,
    offset: u64,
    /// When it looks next, in true milliseconds.
    next: u64,
    /// Those that were given up may still arrive.
    flights: Vec<Flight>,
    written: u64,
}

impl Replica {
    fn clock(&self, millis: u64) -> Duration {
        Duration::from_millis(self.offset + millis * self.rate / 1000)
    }
}

/// What befalls a replica's look: how late requests arrive and are answered, and whether it is frozen afterwards.
#[derive(Clone, Debug)]
struct Fate {
    read: u64,
    arrive: u64,
    answer: u64,
    lost: bool,
    frozen: u64,
    rest: u64,
}

fn fate() -> impl Strategy<Value = Fate> {
    let delay = || prop_oneof![8 => 0u64..50, 1 => 0u64..3_000, 1 => 0u64..30_000];
    let frozen = prop_oneof![20 => Just(0u64), 1 => 0u64..40_000];
    (delay(), delay(), delay(), prop::bool::weighted(0.1), frozen, 1_000u64..2_500).prop_map(
        |(read, arrive, answer, lost, frozen, rest)| Fate { read, arrive, answer, lost, frozen, rest },
    )
}

impl Replica {
    fn look(&mut self, server: &Server, now: u64, fate: &Fate) {
        // What was read is of the moment in which the server answered; it arrives later.
        let seen = server.record.clone();
        let action = self.state.step(seen.as_ref(), self.clock(now + fate.read));
        self.next = now + fate.read + fate.rest + fate.frozen;
        if action == Action::Wait {
            return;
        }
        self.written += 1;
        let began = self.clock(now + fate.read);
        let arrives = now + fate.read + fate.arrive;
        let record = record(&self.name, self.written * 1_000 + self.offset);
        let answers = if fate.lost { u64::MAX } else { arrives + fate.answer };
        self.flights.iter_mut().for_each(|flight| flight.answers = u64::MAX);
        self.flights.push(Flight { began, arrives, answers, version: server.version, record, landed: None });
    }

    fn fly(&mut self, server: &mut Server, now: u64) {
        let clock = self.clock(now);
        for flight in &mut self.flights {
            if flight.landed.is_none() && now >= flight.arrives {
                let fits = flight.version == server.version;
                if fits {
                    server.record = Some(flight.record.clone());
                    server.version += 1;
                }
                flight.landed = Some(fits);
            }
            if now >= flight.answers && flight.landed == Some(true) {
                self.state.wrote(flight.record.clone(), flight.began, clock);
            }
        }
        self.flights.retain(|flight| now < flight.answers && flight.landed != Some(false));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// proves O.2
    #[test]
    fn no_two_lead_at_once(
        rates in prop::collection::vec(900u64..=1100, 3),
        offsets in prop::collection::vec(0u64..1_000_000, 3),
        fates in prop::collection::vec(fate(), 60),
    ) {
        let mut server = Server::default();
        let mut replicas: Vec<Replica> = (0..3)
            .map(|n| Replica {
                name: format!("replica-{n}"),
                state: State::new(&format!("replica-{n}")),
                rate: rates[n],
                offset: offsets[n],
                next: n as u64 * 300,
                flights: Vec::new(),
                written: 0,
            })
            .collect();
        let mut fates = fates.iter().cycle();
        let mut led = 0;
        for now in (0..120_000).step_by(25) {
            for replica in &mut replicas {
                replica.fly(&mut server, now);
                if now >= replica.next {
                    replica.look(&server, now, fates.next().unwrap());
                }
            }
            let leaders: Vec<&str> = replicas
                .iter()
                .filter(|replica| replica.state.leads(replica.clock(now)))
                .map(|replica| replica.name.as_str())
                .collect();
            prop_assert!(leaders.len() <= 1, "at {now} ms: {leaders:?}");
            led += leaders.len();
        }
        prop_assert!(led > 0, "somebody leads at some time");
    }
}

/// Clocks beyond the bound do lead at once: the test above can see it.
#[test]
fn clocks_that_differ_too_much_are_seen() {
    let mut slow = State::new("slow");
    slow.wrote(record("slow", 1), s(0), s(0));
    let mut fast = State::new("fast");
    assert_eq!(fast.step(Some(&record("slow", 1)), s(0)), Action::Wait);
    // At 8 s of true time minus a little, the fast one's clock shows 10 s.
    assert_eq!(fast.step(Some(&record("slow", 1)), s(10)), Action::Take);
    assert!(slow.leads(Duration::from_millis(7_900)));
}
