//! The show of `outrigger up`: promoted when the new revision is good, rolled back when it is bad, without anything
//! of the analysis being set. Two at a time: each takes about half a minute of waiting.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod running;

use running::Up;
use std::time::Duration;

/// What the show may take, from the load's start: ninety seconds, and the start of everything on a busy machine.
const SETTLED: Duration = Duration::from_secs(120);

fn show(bad: Option<&str>) -> (Option<i32>, String) {
    let marker = format!("outrigger-show-{}-{}", bad.unwrap_or("good"), std::process::id());
    let mut args = vec!["--listen", "127.0.0.1:0", "--exit-when-settled"];
    args.extend(bad.iter().flat_map(|bad| ["--bad", bad]));
    let mut up = Up::start(&marker, &args);
    up.line_within(&["stopping"], SETTLED);
    let code = up.end().code();
    up.gone();
    (code, up.said())
}

/// proves R.6
#[test]
fn a_good_revision_is_promoted() {
    let (code, said) = show(None);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("step 3/3 weight 50%") && said.contains("promoted"), "{said}");
    assert!(!said.contains("restarted"), "{said}");
}

#[track_caller]
fn rolled_back(bad: &str, reasons: &[&str]) {
    let (code, said) = show(Some(bad));
    assert_eq!(code, Some(3), "{said}");
    let line = said.lines().find(|line| line.contains("rolled back")).unwrap_or_default();
    assert!(reasons.iter().any(|reason| line.contains(reason)), "{said}");
}

#[test]
fn a_revision_that_fails_is_rolled_back() {
    rolled_back("errors", &["errors"]);
}

#[test]
fn a_slow_revision_is_rolled_back() {
    rolled_back("latency", &["first token"]);
}

/// proves R.19
#[test]
fn a_revision_that_hangs_is_rolled_back() {
    rolled_back("hang", &["errors", "first token"]);
}

/// proves R.17
#[test]
fn a_revision_that_crashes_is_rolled_back() {
    rolled_back("crash", &["restarted", "errors"]);
}
