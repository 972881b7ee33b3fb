//! Outrigger on the command line.
//!
//! One program under several names: `outrigger` (and `kubectl-outrigger`) is for people; under the names of the
//! gateway, the sidecar, the helper, the simulated engine and the keeper it is each of these, so that `outrigger up`
//! needs nothing installed.

pub mod cluster;
pub mod keeper;
pub mod load;
pub mod plan;
pub mod screen;
pub mod up;
pub mod view;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use outrigger_plan::action::Verb;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// EX_USAGE of sysexits.h.
const EX_USAGE: u8 = 64;

/// Model serving: canaries judged by evidence, batching, admission, healing.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a ModelDeployment on this machine, or a show without one.
    Up(up::UpArgs),
    /// Say what would be done for a ModelDeployment, and why.
    Plan(plan::PlanArgs),
    /// Say how a deployment in a cluster is, and why it waits.
    Status(cluster::StatusArgs),
    /// Look on at a deployment in a cluster.
    Watch(cluster::WatchArgs),
    /// Move a canary on to its next step now, after the last one to all callers.
    Promote(cluster::ActArgs),
    /// Keep a canary at its step until somebody goes on.
    Pause(cluster::ActArgs),
    /// Go on with a canary that was paused.
    Resume(cluster::ActArgs),
    /// Roll a canary back now.
    Abort(cluster::ActArgs),
    /// Send load to a gateway and say what came of it.
    Load(load::Args),
    /// Run the simulated engine; its own flags follow.
    #[command(disable_help_flag = true)]
    Sim {
        /// Given on to it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// Runs the program that `args` names first.
pub fn main_with(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let name = args.first().map(|arg0| Path::new(arg0).file_name().unwrap_or_default().to_owned());
    match name.as_deref().and_then(OsStr::to_str) {
        Some(keeper::NAME) => keeper::main_with(args.into_iter()),
        Some("outrigger-sidecar") => outrigger_sidecar::main_with(args.into_iter()),
        Some("outrigger-gateway") => outrigger_gateway::main_with(args.into_iter()),
        Some("outrigger-helper") => outrigger_helper::main_with(args.into_iter()),
        Some("outrigger-engine-sim") => outrigger_engine_sim::main_with(args.into_iter()),
        Some("kubectl-outrigger") => command(args, "kubectl outrigger"),
        _ => command(args, "outrigger"),
    }
}

/// Reads and runs a command of the program that people call so.
fn command(args: Vec<OsString>, called: &str) -> ExitCode {
    let read = Cli::command().bin_name(called).try_get_matches_from(args);
    match read.and_then(|found| Cli::from_arg_matches(&found)) {
        Ok(Cli { command }) => match command {
            Command::Up(args) => up::run(&args),
            Command::Plan(args) => plan::run(args),
            Command::Status(args) => cluster::status(&args),
            Command::Watch(args) => cluster::watch(&args),
            Command::Promote(args) => cluster::act(Verb::Promote, &args),
            Command::Pause(args) => cluster::act(Verb::Pause, &args),
            Command::Resume(args) => cluster::act(Verb::Resume, &args),
            Command::Abort(args) => cluster::act(Verb::Abort, &args),
            Command::Load(args) => load::run(args).unwrap_or_else(|error| {
                // Nobody is left to tell when standard error is gone.
                let _ = writeln!(std::io::stderr(), "outrigger load: {error:#}");
                ExitCode::from(EX_USAGE)
            }),
            Command::Sim { args } => {
                outrigger_engine_sim::main_with(std::iter::once("outrigger-engine-sim".into()).chain(args))
            }
        },
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS }
        }
    }
}
