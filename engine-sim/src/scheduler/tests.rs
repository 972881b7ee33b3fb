//! The scheduler step by step, and over drawn loads.

use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

fn timing() -> Timing {
    Timing {
        overhead: Duration::ZERO,
        prefill_per_token: Duration::from_micros(100),
        iteration: MS,
        decode_per_sequence: Duration::from_micros(10),
        ..Timing::default()
    }
}

/// Steps whenever it asks to be stepped, until it is idle.
fn run(scheduler: &mut Scheduler, from: Duration) -> (Vec<Progress>, Stepped) {
    let (mut now, mut all, mut sums) = (from, Vec::new(), Stepped::default());
    for _ in 0..100_000 {
        let stepped = scheduler.step(now, &timing());
        all.extend(stepped.progress);
        sums.preempted += stepped.preempted;
        sums.prefilled += stepped.prefilled;
        sums.iterations.extend(stepped.iterations);
        match stepped.wake {
            Some(wake) => now = now.max(wake),
            None => return (all, sums),
        }
    }
    panic!("never idle");
}

#[test]
fn one_sequence_pays_prefill_once_and_then_one_iteration_per_token() {
    let mut scheduler = Scheduler::new(Limits::default());
    assert!(scheduler.submit(1, 10, 3, 5 * MS));
    assert_eq!(scheduler.step(Duration::ZERO, &timing()).wake, Some(5 * MS));
    assert_eq!(scheduler.load().0, 0, "it is not there before it has arrived");
    let (progress, sums) = run(&mut scheduler, 5 * MS);
    let at: Vec<_> = progress.iter().map(|p| (p.tokens, p.finished, p.at.as_micros())).collect();
    assert_eq!(at, [(1, false, 7_000), (2, false, 8_010), (3, true, 9_020)]);
    assert_eq!((sums.prefilled, sums.iterations), (10, vec![10, 1, 1]));
    assert_eq!(scheduler.load(), (0, 0, 0.0));
}

#[test]
fn a_long_prompt_is_prefilled_in_chunks_and_others_go_on_meanwhile() {
    let mut scheduler = Scheduler::new(Limits { max_batched_tokens: 100, ..Limits::default() });
    scheduler.submit(1, 1, 50, Duration::ZERO);
    scheduler.submit(2, 1000, 1, MS);
    let (progress, sums) = run(&mut scheduler, Duration::ZERO);
    assert!(sums.iterations.iter().all(|tokens| *tokens <= 100));
    let second = progress.iter().find(|p| p.id == 2).unwrap().at;
    let others = progress.iter().filter(|p| p.id == 1 && p.at < second).count();
    assert!(others >= 10, "{others} tokens of the first while the second was prefilled");
}

#[test]
fn more_than_fit_wait_in_their_order() {
    let mut scheduler = Scheduler::new(Limits { max_sequences: 2, ..Limits::default() });
    for id in 1..=5 {
        scheduler.submit(id, 4, 4, Duration::ZERO);
    }
    scheduler.step(Duration::ZERO, &timing());
    assert_eq!((scheduler.load().0, scheduler.load().1), (2, 3));
    let (progress, _) = run(&mut scheduler, Duration::ZERO);
    let ended: Vec<_> = progress.iter().filter(|p| p.finished).map(|p| p.id).collect();
    assert_eq!(ended, [1, 2, 3, 4, 5]);
}

#[test]
fn a_full_cache_makes_the_next_wait_and_the_last_start_over() {
    let limits = Limits { blocks: 4, block_size: 4, ..Limits::default() };
    let mut scheduler = Scheduler::new(limits);
    assert!(!scheduler.submit(9, 8, 9, Duration::ZERO), "17 tokens can never fit 16");
    scheduler.submit(1, 6, 9, Duration::ZERO);
    scheduler.submit(2, 6, 9, Duration::ZERO);
    scheduler.submit(3, 6, 9, Duration::ZERO);
    scheduler.step(Duration::ZERO, &timing());
    assert_eq!(scheduler.load(), (2, 1, 1.0));
    let (progress, sums) = run(&mut scheduler, Duration::ZERO);
    assert!(sums.preempted >= 1);
    assert_eq!(progress.iter().filter(|p| p.finished).count(), 3, "all end nevertheless");
    let tokens: Vec<_> = progress.iter().filter(|p| p.id == 2).map(|p| p.tokens).collect();
    assert_eq!(tokens, (1..=9).collect::<Vec<_>>(), "no token twice after starting over");
    assert_eq!(scheduler.load(), (0, 0, 0.0));
}

#[test]
fn a_frozen_one_keeps_everything_and_does_nothing() {
    let mut scheduler = Scheduler::new(Limits::default());
    scheduler.submit(1, 4, 4, Duration::ZERO);
    scheduler.step(Duration::ZERO, &timing());
    scheduler.freeze(true);
    assert_eq!(scheduler.step(3600 * 1000 * MS, &timing()), Stepped::default());
    assert_eq!(scheduler.load().0, 1);
    scheduler.freeze(false);
    assert!(!run(&mut scheduler, 3600 * 1000 * MS).0.is_empty());
}

#[test]
fn a_caller_that_comes_late_is_not_made_up_for_without_bound() {
    let mut scheduler = Scheduler::new(Limits::default());
    scheduler.submit(1, 1, 4000, Duration::ZERO);
    scheduler.step(Duration::ZERO, &timing());
    let stepped = scheduler.step(3600 * 1000 * MS, &timing());
    assert!(stepped.progress.len() < 10, "{}", stepped.progress.len());
}

proptest! {
    #[test]
    fn whatever_comes_and_leaves_nothing_is_lost_or_leaked(
        limits in (1u32..6, 1u32..40, 4u32..30, 1u32..8),
        sequences in prop::collection::vec((1u32..30, 1u32..30, 0u64..50, prop::option::of(0u64..80)), 1..30),
    ) {
        let (max_sequences, max_batched_tokens, blocks, block_size) = limits;
        let limits = Limits { max_sequences, max_batched_tokens, blocks, block_size, max_waiting: 100 };
        let mut scheduler = Scheduler::new(limits.clone());
        let mut left = std::collections::BTreeSet::new();
        let mut leaving: Vec<(u64, u64)> = Vec::new();
        for (id, (prompt, wanted, ready, leaves)) in sequences.iter().enumerate() {
            let taken = scheduler.submit(id as u64, *prompt, *wanted, MS * *ready as u32);
            prop_assert_eq!(taken, prompt + wanted <= limits.tokens());
            if taken {
                left.insert(id as u64);
                leaving.extend(leaves.map(|at| (at, id as u64)));
            }
        }
        for ms in 0..5_000u64 {
            for progress in scheduler.step(MS * ms as u32, &timing()).progress {
                prop_assert!(left.contains(&progress.id));
                if progress.finished {
                    left.remove(&progress.id);
                }
            }
            let (running, _, used) = scheduler.load();
            prop_assert!(running <= max_sequences as usize);
            prop_assert!((0.0..=1.0).contains(&used));
            for (_, id) in leaving.iter().filter(|(at, _)| *at == ms) {
                prop_assert_eq!(scheduler.abort(*id), left.remove(id));
            }
            if left.is_empty() {
                break;
            }
        }
        prop_assert!(left.is_empty(), "{:?} never ended", left);
        prop_assert_eq!(scheduler.load(), (0, 0, 0.0));
    }
}
