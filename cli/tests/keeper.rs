//! What a keeper keeps does not outlive it, nor whoever started it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod running;

use running::{kill, named, processes, wait_until};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

struct Keeper {
    child: Child,
    commands: Option<ChildStdin>,
    reports: BufReader<ChildStdout>,
    pid: i32,
    marker: String,
}

/// Runs a shell script behind a keeper, `MARKER` in the environment of all.
fn keep(marker: &str, script: &str) -> Keeper {
    let marker = format!("{marker}-{}", std::process::id());
    let mut child = named("outrigger-keeper")
        .args(["/bin/sh", "sh", "-c", script])
        .env("MARKER", &marker)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let commands = child.stdin.take();
    let mut keeper =
        Keeper { reports: BufReader::new(child.stdout.take().unwrap()), child, commands, pid: 0, marker };
    keeper.pid = keeper.report().strip_prefix("started ").unwrap().parse().unwrap();
    keeper
}

impl Keeper {
    fn report(&mut self) -> String {
        let mut line = String::new();
        self.reports.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn say(&mut self, line: &str) {
        writeln!(self.commands.as_mut().unwrap(), "{line}").unwrap();
    }

    #[track_caller]
    fn gone(&mut self) {
        assert!(self.child.wait().is_ok());
        wait_until("all are gone", || processes(&self.marker).is_empty());
    }
}

/// A child that leaves its process group and session, and a grandchild that loses its parent: as engines' workers do.
const WORKERS: &str = "setsid sleep 611 & (setsid sh -c 'sleep 612 & sleep 613' &) ; ";

fn with_workers(marker: &str, then: &str) -> Keeper {
    let keeper = keep(marker, &format!("{WORKERS}{then}"));
    // The keeper, its program, four workers.
    wait_until("the workers run", || processes(&keeper.marker).len() >= 6);
    keeper
}

#[test]
fn reports_how_the_program_ended() {
    for (script, how) in
        [("exit 3", "exited code 3"), ("exit 0", "exited code 0"), ("kill -ABRT $$", "exited signal 6")]
    {
        let mut keeper = keep("how", script);
        assert_eq!(keeper.report(), how);
        keeper.gone();
    }
}

#[test]
fn what_the_program_leaves_behind_is_killed() {
    let mut keeper = keep("behind", &format!("{WORKERS} exit 5"));
    assert_eq!(keeper.report(), "exited code 5");
    keeper.gone();
}

#[test]
fn the_end_of_its_starter_kills_everything() {
    let mut keeper = with_workers("starter", "sleep 614");
    drop(keeper.commands.take());
    keeper.gone();
}

#[test]
fn kill_kills_everything_even_what_ignores_signals() {
    let mut keeper = with_workers("kill", "trap '' TERM INT HUP; sleep 615; sleep 616");
    keeper.say("kill");
    assert_eq!(keeper.report(), "exited signal 9");
    keeper.gone();
}

#[test]
fn term_goes_to_the_program_which_may_take_its_time() {
    let mut keeper = keep("term", "trap 'exit 7' TERM; echo ready >&2; while :; do sleep 0.05; done");
    // The trap is set once the shell sleeps.
    wait_until("it sleeps", || processes(&keeper.marker).len() >= 3);
    keeper.say("term");
    assert_eq!(keeper.report(), "exited code 7");
    keeper.gone();
}

#[test]
fn a_killed_keeper_takes_its_program_along() {
    let mut keeper = keep("lost", "exec sleep 617");
    kill(keeper.child.id() as i32);
    keeper.gone();
}

#[test]
fn signals_for_the_keeper_do_not_end_it() {
    let mut keeper = keep("signals", "exec sleep 618");
    for signal in ["-TERM", "-INT", "-HUP"] {
        let pid = keeper.child.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
    keeper.say("term");
    assert_eq!(keeper.report(), "exited signal 15");
    keeper.gone();
}

#[test]
fn a_program_that_cannot_be_run_is_one_that_exits() {
    let mut child = named("outrigger-keeper")
        .args(["/no/such/program", "none"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _commands = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("exited code 126"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/program"));
}
