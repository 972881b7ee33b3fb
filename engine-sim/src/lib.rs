//! An inference engine from the outside, with a timing model and faults on request.
//!
//! [`serve`] runs one within a test; [`main_with`] is the program. [`timing`] and [`scheduler`] are pure: benches
//! compute from them what an ideal proxy would reach.

mod answer;
mod config;
mod engine;
pub mod fault;
mod metrics;
mod openai;
pub mod scheduler;
mod server;
mod tensors;
mod text;
pub mod timing;

pub use config::Config;
pub use fault::{Fault, Faults};
pub use scheduler::Limits;
pub use server::{Ended, serve};
pub use timing::Timing;

use clap::Parser as _;
use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

/// A usage error (`EX_USAGE` of sysexits).
const USAGE: u8 = 64;
/// It crashed as it was told to (`EX_SOFTWARE`).
const CRASHED: u8 = 70;
/// It could not listen or not run (`EX_UNAVAILABLE`).
const UNAVAILABLE: u8 = 69;
/// How long a worker process lives at most: long enough for every test of who ends it.
const WORKER_LIFE: Duration = Duration::from_secs(600);

/// The program: arguments with the program's name first.
pub fn main_with(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args = match config::Args::try_parse_from(args) {
        Ok(args) => args,
        Err(wrong) => {
            let _ = wrong.print();
            return if wrong.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let config = args.config();
    let mistakes = config.mistakes();
    if !mistakes.is_empty() {
        for mistake in mistakes {
            let _ = writeln!(std::io::stderr(), "{mistake}");
        }
        return ExitCode::from(USAGE);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let run = async { if args.worker_process { work().await } else { run(&args, config).await } };
    match runtime.and_then(|runtime| {
        let ended = runtime.block_on(run);
        // What still sleeps on another thread isn't waited for.
        runtime.shutdown_background();
        ended
    }) {
        Ok(code) => ExitCode::from(code),
        Err(wrong) => {
            let _ = writeln!(std::io::stderr(), "engine-sim: {wrong}");
            ExitCode::from(UNAVAILABLE)
        }
    }
}

async fn run(args: &config::Args, config: Config) -> std::io::Result<u8> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let worker = if args.worker { Some(spawn_worker()?) } else { None };
    let served = async {
        tokio::time::sleep(args.load_time).await;
        let listener = tokio::net::TcpListener::bind(args.address()).await?;
        let worker = worker.as_ref().and_then(tokio::process::Child::id);
        let worker = worker.map_or_else(String::new, |id| format!(" worker={id}"));
        // A closed stdout is no reason to stop serving.
        let _ = writeln!(
            std::io::stdout(),
            "engine-sim listening on http://{} model={} version={}{worker}",
            listener.local_addr()?,
            config.model,
            config.version,
        );
        serve(listener, config).await
    };
    tokio::select! {
        ended = served => ended.map(|Ended::Crashed| CRASHED),
        // As engines do: what is in flight is cut. Whoever wants it finished drains first.
        _ = terminate.recv() => Ok(0),
        _ = interrupt.recv() => Ok(0),
    }
}

/// A process of the engine's own, which ends with it when it ends in good order, and must be ended by somebody else
/// when it doesn't.
fn spawn_worker() -> std::io::Result<tokio::process::Child> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.arg0("outrigger-engine-sim").arg("--worker-process").kill_on_drop(true);
    command.stdin(std::process::Stdio::null()).spawn()
}

/// A worker: does nothing, ignores requests to end, as stuck ones do, and lives for ten minutes at most.
async fn work() -> std::io::Result<u8> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let ignore = async {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
    };
    let _ = tokio::time::timeout(WORKER_LIFE, ignore).await;
    Ok(0)
}
