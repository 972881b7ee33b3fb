//! What the queue promises, by example and by random histories.

use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn limits(concurrency: u32, batch: Option<(u32, u64)>) -> Limits {
    Limits {
        concurrency,
        max_queue: 4,
        max_queue_bytes: 1000,
        max_queue_delay: 2 * SECOND,
        batch: batch.map(|(max_rows, ms)| BatchLimits { max_rows, max_delay: Duration::from_millis(ms) }),
    }
}

fn single(now: Instant) -> Arrival {
    Arrival { bytes: 10, deadline: now + 60 * SECOND, group: None }
}

fn rows(now: Instant, group: &str, rows: u32) -> Arrival {
    Arrival { group: Some((group.as_bytes().into(), rows)), ..single(now) }
}

fn call(queue: &mut Admission, now: Instant) -> Vec<Ticket> {
    queue.next(now).map(|call| call.tickets).unwrap_or_default()
}

/// proves A.1
#[test]
fn waiting_is_bounded_in_count_and_bytes() {
    let now = Instant::now();
    let mut queue = Admission::new(limits(1, None));
    queue.offer(single(now), now).unwrap();
    assert_eq!(call(&mut queue, now).len(), 1);
    for _ in 0..4 {
        queue.offer(single(now), now).unwrap();
    }
    assert_eq!(queue.offer(single(now), now), Err(Refusal::QueueFull));
    assert_eq!((queue.waiting(), queue.waiting_bytes()), (4, 40));

    let mut queue = Admission::new(limits(1, None));
    queue.offer(single(now), now).unwrap();
    call(&mut queue, now);
    let big = Arrival { bytes: 900, ..single(now) };
    queue.offer(big.clone(), now).unwrap();
    assert_eq!(queue.offer(big, now), Err(Refusal::QueueBytes));
    queue.offer(single(now), now).unwrap();
}

/// proves A.1
#[test]
fn bodies_that_are_on_their_way_count_as_waiting() {
    let now = Instant::now();
    let mut queue = Admission::new(limits(2, None));
    assert_eq!(queue.room(0, u64::MAX), Ok(()), "it needn't wait");
    assert_eq!(queue.room(1, 1001), Err(Refusal::QueueBytes), "two at once are too large");
    assert_eq!(queue.room(3, 10), Ok(()));
    assert_eq!(queue.room(4, 10), Err(Refusal::QueueFull));
    queue.offer(single(now), now).unwrap();
    queue.offer(single(now), now).unwrap();
    assert_eq!((call(&mut queue, now).len(), call(&mut queue, now).len()), (1, 1));
    queue.offer(single(now), now).unwrap();
    assert_eq!(queue.room(2, 990), Ok(()));
    assert_eq!(queue.room(2, 991), Err(Refusal::QueueBytes));
    assert_eq!(queue.room(3, 10), Err(Refusal::QueueFull));
}

#[test]
fn nothing_is_refused_below_capacity() {
    let now = Instant::now();
    let mut queue = Admission::new(Limits { max_queue: 0, max_queue_bytes: 0, ..limits(3, Some((8, 10))) });
    for _ in 0..3 {
        queue.offer(rows(now, "a", 1), now).unwrap();
        assert_eq!(call(&mut queue, now).len(), 1, "no queue, so no waiting for company either");
    }
    assert_eq!(queue.offer(single(now), now), Err(Refusal::QueueFull));
    queue.finish(1, now);
    queue.offer(single(now), now).unwrap();
}

/// proves B.3
#[test]
fn a_lone_request_on_an_idle_engine_goes_at_once() {
    let now = Instant::now();
    let mut queue = Admission::new(limits(4, Some((32, 10))));
    let ticket = queue.offer(rows(now, "a", 1), now).unwrap();
    assert_eq!(call(&mut queue, now), [ticket]);
    // And the next one, when the engine has answered.
    queue.finish(1, now);
    let ticket = queue.offer(rows(now, "a", 1), now).unwrap();
    assert_eq!(call(&mut queue, now), [ticket]);
}

/// proves B.3
#[test]
fn the_window_is_waited_for_only_while_the_engine_works() {
    let now = Instant::now();
    let mut queue = Admission::new(limits(4, Some((32, 10))));
    queue.offer(rows(now, "a", 1), now).unwrap();
    call(&mut queue, now);
    let second = queue.offer(rows(now, "a", 1), now).unwrap();
    assert_eq!(call(&mut queue, now), [], "the engine works: wait for company");
    assert_eq!(queue.wake_at(), Some(now + Duration::from_millis(10)));
    let third = queue.offer(rows(now, "a", 2), now).unwrap();
    queue.finish(1, now);
    assert_eq!(call(&mut queue, now), [second, third], "the engine is idle: go");

    let fourth = queue.offer(rows(now, "a", 1), now).unwrap();
    assert_eq!(call(&mut queue, now), []);
    let later = now + Duration::from_millis(10);
    assert_eq!(call(&mut queue, later), [fourth], "the window is over: go beside the other");
}

/// proves B.4
#[test]
fn several_batches_are_in_flight() {
    let now = Instant::now();
    let mut queue = Admission::new(limits(3, Some((2, 10))));
    for _ in 0..3 {
        queue.offer(rows(now, "a", 1), now).unwrap();
        queue.offer(rows(now, "a", 1), now).unwrap();
        while queue.next(now).is_some() {}
    }
    assert_eq!(queue.in_flight(), 3);
    queue.offer(rows(now, "a", 1), now).unwrap();
    queue.offer(rows(now, "a", 1), now).unwrap();
    assert_eq!(call(&mut queue, now), [], "as many as the engine takes");
}

/// proves B.2
#[test]
fn a_batch_is_closed_rather_than_overfilled() {
    let now = Instant::now();
    let mut queue = Admission::new(limits(1, Some((4, 10))));
    let tickets: Vec<Ticket> =
        [9, 3, 2, 1].into_iter().map(|n| queue.offer(rows(now, "a", n), now).unwrap()).collect();
    let mut calls = Vec::new();
    while let Some(call) = queue.next(now) {
        calls.push(call.tickets);
        queue.finish(1, now);
    }
    assert_eq!(calls, [vec![tickets[0]], vec![tickets[1]], vec![tickets[2], tickets[3]]]);
}

/// proves A.3
#[test]
fn the_oldest_group_goes_first_and_is_not_overtaken() {
    let now = Instant::now();
    let mut queue = Admission::new(Limits { max_queue: 100, ..limits(1, Some((2, 10))) });
    queue.offer(single(now), now).unwrap();
    call(&mut queue, now);
    let names = ["a", "b", "a", "-", "a", "b", "a", "a"];
    let tickets: Vec<Ticket> = names
        .iter()
        .map(|name| {
            let arrival = if *name == "-" { single(now) } else { rows(now, name, 1) };
            queue.offer(arrival, now).unwrap()
        })
        .collect();
    let mut order: Vec<Vec<usize>> = Vec::new();
    for _ in 0..5 {
        queue.finish(1, now);
        let members = call(&mut queue, now);
        order.push(members.iter().map(|t| tickets.iter().position(|u| u == t).unwrap()).collect());
    }
    let expected: [Vec<usize>; 5] = [vec![0, 2], vec![1, 5], vec![3], vec![4, 6], vec![7]];
    assert_eq!(order, expected);
}

/// proves A.2
#[test]
fn who_waits_too_long_is_shed_and_whose_time_ran_out_is_told_so() {
    let now = Instant::now();
    let mut queue = Admission::new(limits(1, None));
    queue.offer(single(now), now).unwrap();
    call(&mut queue, now);
    let slow = queue.offer(single(now), now).unwrap();
    let hurried = queue.offer(Arrival { deadline: now + SECOND, ..single(now) }, now).unwrap();
    assert_eq!(queue.wake_at(), Some(now + SECOND));
    assert_eq!(queue.expire(now + SECOND), [(hurried, Refusal::Deadline)]);
    assert_eq!(queue.expire(now + 2 * SECOND), [(slow, Refusal::QueueDelay)]);
    assert!(Refusal::QueueDelay.is_shed() && !Refusal::Deadline.is_shed());
    queue.finish(1, now + 2 * SECOND);
    assert_eq!(queue.next(now + 2 * SECOND), None, "neither reaches the engine");
    assert_eq!(queue.offer(Arrival { deadline: now, ..single(now) }, now), Err(Refusal::Deadline));
}

#[test]
fn limits_change_under_waiters() {
    let now = Instant::now();
    let mut queue = Admission::new(limits(1, Some((8, 10))));
    queue.offer(rows(now, "a", 1), now).unwrap();
    call(&mut queue, now);
    let tickets: Vec<Ticket> = (0..4).map(|_| queue.offer(rows(now, "a", 2), now).unwrap()).collect();
    queue.set_limits(Limits { max_queue: 1, max_queue_delay: SECOND, ..limits(1, Some((4, 10))) });
    assert_eq!(queue.offer(rows(now, "a", 1), now), Err(Refusal::QueueFull));
    queue.finish(1, now);
    assert_eq!(call(&mut queue, now), tickets[..2], "the new size holds for who waits already");
    assert_eq!(queue.expire(now + SECOND).len(), 2, "and so does the new delay");
    queue.set_limits(limits(2, None));
    let alone = queue.offer(rows(now, "a", 1), now).unwrap();
    queue.offer(rows(now, "a", 1), now).unwrap();
    assert_eq!(call(&mut queue, now), [alone], "nothing is merged any more");
}

#[test]
fn only_what_need_not_wait_goes_directly() {
    let now = Instant::now();
    let mut queue = Admission::new(limits(2, Some((8, 10))));
    assert!(queue.direct(true));
    assert!(!queue.direct(true), "the engine works: company may come");
    assert!(queue.direct(false));
    assert!(!queue.direct(false), "as many as the engine takes");
    queue.offer(single(now), now).unwrap();
    queue.finish(1, now);
    assert!(!queue.direct(false), "nobody is overtaken");
    assert_eq!(call(&mut queue, now).len(), 1);
    queue.finish(1, now);
    queue.finish(1, now);
    assert!(queue.direct(true));
}

#[test]
fn a_retried_request_is_the_oldest() {
    let now = Instant::now();
    let mut queue = Admission::new(limits(1, Some((8, 10))));
    let first = queue.offer(rows(now, "a", 1), now).unwrap();
    call(&mut queue, now);
    let second = queue.offer(single(now), now).unwrap();
    queue.again(first, 10, now + SECOND, now);
    queue.finish(0, now);
    assert_eq!(call(&mut queue, now), [first]);
    queue.finish(1, now);
    assert_eq!(call(&mut queue, now), [second]);
}

#[derive(Clone, Debug)]
enum Op {
    Offer { group: Option<u8>, rows: u32, deadline: u64 },
    Finish,
    Leave(usize),
    Pass(u64),
    Limits { concurrency: u32, max_rows: Option<u32>, max_queue: u32 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (proptest::option::of(0u8..3), 1u32..6, 1u64..4000)
            .prop_map(|(group, rows, deadline)| Op::Offer { group, rows, deadline }),
        4 => Just(Op::Finish),
        1 => (0usize..8).prop_map(Op::Leave),
        2 => (0u64..30).prop_map(Op::Pass),
        1 => (1u32..4, proptest::option::of(1u32..6), 0u32..6)
            .prop_map(|(concurrency, max_rows, max_queue)| Op::Limits { concurrency, max_rows, max_queue }),
    ]
}

/// What a test remembers of a waiter: its group, rows and deadline.
type Known = (Option<u8>, u32, Instant);

/// Takes every call that the queue gives out, and checks each.
fn drain(queue: &mut Admission, known: &mut BTreeMap<Ticket, Known>, calls: &mut Vec<usize>, now: Instant) {
    while let Some(Call { tickets }) = queue.next(now) {
        assert!(!tickets.is_empty());
        let members: Vec<(Ticket, Known)> =
            tickets.iter().map(|t| (*t, known.remove(t).expect("a waiter goes once"))).collect();
        let sum: u32 = members.iter().map(|(_, (_, rows, _))| rows).sum();
        if members.len() > 1 {
            let max = queue.limits().batch.expect("merged only when asked for").max_rows;
            assert!(sum <= max, "{sum} rows of at most {max}");
        }
        for (ticket, (group, ..)) in &members {
            assert_eq!(*group, members[0].1.0, "one group in one batch");
            // Whether it went into a group depends on the limits at its arrival, so only who is known to have
            // been in a batch of several is compared.
            if members.len() > 1 {
                let older = known.iter().any(|(t, (g, rows, _))| {
                    t < ticket
                        && g == group
                        && u64::from(*rows) <= queue.max_rows()
                        && queue.member_of.contains_key(t)
                });
                assert!(!older, "overtaken within its group");
            }
        }
        calls.push(members.len());
        assert!(queue.in_flight() <= queue.limits().concurrency);
    }
}

proptest! {
    /// Whatever happens: nobody is lost, nobody goes twice, no bound is exceeded, no counter drifts.
    ///
    /// proves A.1, A.3, B.2
    #[test]
    fn no_history_breaks_the_queue(ops in proptest::collection::vec(op(), 1..120)) {
        let mut now = Instant::now();
        let mut queue = Admission::new(limits(2, Some((4, 10))));
        let mut known = BTreeMap::new();
        let mut calls: Vec<usize> = Vec::new();
        for op in ops {
            match op {
                Op::Offer { group, rows, deadline } => {
                    let deadline = now + Duration::from_millis(deadline);
                    let key = group.map(|g| (GroupKey::from([g].as_slice()), rows));
                    let full = queue.in_flight() >= queue.limits().concurrency
                        && queue.waiting() >= queue.limits().max_queue as usize;
                    match queue.offer(Arrival { bytes: 1, deadline, group: key }, now) {
                        Ok(ticket) => {
                            prop_assert!(!full);
                            known.insert(ticket, (group, rows, deadline));
                        }
                        Err(refusal) => prop_assert!(full, "{refusal:?}"),
                    }
                }
                Op::Finish => if let Some(n) = calls.pop() { queue.finish(n, now) },
                Op::Leave(n) => if let Some(ticket) = known.keys().nth(n).copied() {
                    known.remove(&ticket);
                    prop_assert!(queue.leave(ticket));
                    prop_assert!(!queue.leave(ticket));
                },
                Op::Pass(ms) => now += Duration::from_millis(ms),
                Op::Limits { concurrency, max_rows, max_queue } => {
                    queue.set_limits(Limits { max_queue, ..limits(concurrency, max_rows.map(|n| (n, 10))) });
                }
            }
            for (ticket, refusal) in queue.expire(now) {
                let (_, _, deadline) = known.remove(&ticket).expect("expires once");
                prop_assert_eq!(refusal == Refusal::Deadline, deadline <= now);
            }
            drain(&mut queue, &mut known, &mut calls, now);
            prop_assert_eq!(queue.waiting(), known.len());
            prop_assert_eq!(queue.waiting_bytes(), known.len() as u64);
            prop_assert_eq!(queue.in_flight() as usize, calls.len());
        }
        // The engine finishes everything, and time passes: everybody has gone one way or the other.
        for _ in 0..200 {
            if let Some(n) = calls.pop() { queue.finish(n, now) }
            now += Duration::from_millis(10);
            queue.expire(now).iter().for_each(|(t, _)| { known.remove(t); });
            drain(&mut queue, &mut known, &mut calls, now);
        }
        while let Some(n) = calls.pop() { queue.finish(n, now); drain(&mut queue, &mut known, &mut calls, now); }
        prop_assert!(known.is_empty());
        prop_assert!(queue.groups.is_empty() && queue.heads.is_empty() && queue.full.is_empty());
        prop_assert!(queue.member_of.is_empty() && queue.single.is_empty());
        prop_assert_eq!((queue.in_flight(), queue.waiting_bytes()), (0, 0));
    }
}
