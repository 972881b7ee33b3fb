//! The ladder, rung by rung.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn settings(stall_after: u32) -> Settings {
    Settings { stall_after: stall_after * SECOND, prepaid_every: Some(PREPAID_EVERY) }
}

/// An engine's health with a clock, an idle engine, and the actions that were asked for.
struct Case {
    health: Health,
    now: Instant,
    load: Load,
    actions: Vec<Action>,
}

impl Case {
    fn new() -> Self {
        let now = Instant::now();
        let health = Health::new(settings(30), Vec::new(), 100, now);
        let load = Load { in_flight: 0, progress: now, stretch: Duration::ZERO };
        Self { health, now, load, actions: Vec::new() }
    }

    /// Up, warmed and idle.
    fn ready() -> Self {
        let mut case = Self::new();
        case.come_up();
        case
    }

    fn tell(&mut self, event: Event) -> &mut Self {
        let actions = self.health.step(event, self.now);
        self.actions.extend(actions);
        self
    }

    fn come_up(&mut self) {
        self.tell(Event::Tick);
        assert_eq!(self.take(), [Action::Dial]);
        self.tell(Event::Dialled(Dial::Taken));
        let n = self.health.incarnation();
        assert_eq!(self.take(), [Action::AskReady(n)]);
        self.tell(Event::AskedReady(n, Answer::Good));
        assert_eq!(self.take(), [Action::WarmUp(n)]);
        assert_eq!(self.health.state(), EngineState::Warming);
        self.tell(Event::WarmedUp(n, Answer::Good));
        assert_eq!((self.health.state(), self.take()), (EngineState::Ready, vec![]));
    }

    fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// One request is in the engine from now on.
    fn work(&mut self) -> &mut Self {
        self.load = Load { in_flight: 1, progress: self.now, stretch: Duration::ZERO };
        self.tell(Event::Load(self.load))
    }

    /// Time passes a second at a time, as the loop samples it.
    fn pass(&mut self, seconds: u64) -> &mut Self {
        for _ in 0..seconds {
            self.now += SECOND;
            self.tell(Event::Load(self.load));
        }
        self
    }

    fn aborted(&self) -> bool {
        self.actions.iter().any(|a| matches!(a, Action::Abort(_)))
    }
}

/// proves H.4
#[test]
fn ready_means_that_an_inference_was_answered() {
    let mut case = Case::new();
    case.tell(Event::Tick);
    assert_eq!((case.health.state(), case.take()), (EngineState::Starting, vec![Action::Dial]));
    case.tell(Event::Dialled(Dial::Refused));
    assert_eq!(case.health.state(), EngineState::Starting, "it was never there");
    case.now += SECOND;
    case.tell(Event::Tick).tell(Event::Dialled(Dial::Taken));
    assert_eq!(case.take(), [Action::Dial, Action::AskReady(1)]);
    case.tell(Event::AskedReady(1, Answer::Bad));
    assert_eq!((case.health.state(), case.take()), (EngineState::Starting, vec![]), "still loading");
    case.now += SECOND;
    case.tell(Event::Tick).tell(Event::AskedReady(1, Answer::Good));
    assert_eq!(case.take(), [Action::AskReady(1), Action::WarmUp(1)]);
    for answer in [Answer::Bad, Answer::Nothing, Answer::Busy] {
        case.tell(Event::WarmedUp(1, answer));
        assert_eq!(case.health.state(), EngineState::Warming, "{answer:?}");
        assert!(case.health.wake_at(case.now).is_some());
        case.now += 3 * SECOND;
        case.tell(Event::Tick);
        assert_eq!(case.take(), [Action::WarmUp(1)]);
    }
    case.tell(Event::WarmedUp(1, Answer::Good));
    assert_eq!(case.health.state(), EngineState::Ready);
    let wake = case.health.wake_at(case.now).unwrap();
    assert!(wake > case.now + 10 * SECOND, "an idle engine costs next to nothing");
}

/// proves H.2, H.4
#[test]
fn a_crash_is_noticed_on_the_first_refused_connection() {
    let mut case = Case::ready();
    case.work();
    case.tell(Event::Refused);
    assert_eq!((case.health.state(), case.take()), (EngineState::Gone, vec![Action::Dial]));
    case.tell(Event::Dialled(Dial::Refused));
    case.now += SECOND;
    // Answers that were asked of the old one say nothing about the new one.
    case.come_up();
    assert_eq!(case.health.incarnation(), 2);
    let mut case = Case::ready();
    case.tell(Event::HoldEnded).tell(Event::Dialled(Dial::Refused));
    assert_eq!(case.health.state(), EngineState::Gone);
    case.now += SECOND;
    case.tell(Event::Tick).tell(Event::Dialled(Dial::Taken));
    case.tell(Event::AskedReady(2, Answer::Good)).tell(Event::WarmedUp(1, Answer::Good));
    assert_eq!(case.health.state(), EngineState::Warming, "the old run's warm-up doesn't count");
}

/// proves H.2
#[test]
fn an_engine_that_accepts_and_never_answers_climbs_the_ladder() {
    let mut case = Case::ready();
    case.work().pass(7);
    assert_eq!(case.take(), []);
    case.pass(1);
    assert_eq!(case.take(), [Action::ReadCounters(1)]);
    case.tell(Event::Counted(1, None)).pass(6);
    case.take();
    case.pass(1);
    assert!(case.take().contains(&Action::Probe(1)));
    case.pass(14);
    assert_eq!((case.health.state(), case.aborted()), (EngineState::Ready, false));
    case.pass(1);
    assert_eq!((case.health.state(), case.aborted()), (EngineState::Stalled, true));
    assert_eq!(case.health.restart(), None, "one rung at a time");
    case.load.in_flight = 0;
    case.tell(Event::Probed(1, Answer::Nothing)).pass(15);
    let restart = case.health.restart().unwrap().clone();
    assert_eq!(restart.incarnation, 1);
    assert!(restart.reason.contains("no progress"), "{}", restart.reason);
    case.tell(Event::HoldEnded);
    assert_eq!(case.health.restart(), None, "the verdict doesn't outlive its incarnation");
}

/// proves H.1
#[test]
fn busy_is_not_dead() {
    // Bytes, counters, and the answer to a small inference are each enough, for hours.
    for sign in 0..3 {
        let mut case = Case::ready();
        case.work();
        for i in 0..400u32 {
            case.pass(10);
            match sign {
                0 => case.load.progress = case.now,
                1 => drop(case.tell(Event::Counted(1, Some(f64::from(i))))),
                _ => drop(case.tell(Event::Probed(1, Answer::Good))),
            }
            assert_eq!(case.health.state(), EngineState::Ready, "sign {sign}, {i}");
        }
        assert!(!case.aborted());
        assert_eq!(case.health.restart(), None);
    }
}

/// proves H.1
#[test]
fn a_long_prefill_stretches_the_bound_with_its_length() {
    let mut case = Case::ready();
    case.work();
    case.load.stretch = stretch(100 * 2048);
    case.tell(Event::Counted(1, Some(1.0)));
    for _ in 0..129 {
        case.pass(1).tell(Event::Counted(1, Some(1.0)));
    }
    assert_eq!((case.health.state(), case.aborted()), (EngineState::Ready, false));
    case.pass(1);
    assert_eq!(case.health.state(), EngineState::Stalled, "but not for ever");
    assert_eq!(stretch(0), Duration::ZERO);
    assert!(stretch(u64::MAX) > Duration::from_secs(1));
}

/// proves H.1
#[test]
fn lost_counters_are_not_counters_that_stand_still() {
    let mut case = Case::ready();
    case.work().tell(Event::Counted(1, Some(5.0)));
    for _ in 0..100 {
        case.pass(10).tell(Event::Counted(1, None)).tell(Event::Probed(1, Answer::Busy));
    }
    assert_eq!((case.health.state(), case.aborted()), (EngineState::Ready, false));
    // The same answer from an engine whose counters do stand still proves nothing.
    for _ in 0..3 {
        case.pass(10).tell(Event::Counted(1, Some(5.0))).tell(Event::Probed(1, Answer::Busy));
    }
    assert_eq!(case.health.state(), EngineState::Stalled);
}

/// proves H.3
#[test]
fn an_error_or_a_refusal_is_no_reason_to_restart() {
    for answer in [Answer::Bad, Answer::Busy] {
        let mut case = Case::ready();
        case.work();
        for _ in 0..50 {
            case.pass(20).tell(Event::Probed(1, answer));
        }
        assert_eq!((case.health.state(), case.health.restart()), (EngineState::Ready, None));
    }
}

#[test]
fn what_comes_back_by_itself_is_not_restarted() {
    let mut case = Case::ready();
    case.work().pass(50);
    assert!(case.health.restart().is_some());
    case.tell(Event::Probed(1, Answer::Good));
    assert_eq!((case.health.state(), case.health.restart()), (EngineState::Ready, None));
    // And what was not needed was not spent.
    case.pass(50);
    assert!(case.health.restart().is_some());
}

/// proves H.5
#[test]
fn one_restart_is_prepaid_and_no_more() {
    let mut case = Case::ready();
    case.work().pass(50);
    assert!(case.health.restart().is_some());
    case.tell(Event::HoldEnded).tell(Event::Dialled(Dial::Taken));
    case.tell(Event::AskedReady(2, Answer::Good)).tell(Event::WarmedUp(2, Answer::Good));
    assert_eq!(case.health.state(), EngineState::Ready);
    case.work().pass(300);
    assert_eq!((case.health.state(), case.health.restart()), (EngineState::Stalled, None), "budget spent");
    case.pass(300);
    assert_eq!(case.health.restart().unwrap().incarnation, 2, "ten minutes later there is one again");
    assert_eq!(case.health.asks(), None);
}

/// proves H.5
#[test]
fn a_further_restart_is_asked_for_and_its_grant_holds_for_that_stall_alone() {
    let mut case = Case::ready();
    case.tell(Event::Granted(101)).work().pass(50);
    assert_eq!(case.health.orders().len(), 1, "the prepaid one");
    case.tell(Event::HoldEnded).tell(Event::Dialled(Dial::Taken));
    case.tell(Event::AskedReady(2, Answer::Good)).tell(Event::WarmedUp(2, Answer::Good));
    case.work().pass(44);
    assert_eq!(case.health.asks(), None, "not before it is due");
    case.pass(1);
    let ask = case.health.asks().unwrap();
    assert_eq!((ask.incarnation, ask.since), (2, case.now));
    case.tell(Event::Granted(ask.number - 1)).tell(Event::Granted(ask.number + 1));
    assert_eq!((case.health.restart(), case.health.asks()), (None, Some(ask)), "others' numbers");
    // It comes back by itself and gets stuck again: that is another ask.
    case.tell(Event::Probed(2, Answer::Good)).tell(Event::Granted(ask.number));
    assert_eq!((case.health.restart(), case.health.asks()), (None, None));
    case.pass(50).tell(Event::Granted(ask.number));
    assert_eq!(case.health.restart(), None, "the old grant is worth nothing");
    let second = case.health.asks().unwrap();
    assert!(second.number > ask.number);
    case.tell(Event::Granted(second.number));
    assert_eq!(case.health.restart().unwrap().incarnation, 2);
    assert_eq!(case.health.orders().last().unwrap().number, second.number);
    case.tell(Event::Granted(second.number));
    assert_eq!(case.health.orders().len(), 2, "it is spent once");
}

/// proves H.5
#[test]
fn a_successor_knows_what_was_ordered_and_none_means_none() {
    let now = Instant::now();
    let load = Load { in_flight: 0, progress: now, stretch: Duration::ZERO };
    let before = vec![Order { number: 7, at: now }];
    let health = Health::new(settings(30), before, 100, now);
    let mut case = Case { health, now, load, actions: Vec::new() };
    case.come_up();
    case.work().pass(100);
    assert_eq!((case.health.restart(), case.health.asks().is_some()), (None, true));
    let mut case = Case::ready();
    case.tell(Event::Settings(Settings { prepaid_every: None, ..settings(30) })).work().pass(2000);
    assert_eq!((case.health.restart(), case.health.asks().is_some()), (None, true));
}

/// proves H.4
#[test]
fn a_warm_up_that_fails_for_good_is_told_and_tried_further() {
    let mut case = Case::new();
    case.tell(Event::Tick).tell(Event::Dialled(Dial::Taken)).tell(Event::AskedReady(1, Answer::Good)).take();
    for _ in 0..WARM_UPS {
        assert!(!case.health.warm_up_failed());
        case.tell(Event::WarmedUp(1, Answer::Bad)).pass(2);
        assert_eq!(case.take(), [Action::WarmUp(1)]);
    }
    assert!(case.health.warm_up_failed());
    case.tell(Event::WarmedUp(1, Answer::Good));
    assert_eq!((case.health.state(), case.health.warm_up_failed()), (EngineState::Ready, false));
}

#[test]
fn an_idle_engine_is_never_stuck() {
    let mut case = Case::ready();
    for _ in 0..100 {
        case.pass(21);
        assert_eq!((case.health.state(), case.take()), (EngineState::Ready, vec![Action::Dial]));
        case.tell(Event::Dialled(Dial::Taken));
    }
}

#[test]
fn a_changed_bound_holds_at_once() {
    let mut case = Case::ready();
    case.work().pass(5);
    case.tell(Event::Settings(settings(5)));
    assert_eq!(case.health.state(), EngineState::Stalled);
}

/// An idle end, the next connection taken at once, and what the engine answers to the two questions.
fn idle_end(case: &mut Case) {
    let n = case.health.incarnation();
    case.tell(Event::HoldEnded);
    assert_eq!((case.health.state(), case.take()), (EngineState::Ready, vec![Action::Dial]));
    case.tell(Event::Dialled(Dial::Taken));
    assert_eq!((case.health.state(), case.take()), (EngineState::Ready, vec![Action::AskReady(n)]));
    case.tell(Event::AskedReady(n, Answer::Good));
    assert_eq!((case.health.state(), case.take()), (EngineState::Ready, vec![Action::WarmUp(n)]));
    case.tell(Event::WarmedUp(n, Answer::Good));
    assert_eq!(
        (case.health.state(), case.health.incarnation(), case.take()),
        (EngineState::Ready, n, vec![])
    );
}

/// proves H.1
#[test]
fn an_engine_that_closes_idle_connections_is_held_by_fresh_ones() {
    let mut case = Case::ready();
    case.pass(12);
    idle_end(&mut case);
    assert_eq!(case.health.wake_at(case.now), Some(case.now + 9 * SECOND));
    for _ in 0..10 {
        case.pass(9);
        assert_eq!(case.take(), [Action::Dial]);
        // A failure of the renewal while the old one is held means nothing.
        case.tell(Event::Dialled(Dial::Failed)).pass(1);
        assert_eq!((case.take(), case.health.state()), (vec![Action::Dial], EngineState::Ready));
        case.tell(Event::Dialled(Dial::Taken));
        assert_eq!(case.take(), [], "no end, no doubt");
    }
    assert_eq!((case.health.state(), case.health.incarnation()), (EngineState::Ready, 1));
    case.pass(1).tell(Event::HoldEnded).tell(Event::Dialled(Dial::Refused));
    assert_eq!(case.health.state(), EngineState::Gone, "this one meant something");
}

/// An impatient server that is slow to warm up would otherwise begin anew for ever.
#[test]
fn an_idle_end_does_not_interrupt_a_warm_up() {
    let mut case = Case::new();
    case.tell(Event::Tick).tell(Event::Dialled(Dial::Taken)).tell(Event::AskedReady(1, Answer::Good)).take();
    for _ in 0..3 {
        case.pass(5);
        assert_eq!(case.health.wake_at(case.now).filter(|at| *at <= case.now), None, "nothing is due");
        case.tell(Event::HoldEnded).tell(Event::Dialled(Dial::Taken));
        assert_eq!((case.health.state(), case.health.incarnation()), (EngineState::Warming, 1));
        case.pass(3).tell(Event::Dialled(Dial::Taken));
    }
    case.tell(Event::WarmedUp(1, Answer::Good));
    assert_eq!(case.health.state(), EngineState::Ready);
}

/// proves H.4
#[test]
fn an_end_whose_next_connection_is_not_taken_is_the_engines_end() {
    for dial in [Dial::Refused, Dial::Failed] {
        let mut case = Case::ready();
        case.pass(12).tell(Event::HoldEnded).tell(Event::Dialled(dial));
        assert_eq!(case.health.state(), EngineState::Gone, "{dial:?}");
        case.take();
        case.now += SECOND;
        case.come_up();
        assert_eq!(case.health.incarnation(), 2);
        // And nothing was learned of its way with idle connections.
        assert_eq!(case.health.wake_at(case.now), Some(case.now + 21 * SECOND));
    }
}

/// proves H.4
#[test]
fn a_crash_with_work_in_flight_is_a_new_run_even_if_the_next_connection_is_taken() {
    let starts = (EngineState::Starting, 2);
    // The broken request is seen before the end, after it, or after the next connection is taken.
    for order in 0..3 {
        let mut case = Case::ready();
        case.work().pass(3);
        let events = [Event::HoldEnded, Event::Dialled(Dial::Taken)];
        for (i, event) in events.into_iter().enumerate() {
            if i == order {
                case.tell(Event::Broke);
            }
            case.tell(event);
        }
        if order == 2 {
            case.tell(Event::Broke);
        }
        // Where the break was known first, the dial had to come again.
        if case.health.state() == EngineState::Gone {
            case.tell(Event::Dialled(Dial::Taken));
        }
        assert_eq!((case.health.state(), case.health.incarnation()), starts, "order {order}");
        case.tell(Event::AskedReady(1, Answer::Good)).tell(Event::WarmedUp(1, Answer::Good));
        assert_eq!((case.health.state(), case.health.incarnation()), starts, "of the old run");
        case.tell(Event::AskedReady(2, Answer::Good)).tell(Event::WarmedUp(2, Answer::Good));
        assert_eq!(case.health.state(), EngineState::Ready);
    }
    // One request that breaks alone is no crash, and one that broke long ago isn't this one.
    let mut case = Case::ready();
    case.tell(Event::Broke).pass(5);
    assert_eq!(case.health.state(), EngineState::Ready);
    idle_end(&mut case);
}

/// proves H.4
#[test]
fn a_fast_restart_that_is_not_up_yet_is_warmed_up() {
    for answer in [Answer::Bad, Answer::Nothing] {
        let mut case = Case::ready();
        case.pass(5).tell(Event::HoldEnded).tell(Event::Dialled(Dial::Taken));
        case.tell(Event::AskedReady(1, answer));
        assert_eq!((case.health.state(), case.health.incarnation()), (EngineState::Starting, 2));
        let mut case = Case::ready();
        case.pass(5).tell(Event::HoldEnded).tell(Event::Dialled(Dial::Taken));
        case.tell(Event::AskedReady(1, Answer::Good)).tell(Event::WarmedUp(1, answer));
        assert_eq!((case.health.state(), case.health.incarnation()), (EngineState::Starting, 2));
        assert!(case.take().contains(&Action::AskReady(2)), "as after any start");
    }
}

/// proves H.1
#[test]
fn work_that_goes_on_shows_that_it_is_the_same_run() {
    let mut case = Case::ready();
    case.work().pass(5).tell(Event::HoldEnded).tell(Event::Dialled(Dial::Taken));
    case.pass(5).tell(Event::AskedReady(1, Answer::Nothing));
    assert_eq!((case.health.state(), case.health.incarnation()), (EngineState::Ready, 1));
}

#[test]
fn an_engine_that_leaves_no_connection_open_is_not_taken_for_dead() {
    let mut case = Case::ready();
    // Until the first end is explained, the ends that follow neither count nor make a storm.
    case.tell(Event::HoldEnded).tell(Event::Dialled(Dial::Taken)).take();
    case.tell(Event::HoldEnded);
    assert_eq!((case.health.state(), case.take()), (EngineState::Ready, vec![]));
    assert!(case.health.wake_at(case.now).is_some_and(|at| at > case.now));
    case.now += SECOND;
    case.tell(Event::Tick).tell(Event::Dialled(Dial::Taken));
    assert_eq!(case.take(), [Action::Dial]);
    case.tell(Event::AskedReady(1, Answer::Good)).tell(Event::WarmedUp(1, Answer::Good)).take();
    for _ in 0..5 {
        case.tell(Event::HoldEnded).pass(61).tell(Event::Dialled(Dial::Taken));
        assert_eq!((case.health.state(), case.health.incarnation()), (EngineState::Ready, 1));
        assert_eq!(case.take(), [Action::Dial]);
    }
    // Another program may hold connections: the end of one that lasted means something again.
    case.pass(100).tell(Event::HoldEnded);
    assert_eq!(case.take(), [Action::Dial]);
    case.tell(Event::Refused);
    assert_eq!(case.health.state(), EngineState::Gone);
}
