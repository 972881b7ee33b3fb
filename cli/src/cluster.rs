//! `outrigger status|watch|promote|pause|resume|abort`: a deployment in a cluster, through the API server alone.
//!
//! ```text
//! ModelDeployment, pods, events ─► seen ─► View ─┬─ tree: status, as text
//!                                                └─ screen: watch
//! verb ─► act ─► annotation ─► (the operator) ─► status.action ─► act: its answer
//! ```

mod act;
mod connection;
mod refusal;
mod seen;
mod status;
#[cfg(test)]
mod tests;
mod tree;
mod watch;

pub use act::ActArgs;
pub use status::StatusArgs;
pub use watch::WatchArgs;

use clap::Args;
use outrigger_plan::action::Verb;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Which deployment, of which cluster.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// The ModelDeployment.
    pub name: String,
    /// Its namespace; the context's own unless given.
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// The kubeconfig's context; its current one unless given.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig; what KUBECONFIG names, else ~/.kube/config, else the pod's own service account unless given.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The user to act as, where you may act as others.
    #[arg(long = "as", value_name = "USER")]
    pub user: Option<String>,
}

/// Prints what is so.
pub fn status(args: &StatusArgs) -> ExitCode {
    run("status", status::status(args))
}

/// Shows it until it is left, or settled.
pub fn watch(args: &WatchArgs) -> ExitCode {
    run("watch", watch::watch(args))
}

/// Asks for what the verb says, and tells what came of it.
pub fn act(verb: Verb, args: &ActArgs) -> ExitCode {
    run(verb.as_str(), act::act(verb, args))
}

/// Runs a command to its end; what it fails with is a sentence.
fn run(what: &str, command: impl Future<Output = Result<u8, String>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(command));
    match result {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            // Nobody is left to tell when standard error is gone.
            let _ = writeln!(std::io::stderr(), "outrigger {what}: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Prints it. Who reads may stop reading: `| head`.
fn print(text: &str) -> Result<(), String> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}
