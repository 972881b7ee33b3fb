//! The case `proxy`: sidecar and gateway beside a bare hyper forwarder and nginx.

use crate::load::{self, Outcome};
use crate::program::{self, Program, free_address, sibling};
use crate::report::{Goal, Line, Measured, median};
use crate::wire::post;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

/// Rounds of each measurement; in each, every target once.
const ROUNDS: usize = 3;
/// How long one target is loaded in one round: 200 ticks of a processor that is busy.
const BLOCK: Duration = Duration::from_secs(2);
/// Connections of the closed loop.
const CLIENTS: usize = 64;
/// Requests per second of the open loop: a rate at which nothing queues.
const RATE: u32 = 2000;
/// And its connections.
const RATE_CLIENTS: usize = 16;
/// Streams at once where they are paced.
const PACED: usize = 32;
/// Streams at once where they are not.
const UNPACED: usize = 16;
/// How long idle programs are watched.
const IDLE: Duration = Duration::from_secs(10);
/// Beyond this the floor was disturbed and every ratio to it with it.
const VOID_RATIO: f64 = 1.5;

/// Between two chunks of a paced stream.
const PACE: Duration = Duration::from_millis(5);

const SMALL: &str = r#"{"model":"m","prompt":"hello","max_tokens":16}"#;
const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"hello"}],"stream":true}"#;

/// What is measured, each a figure per target and round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Figure {
    /// Microseconds of processor time per small request at saturation.
    Cpu,
    /// Median latency in ms at a fixed rate.
    Latency,
    /// Median time to the first chunk of a paced stream, in ms.
    FirstChunk,
    /// Microseconds of processor time per unpaced stream.
    StreamCpu,
}

type Figures = BTreeMap<(Figure, String), Vec<f64>>;

/// Runs the case `proxy`: the programs.
pub fn run() -> Result<Measured> {
    let dir = tempfile::tempdir()?;
    let stub = program::stub()?;
    let idle = idle(&stub.address, dir.path())?;
    let ours = vec![sidecar(&stub.address)?, gateway(&stub.address, dir.path())?];
    measure(&stub, ours, idle, dir.path())
}

/// Runs the case `dataplane`: the mechanics alone, as the smallest forwarder that can be made of them.
pub fn run_dataplane() -> Result<Measured> {
    let dir = tempfile::tempdir()?;
    let stub = program::stub()?;
    let address = free_address()?;
    let mut command = Command::new(sibling("examples/forward")?);
    let ours = Program::start("dataplane", command.args([&address, &stub.address, "1"]), &address)?;
    measure(&stub, vec![ours], Vec::new(), dir.path())
}

fn measure(stub: &Program, ours: Vec<Program>, idle: Vec<Line>, dir: &std::path::Path) -> Result<Measured> {
    let mut targets = vec![program::floor(&stub.address)?];
    let nginx = program::nginx(&stub.address, dir)?;
    ensure!(nginx.is_some(), "nginx is not installed: apt-get install nginx-light");
    targets.extend(nginx);
    targets.extend(ours);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for target in &targets {
        runtime.block_on(until_served(target))?;
    }
    let mut figures = Figures::new();
    for _ in 0..ROUNDS {
        round(&runtime, stub, &targets, &mut figures)?;
    }
    Ok(judge(&figures, &targets, idle))
}

/// The sidecar as a program of its own: admission, health and metrics on.
fn sidecar(upstream: &str) -> Result<Program> {
    let (address, admin) = (free_address()?, free_address()?);
    let mut command = Command::new(sibling("outrigger-sidecar")?);
    command.env("OUTRIGGER_LOG", "warn");
    command.args(["--listen", &address, "--admin", &admin, "--engine", upstream, "--model", "m"]);
    Program::start("sidecar", &mut command, &address)
}

/// The gateway as a program of its own, its routes from a file.
fn gateway(upstream: &str, dir: &std::path::Path) -> Result<Program> {
    let (address, admin) = (free_address()?, free_address()?);
    let routes = dir.join("routes.yaml");
    std::fs::write(
        &routes,
        format!(
            "routes:\n- deployment: default/m\n  model: m\n  stable:\n    revision: v1\n    endpoints: [{{id: a, \
             address: \"{upstream}\"}}]\n"
        ),
    )?;
    let mut command = Command::new(sibling("outrigger-gateway")?);
    command.env("OUTRIGGER_LOG", "warn");
    command.args(["--listen", &address, "--admin", &admin, "--threads", "1", "--config"]).arg(&routes);
    Program::start("gateway", &mut command, &address)
}

/// Listening is not serving: a sidecar warms its engine up first.
async fn until_served(target: &Program) -> Result<()> {
    let request = post("/v1/completions", "", SMALL);
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        let served = async {
            let mut conn = crate::wire::Conn::open(&target.address).await?;
            anyhow::Ok(conn.ask(&request).await?.status)
        };
        let status = served.await;
        if matches!(status, Ok(200)) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{} doesn't serve: {status:?}", target.name());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Memory in MiB and processor time in percent of a core, of programs to which nobody talks.
fn idle(upstream: &str, dir: &std::path::Path) -> Result<Vec<Line>> {
    let programs = [(sidecar(upstream)?, 12.0), (gateway(upstream, dir)?, 30.0)];
    // What a start costs is over by then, warm-up included.
    std::thread::sleep(Duration::from_secs(3));
    let mut before = Vec::new();
    for (program, _) in &programs {
        before.push(program.precise_cpu()?);
    }
    std::thread::sleep(IDLE);
    let mut lines = Vec::new();
    for ((program, memory), before) in programs.iter().zip(before) {
        let share = (program.precise_cpu()? - before) / IDLE.as_secs_f64() * 100.0;
        let name = program.name();
        lines.push(Line::new(name, "idle memory, MiB", program.memory()?, None, Goal::Below(*memory)));
        lines.push(Line::new(name, "idle cpu, % of a core", share, None, Goal::Below(0.1)));
    }
    Ok(lines)
}

fn round(
    runtime: &tokio::runtime::Runtime,
    stub: &Program,
    targets: &[Program],
    figures: &mut Figures,
) -> Result<()> {
    let small = post("/v1/completions", "", SMALL);
    let unpaced = post("/v1/chat/completions", "", CHAT);
    let paced = post("/v1/chat/completions", &format!("x-pace-us: {}\r\n", PACE.as_micros()), CHAT);
    let mut note = |figure, target: &Program, value| {
        figures.entry((figure, target.name().to_owned())).or_default().push(value);
    };
    for target in targets {
        let (cpu, outcome) =
            spent(target, || runtime.block_on(load::closed(&target.address, &small, CLIENTS, BLOCK)))?;
        note(Figure::Cpu, target, cpu / outcome.answers as f64 * 1e6);
    }
    for target in std::iter::once(stub).chain(targets) {
        let outcome = load::open(&target.address, &small, RATE_CLIENTS, RATE, BLOCK)?;
        fine(target, &outcome)?;
        note(Figure::Latency, target, outcome.latency.value_at_quantile(0.5) as f64 / 1e3);
    }
    for target in std::iter::once(stub).chain(targets) {
        let outcome = runtime.block_on(load::staggered(&target.address, &paced, PACED, BLOCK, PACE * 64))?;
        fine(target, &outcome)?;
        note(Figure::FirstChunk, target, outcome.first_byte.value_at_quantile(0.5) as f64 / 1e3);
    }
    for target in targets {
        let (cpu, outcome) =
            spent(target, || runtime.block_on(load::closed(&target.address, &unpaced, UNPACED, BLOCK)))?;
        note(Figure::StreamCpu, target, cpu / outcome.answers as f64 * 1e6);
    }
    Ok(())
}

/// Processor time that the target spent on a load.
fn spent(target: &Program, load: impl FnOnce() -> Result<Outcome>) -> Result<(f64, Outcome)> {
    let before = target.cpu()?;
    let outcome = load().with_context(|| format!("load on {}", target.name()))?;
    fine(target, &outcome)?;
    Ok((target.cpu()? - before, outcome))
}

/// A refusal is cheap: a run with some measures something else.
fn fine(target: &Program, outcome: &Outcome) -> Result<()> {
    ensure!(
        outcome.refused == 0,
        "{} refused {} of {} requests",
        target.name(),
        outcome.refused,
        outcome.answers
    );
    Ok(())
}

fn judge(figures: &Figures, targets: &[Program], idle: Vec<Line>) -> Measured {
    let of = |figure: Figure, name: &str| {
        figures.get(&(figure, name.to_owned())).map_or(f64::NAN, |values| median(values.clone()))
    };
    let mut lines = Vec::new();
    for target in targets {
        let name = target.name();
        let judged = matches!(name, "sidecar" | "gateway" | "dataplane");
        let goal = |goal| if judged { goal } else { Goal::None };
        let mut line = |figure, metric: &str, peer: &str, goal| {
            lines.push(Line::new(name, metric, of(figure, name), Some((peer, of(figure, peer))), goal));
        };
        // What is required; the aim is 0.95, for which the dataplane alone has to leave room.
        let bound = if name == "dataplane" { 0.95 } else { 1.15 };
        line(Figure::Cpu, "cpu per request, µs", "floor", goal(Goal::RatioAtMost(bound)));
        line(Figure::Cpu, "cpu per request, µs", "nginx", Goal::None);
        line(Figure::Latency, "p50 at 2000/s, ms", "stub", goal(Goal::MoreByAtMost(0.08)));
        line(Figure::FirstChunk, "first chunk p50, ms", "stub", goal(Goal::MoreByAtMost(0.5)));
        line(Figure::StreamCpu, "cpu per stream of 65, µs", "floor", Goal::None);
        line(Figure::StreamCpu, "cpu per stream of 65, µs", "nginx", Goal::None);
    }
    lines.extend(idle);
    let ratio = of(Figure::Cpu, "floor") / of(Figure::Cpu, "nginx");
    let void = (ratio > VOID_RATIO).then(|| {
        format!("the floor cost {ratio:.2} × nginx (allowed: {VOID_RATIO}): the machine was disturbed")
    });
    Measured { lines, void }
}
