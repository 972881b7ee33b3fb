//! `cargo xtask test`: everything that a change must survive, from nothing but Rust.

use crate::run::{self, Background, Finished};
use crate::{lint, real_cluster, tools};
use anyhow::{Result, bail};
use std::process::Command;
use std::time::{Duration, Instant};

/// Clients first: they are small, and without them the engines are of no use.
const SET_UP_ENGINES: &str =
    "set -e; for what in clients mlserver vllm; do bash e2e/engines/setup.sh $what; done";

/// What has passed, failed and been skipped so far.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    rungs: Vec<(&'static str, Duration)>,
    broken: Vec<String>,
}

/// Runs every rung. Set-up that waits for the network runs beside the builds, which wait for the cores.
pub(crate) fn test() -> Result<()> {
    let started = Instant::now();
    let mut tally = Tally::default();
    let deny = run::in_background("install cargo-deny", tools::install_cargo_deny);
    let cluster = real_cluster::set_up();
    let engines = run::in_background("set up real engines", || {
        run::quietly("set up real engines", run::command("bash", ["-c", SET_UP_ENGINES])?)
    });

    tally.rung("lint", |_| lint::sources())?;
    tally.rung("pure and in process", |tally| {
        let args = [
            "test",
            "--workspace",
            "--locked",
            "--no-fail-fast",
            "--exclude",
            "outrigger",
            "--exclude",
            "outrigger-e2e",
        ];
        tally.cargo_test("cargo test, libraries", run::command("cargo", args)?)
    })?;
    tally.rung("programs", |tally| {
        run::must("build outrigger", run::command("cargo", ["build", "--locked", "-p", "outrigger"])?)?;
        let args = ["test", "--locked", "--no-fail-fast", "-p", "outrigger", "-p", "outrigger-e2e"];
        tally.cargo_test("cargo test, programs", run::command("cargo", args)?)
    })?;
    tally.rung("real engines", |tally| real_engines(tally, engines))?;
    tally.rung("real cluster", |tally| on_a_cluster(tally, cluster))?;
    tally.rung("dependencies", |_| lint::dependencies(deny))?;
    tally.finish(started.elapsed())
}

/// The rung on a real cluster alone, as the whole test runs it.
pub(crate) fn cluster() -> Result<()> {
    let started = Instant::now();
    let mut tally = Tally::default();
    tally.rung("real cluster", |tally| on_a_cluster(tally, real_cluster::set_up()))?;
    tally.finish(started.elapsed())
}

fn on_a_cluster(tally: &mut Tally, set_up: real_cluster::SetUp) -> Result<()> {
    let skipped = real_cluster::rung(set_up, |name, command| tally.cargo_test(name, command))?;
    tally.skipped.extend(skipped);
    Ok(())
}

/// vLLM and MLServer themselves, through gateway and sidecar. One at a time: two vLLMs already fill the machine.
fn real_engines(tally: &mut Tally, set_up: Background) -> Result<()> {
    let set_up = set_up.wait()?;
    if !set_up.succeeded {
        run::show(&set_up.output);
        let why =
            set_up.output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        tally.skipped.push(format!("real engines: they could not be set up: {why}"));
        return Ok(());
    }
    let args = [
        "test",
        "--locked",
        "-p",
        "outrigger-e2e",
        "--features",
        "real-engines",
        "--test",
        "real_engines",
        "--test",
        "readme",
        "--",
        "--test-threads=1",
    ];
    tally.cargo_test("cargo test, real engines", run::command("cargo", args)?)
}

impl Tally {
    fn rung(&mut self, name: &'static str, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        println!("\n== {name}");
        let started = Instant::now();
        if let Err(error) = work(self) {
            println!("{name}: {error:#}");
            self.broken.push(format!("{name}: {error:#}"));
        }
        self.rungs.push((name, started.elapsed()));
        Ok(())
    }

    fn cargo_test(&mut self, name: &str, command: Command) -> Result<()> {
        let finished = run::step(name, command)?;
        let (passed, failed) = self.count(&finished);
        println!("{:<44} {passed} passed, {failed} failed", "");
        if !finished.succeeded && failed == 0 {
            bail!("{name} did not come to its tests");
        }
        Ok(())
    }

    /// Sums `test result: ok. 12 passed; 0 failed; …` over all test programs.
    fn count(&mut self, finished: &Finished) -> (u64, u64) {
        let (mut passed, mut failed) = (0, 0);
        for line in finished.output.lines().filter(|line| line.starts_with("test result:")) {
            let number = |what: &str| {
                let before = line.split(what).next()?;
                before.trim_end().rsplit(' ').next()?.parse::<u64>().ok()
            };
            passed += number(" passed").unwrap_or(0);
            failed += number(" failed").unwrap_or(0);
        }
        for line in finished.output.lines() {
            if let Some(reason) = line.trim().strip_prefix("skipped: ") {
                self.skipped.push(reason.to_owned());
            }
        }
        self.passed += passed;
        self.failed += failed;
        (passed, failed)
    }

    fn finish(self, took: Duration) -> Result<()> {
        println!("\n== summary");
        self.rungs.iter().for_each(|(name, took)| run::say(name, *took, ""));
        run::say("all", took, "");
        self.skipped.iter().for_each(|reason| println!("skipped: {reason}"));
        self.broken.iter().for_each(|reason| println!("failed: {reason}"));
        let skips_fail = run::in_ci() && !self.skipped.is_empty();
        if skips_fail {
            println!("failed: in CI a skip is a failure");
        }
        let failed =
            self.failed + self.broken.len() as u64 + if skips_fail { self.skipped.len() as u64 } else { 0 };
        println!("{} passed, {failed} failed, {} skipped", self.passed, self.skipped.len());
        if failed > 0 {
            bail!("{failed} failed");
        }
        Ok(())
    }
}
