//! Repeated, noisy and long events.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use super::*;

fn meta(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("models".to_owned()),
        uid: Some(format!("uid-{name}")),
        ..ObjectMeta::default()
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn told(note: &str) -> Told {
    Told::new(&meta("chat"), true, "Blocked", note)
}

#[test]
fn a_new_event_says_what_the_api_asks_for() {
    let mut ledger = Ledger::default();
    let note = "blocked: needs 1 × nvidia.com/gpu, 0 of 2 free";
    let Write::Create(event) = ledger.record(&told(note), "outrigger-operator-0", at(0), 7) else {
        panic!("it is new")
    };
    insta::assert_yaml_snapshot!(event);
}

#[test]
fn an_event_may_be_a_pods() {
    let told = Told::pod("team", "own-7f-x", "uid-7", true, "SidecarUpgradeHalted", "not found");
    let Write::Create(event) = Ledger::default().record(&told, "me", at(0), 7) else { panic!("it is new") };
    let of = event.regarding.as_ref().unwrap();
    assert_eq!((of.api_version.as_deref(), of.kind.as_deref()), (Some("v1"), Some("Pod")));
    assert_eq!((of.namespace.as_deref(), of.name.as_deref()), (Some("team"), Some("own-7f-x")));
    assert_eq!((of.uid.as_deref(), event.metadata.namespace.as_deref()), (Some("uid-7"), Some("team")));
    assert_eq!((event.type_.as_deref(), event.action.as_deref()), (Some("Warning"), Some("Upgrade")));
}

#[test]
fn what_is_said_again_is_counted() {
    let mut ledger = Ledger::default();
    let mut created = 0;
    let mut written: Vec<(i64, i32)> = Vec::new();
    for second in 0..120 {
        match ledger.record(&told("the same"), "me", at(second), 1) {
            Write::Create(_) => created += 1,
            Write::Count { series, .. } => written.push((second, series.count)),
            Write::Later => {}
            Write::TooMuch => panic!("{second}"),
        }
    }
    assert_eq!(created, 1);
    assert_eq!(written, [(1, 2), (31, 32), (61, 62), (91, 92)]);
    // The rest is written when nothing follows.
    let due = ledger.due(at(121));
    assert!(matches!(&due[..], [Write::Count { series, .. }] if series.count == 120), "{due:?}");
    assert!(ledger.due(at(151)).is_empty());
    // After ten minutes of silence it is news again.
    assert!(matches!(ledger.record(&told("the same"), "me", at(119 + 600), 2), Write::Create(_)));
}

#[test]
fn other_words_objects_and_reasons_are_other_events() {
    let mut ledger = Ledger::default();
    let all = [
        told("one"),
        told("another"),
        Told::new(&meta("other"), true, "Blocked", "one"),
        Told::new(&meta("chat"), true, "Undecided", "one"),
        Told::new(&meta("chat"), false, "Blocked", "one"),
    ];
    for one in &all {
        assert!(matches!(ledger.record(one, "me", at(0), 1), Write::Create(_)), "{one:?}");
    }
}

/// One object that says ever something else is cut short; the others aren't.
#[test]
fn a_flood_is_cut_short() {
    let mut ledger = Ledger::default();
    let mut created = 0;
    for n in 0..1000 {
        let write = ledger.record(&told(&format!("{n} of 1000")), "me", at(n / 10), n as u64);
        created += usize::from(matches!(write, Write::Create(_)));
    }
    assert!((25..=36).contains(&created), "{created}");
    let calm = Told::new(&meta("other"), false, "Serving", "fine");
    assert!(matches!(ledger.record(&calm, "me", at(100), 1), Write::Create(_)));
}

#[test]
fn what_is_remembered_is_bounded_and_forgotten() {
    let mut ledger = Ledger::default();
    for n in 0..5000u64 {
        let one = Told::new(&meta(&format!("chat-{n}")), false, "Serving", "fine");
        ledger.record(&one, "me", at(0), n);
    }
    assert!(ledger.series.len() <= MOST);
    assert!(ledger.due(at(601)).is_empty());
    assert!(ledger.series.is_empty() && ledger.allowances.is_empty());
}

#[test]
fn long_notes_are_cut_at_a_character() {
    let note = "×".repeat(2000);
    let told = told(&note);
    assert!(told.note.len() <= LONGEST_NOTE && told.note.ends_with("×…"), "{}", told.note.len());
    let short = Told::new(&meta("chat"), true, &"R".repeat(500), "fine");
    assert!(short.reason.len() <= LONGEST_WORD);
    let mut ledger = Ledger::default();
    let long = Told::new(&meta(&"n".repeat(253)), true, "Blocked", "fine");
    let Write::Create(event) = ledger.record(&long, &"i".repeat(300), at(0), u64::MAX) else { panic!("new") };
    assert!(event.metadata.name.unwrap().len() <= 253);
    assert!(event.reporting_instance.unwrap().len() <= 128);
}

#[test]
fn an_event_that_was_not_written_is_news_again() {
    let mut ledger = Ledger::default();
    let Write::Create(event) = ledger.record(&told("one"), "me", at(0), 1) else { panic!("new") };
    ledger.gone("models", &event.metadata.name.unwrap());
    assert!(matches!(ledger.record(&told("one"), "me", at(1), 2), Write::Create(_)));
}
