//! Golden screens and golden lines, of moments that a show goes through.

use super::{draw, lines};
use crate::view::{
    EndpointState, EndpointView, EventView, Latency, LoadView, Phase, RevisionView, Role, StepView, View,
};
use insta::assert_snapshot;
use jiff::Timestamp;
use outrigger_crds::status::Weights;
use outrigger_verdict::{Metric, MetricVerdict, Verdict};
use outrigger_wire::{BasisPoints, Period};
use ratatui::backend::TestBackend;
use std::time::Duration;

const OLD: &str = "4b1f0c9a77";
const NEW: &str = "6f9c2e1b4d";

fn screen(view: &View, width: u16, height: u16) -> String {
    let mut terminal = ratatui::Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, view)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let rows = buffer.content.chunks(usize::from(width));
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_176_000 + second).unwrap()
}

fn latency(p50: u64, p95: u64) -> Latency {
    Latency { p50: Some(Duration::from_millis(p50)), p95: Some(Duration::from_millis(p95)) }
}

fn event(second: i64, warning: bool, reason: &str, message: &str) -> EventView {
    EventView { at: at(second), warning, reason: reason.to_owned(), message: message.to_owned() }
}

fn replica(revision: &str, number: u32, state: EndpointState, in_flight: u32, queued: u32) -> EndpointView {
    let id = format!("demo-{revision}-{number}").as_str().into();
    EndpointView { id, revision: revision.into(), state, in_flight, queued, restarts: 0 }
}

fn judged(
    metric: Metric,
    verdict: Verdict,
    values: Option<(f64, f64)>,
    evidence: (f64, f64),
) -> MetricVerdict {
    MetricVerdict {
        metric,
        verdict,
        canary: values.map(|v| v.0),
        stable: values.map(|v| v.1),
        evidence: evidence.0,
        bound: 1.5,
        excluded: evidence.1,
        enough: true,
        reason: match metric {
            Metric::Health => "1 of 1 canary replicas are ready".to_owned(),
            _ => format!("{metric:?} judged {}", verdict.as_str()),
        },
    }
}

fn starting() -> View {
    View {
        now: at(0),
        deployment: "demo".to_owned(),
        model: "demo".to_owned(),
        url: "http://127.0.0.1:8080".to_owned(),
        revisions: vec![RevisionView { id: OLD.into(), ready: 1, wanted: 2, ..RevisionView::default() }],
        endpoints: vec![
            replica(OLD, 0, EndpointState::Ready, 0, 0),
            replica(OLD, 1, EndpointState::Warming, 1, 0),
        ],
        message: "waits for 1 of 2 replicas of 4b1f0c9a77".to_owned(),
        ..View::default()
    }
}

fn two_revisions() -> Vec<RevisionView> {
    let stable = RevisionView {
        id: OLD.into(),
        role: Role::Stable,
        ready: 2,
        wanted: 2,
        rate: Some(71.8),
        errors: Some(0.004),
        duration: latency(58, 72),
        first_token: latency(53, 65),
    };
    let new = RevisionView {
        id: NEW.into(),
        role: Role::Canary,
        ready: 1,
        wanted: 1,
        rate: Some(8.1),
        errors: Some(0.0),
        duration: latency(56, 1250),
        first_token: latency(9, 62),
    };
    vec![stable, new]
}

fn canary() -> View {
    let undecided = Verdict::Undecided { samples: 134, needed: 220, eta: Some(Period::secs(12)) };
    View {
        now: at(14),
        phase: Phase::Canary,
        stable: Some(OLD.into()),
        canary: Some(NEW.into()),
        steps: vec![10, 25, 50],
        step: Some(StepView {
            index: 0,
            weight: 10,
            hold: Duration::from_secs(8),
            left: Some(Duration::from_millis(4_200)),
            paused: false,
        }),
        weights: Weights {
            desired: BasisPoints::percent(10),
            programmed: Some(BasisPoints::percent(10)),
            observed: Some(BasisPoints::new(972)),
        },
        verdicts: vec![
            judged(Metric::Errors, undecided, Some((0.0, 0.004)), (-0.2, 0.8)),
            judged(Metric::TimeToFirstToken, Verdict::Pass, Some((61.2, 62.0)), (0.1, 1.6)),
            judged(Metric::Health, Verdict::Pass, None, (0.0, 0.0)),
        ],
        revisions: two_revisions(),
        endpoints: vec![
            replica(OLD, 0, EndpointState::Ready, 3, 0),
            replica(OLD, 1, EndpointState::Ready, 2, 1),
            replica(NEW, 0, EndpointState::Ready, 1, 0),
        ],
        load: Some(LoadView {
            rate: 80.0,
            sent: 1120,
            ok: 1115,
            shed: 0,
            failed: 0,
            duration: latency(58, 72),
        }),
        events: vec![
            event(2, false, "Serving", "revision 4b1f0c9a77 is ready and serves"),
            event(8, false, "Edited", "the example's engine was edited, as saving a changed file would"),
            event(9, false, "StepReached", "canary 6f9c2e1b4d takes 10% of callers (step 1 of 3)"),
        ],
        ..starting()
    }
}

fn rolled_back() -> View {
    let reason = "errors 9.1 % against 0.4 %: the canary is worse (e-value 10^2.1, bound 10^1.5)".to_owned();
    let mut view = canary();
    view.now = at(31);
    view.phase = Phase::RolledBack { revision: NEW.into(), reason };
    view.canary = None;
    view.step = None;
    view.weights =
        Weights { desired: BasisPoints::ZERO, programmed: Some(BasisPoints::ZERO), observed: None };
    view.verdicts[0] = judged(Metric::Errors, Verdict::Fail, Some((0.091, 0.004)), (2.1, -3.0));
    view.revisions[1].role = Role::Leaving;
    let ended =
        "the engine of demo-6f9c2e1b4d-0 exited with code 1: no kernel image is available for execution";
    view.events.push(event(30, true, "EngineEnded", ended));
    view.endpoints[2].state = EndpointState::Draining;
    view.endpoints[2].restarts = 1;
    view
}

fn promoted() -> View {
    let mut view = canary();
    view.now = at(58);
    view.phase = Phase::Promoted { revision: NEW.into() };
    view.stable = Some(NEW.into());
    view.canary = None;
    view.step = None;
    view.weights = Weights::default();
    view.verdicts[0].verdict = Verdict::Pass;
    view.revisions.swap(0, 1);
    view.revisions[0].role = Role::Stable;
    view.revisions[1].role = Role::Leaving;
    view
}

fn blocked() -> View {
    let mut view = starting();
    view.model = "llama-3.1-8b".to_owned();
    view.phase = Phase::Blocked { reason: "port 8080 is in use by another program".to_owned() };
    view.endpoints[1].state = EndpointState::Pending;
    view
}

#[test]
fn a_start() {
    assert_snapshot!(screen(&starting(), 80, 24));
}

#[test]
fn a_canary() {
    assert_snapshot!(screen(&canary(), 80, 24));
}

#[test]
fn a_roll_back() {
    assert_snapshot!(screen(&rolled_back(), 80, 24));
}

#[test]
fn a_promotion() {
    assert_snapshot!(screen(&promoted(), 80, 24));
}

#[test]
fn a_blocked_start() {
    assert_snapshot!(screen(&blocked(), 80, 24));
}

#[test]
fn a_wide_screen_tells_reasons() {
    assert_snapshot!(screen(&canary(), 130, 30));
}

#[test]
fn a_narrow_screen_keeps_the_sentence() {
    assert_snapshot!(screen(&canary(), 48, 16));
}

#[test]
fn many_replicas_stand_side_by_side() {
    let mut view = canary();
    view.endpoints = (0..16).map(|n| replica(OLD, n, EndpointState::Ready, n, n % 3)).collect();
    assert_snapshot!(screen(&view, 80, 24));
}

#[test]
fn what_happens_again_is_told_once() {
    let mut view = starting();
    for second in 0..40 {
        let replica = second % 2;
        view.events.push(event(second, true, "EngineEnded", &format!("the engine of demo-{replica} exited")));
    }
    assert_snapshot!(screen(&view, 80, 18));
}

#[test]
fn no_size_and_no_moment_breaks_the_screen() {
    let moments = [View::default(), starting(), canary(), rolled_back(), promoted(), blocked()];
    for view in &moments {
        for (width, height) in [(1, 1), (3, 50), (12, 4), (39, 24), (79, 7), (200, 3), (300, 90)] {
            screen(view, width, height);
        }
    }
}

#[test]
fn every_moment_has_its_own_sentence_on_the_second_row() {
    let sentence = |view: &View| screen(view, 160, 24).lines().nth(1).unwrap().to_owned();
    let mut reaching = canary();
    reaching.step.as_mut().unwrap().left = None;
    reaching.weights.desired = BasisPoints::ZERO;
    let mut judging = canary();
    judging.step.as_mut().unwrap().left = Some(Duration::ZERO);
    let mut moving = canary();
    moving.step = Some(StepView { index: 3, weight: 100, left: Some(Duration::ZERO), ..StepView::default() });
    let mut available = canary();
    available.phase = Phase::Available;
    let mut stopping = canary();
    stopping.phase = Phase::Stopping;
    let mut paused = canary();
    paused.step.as_mut().unwrap().paused = true;
    let all =
        [starting(), available, reaching, canary(), paused, judging, moving, promoted(), stopping, blocked()];
    assert_snapshot!(all.iter().map(sentence).collect::<Vec<_>>().join("\n"));
}

#[test]
fn changes_are_told_once_each_in_stable_words() {
    let mut serving = starting();
    serving.now = at(2);
    serving.phase = Phase::Available;
    serving.stable = Some(OLD.into());
    serving.revisions[0].ready = 2;
    serving.endpoints[1].state = EndpointState::Ready;
    let mut next = canary();
    next.now = at(22);
    next.step = Some(StepView { index: 1, weight: 25, ..next.step.unwrap() });
    let mut paused = next.clone();
    paused.now = at(23);
    paused.step.as_mut().unwrap().paused = true;
    let moments = [
        View::default(),
        starting(),
        serving,
        canary(),
        next.clone(),
        paused,
        next,
        rolled_back(),
        blocked(),
    ];
    let told: Vec<String> = moments.windows(2).flat_map(|pair| lines::changes(&pair[0], &pair[1])).collect();
    assert_snapshot!(told.join("\n"));
    for view in &moments {
        assert!(lines::changes(view, view).is_empty() || *view == View::default());
    }
}

#[test]
fn a_message_with_line_breaks_stays_one_line() {
    let mut view = blocked();
    view.phase = Phase::Blocked { reason: "exec:\nno such\tfile\u{1b}[31m".to_owned() };
    let told = lines::changes(&starting(), &view);
    assert!(told.iter().any(|line| line.ends_with("blocked: exec: no such file [31m")), "{told:?}");
}
