//! `outrigger plan`: the circle stopped half-way. What would be done for a file in a given world, and why.

mod explain;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use outrigger_crds::ModelDeploymentStatus;
use outrigger_plan::{
    Capacity, Declaration, Declared, Evidence, Gateway, Plan, Replica, Revision, World, document, revision,
};
use outrigger_wire::{Mistake, document as yaml};
use serde::Deserialize;
use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The exit status for a file that is not in order (sysexits' EX_USAGE, as for wrong flags).
const MISTAKEN: u8 = 64;
/// The largest world that is read, in bytes. A thousand replicas have about 300 KiB.
const MAX_WORLD: u64 = yaml::MAX_BYTES as u64;

/// Plans that may follow each other while time stands still; one makes at most one transition, and there are fewer.
const AHEAD: usize = 16;

/// Says what would be done for a ModelDeployment file, and why. Changes nothing.
#[derive(Args, Clone, Debug)]
pub struct PlanArgs {
    /// The ModelDeployment file; `-` reads standard input.
    file: PathBuf,
    /// The world to plan in, as YAML (such as `-o yaml` of an earlier state); an empty one, so a first
    /// installation, when left out.
    #[arg(long, value_name = "FILE")]
    world: Option<PathBuf>,
    /// The time to plan for, such as 2026-11-21T08:00:00Z; the present one when left out.
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How a plan is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// The whole plan as YAML.
    Yaml,
    /// The whole plan as JSON.
    Json,
}

/// A world that was observed: what is wanted comes from the other file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Observed {
    /// What was wanted then; tells whether the file is a change.
    spec: Option<Declared>,
    status: ModelDeploymentStatus,
    revisions: Vec<Revision>,
    replicas: Vec<Replica>,
    gateways: Vec<Gateway>,
    capacity: Capacity,
    evidence: Evidence,
    action: Option<String>,
}

/// Runs `outrigger plan`: 0 when a plan was printed, 64 when a file is not in order.
pub fn run(args: PlanArgs) -> ExitCode {
    let now = args.at.unwrap_or_else(Timestamp::now);
    match plan_files(&args, now) {
        Ok(text) => match io::stdout().lock().write_all(text.as_bytes()) {
            // Who reads may stop reading: `| head`.
            Ok(()) => ExitCode::SUCCESS,
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(text) => {
            // Nothing is left to tell when standard error is gone too.
            let _written = io::stderr().lock().write_all(text.as_bytes());
            ExitCode::from(MISTAKEN)
        }
    }
}

fn plan_files(args: &PlanArgs, now: Timestamp) -> Result<String, String> {
    let name = args.file.display().to_string();
    let declaration = document::read(&bytes(&args.file)?).map_err(|mistakes| listed(&name, &mistakes))?;
    let observed = match &args.world {
        None => Observed::default(),
        Some(path) => {
            let read = yaml::read_bytes::<Observed>(&bytes(path)?);
            read.map_err(|mistakes| listed(&path.display().to_string(), &mistakes))?.value
        }
    };
    let world = world(&declaration, observed);
    let plan = outrigger_plan::plan(&world, now);
    printed(&world, &plan, now, args.output)
}

fn printed(world: &World, plan: &Plan, now: Timestamp, output: Output) -> Result<String, String> {
    match output {
        Output::Text => Ok(explain::explain(world, &ahead(world, plan, now), now)),
        Output::Yaml => yaml::write(plan).map_err(|mistake| format!("{mistake}\n")),
        Output::Json => {
            serde_json::to_string_pretty(plan).map(|text| text + "\n").map_err(|e| format!("{e}\n"))
        }
    }
}

/// What follows from this plan while time stands still: it is applied to the world, as far as that is ours to do,
/// and planned again until something has to be waited for. Events of all plans, the rest of the last one.
fn ahead(world: &World, first: &Plan, now: Timestamp) -> Plan {
    let (mut world, mut plan) = (world.clone(), first.clone());
    for _ in 0..AHEAD {
        if plan.status == world.status {
            break;
        }
        world.status = plan.status.clone();
        world.revisions.clone_from(&plan.revisions);
        for gateway in world.gateways.iter_mut().filter(|gateway| gateway.live) {
            gateway.serial = plan.status.serial;
        }
        if plan.evidence_stored {
            world.evidence = Evidence::default();
        }
        let next = outrigger_plan::plan(&world, now);
        let events = plan.events.iter().chain(&next.events).cloned().collect();
        // What was decided by, where the decision ended the analysis.
        let verdicts = if next.verdicts.is_empty() { plan.verdicts } else { next.verdicts };
        plan = Plan { events, verdicts, ..next };
    }
    plan
}

/// The observed world in which the file is what is wanted; another spec than before is another generation.
fn world(declaration: &Declaration, observed: Observed) -> World {
    let generation = match &observed.spec {
        Some(before) if before.spec == declaration.spec => before.generation,
        Some(before) => before.generation.saturating_add(1),
        None => observed.status.observed_generation.map_or(1, |generation| generation.saturating_add(1)),
    };
    let mut revisions = observed.revisions;
    // A world written by hand may leave out the ids, as nobody can compute them.
    for kept in revisions.iter_mut().filter(|kept| kept.id.as_str().is_empty()) {
        kept.id = revision::of(&kept.engine);
    }
    World {
        spec: declaration.declared(generation),
        status: observed.status,
        revisions,
        replicas: observed.replicas,
        gateways: observed.gateways,
        capacity: observed.capacity,
        evidence: observed.evidence,
        action: observed.action,
    }
}

/// A file's content, or standard input's; no more of either than is ever read.
fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let most = MAX_WORLD + 1;
    let result = if path == Path::new("-") {
        io::stdin().lock().take(most).read_to_end(&mut content)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut content))
    };
    result.map(|_| content).map_err(|e| format!("{}: {e}\n", path.display()))
}

/// Mistakes, one a line, under the name of the file.
fn listed(name: &str, mistakes: &[Mistake]) -> String {
    mistakes.iter().fold(String::new(), |mut text, mistake| {
        // Writing to a String does not fail.
        let _written = writeln!(text, "{name}: {mistake}");
        text
    })
}

#[cfg(test)]
mod tests;
