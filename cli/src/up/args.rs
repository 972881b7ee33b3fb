//! What `outrigger up` is told.

use super::show::{Bad, RATE};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Run a ModelDeployment on this machine: its engines behind their sidecars, a gateway before them, every change of
/// the file tried on a part of the callers first. Without a file, a show: a simulated engine, load, and a new
/// revision of it.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXITS)]
pub struct UpArgs {
    /// The ModelDeployment, whose engine gives a `process`; saving a change of it is enough to have it tried.
    pub file: Option<PathBuf>,
    /// Where callers are taken, ip:port; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where the gateway's /metrics and /status are, ip:port; a free port of 127.0.0.1 unless given.
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<SocketAddr>,
    /// Where status, revisions and logs are kept, from which a rollout resumes; .outrigger/NAME unless given. The
    /// show starts anew each time unless this is given.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// End when the declared revision serves, was rolled back, or is blocked.
    #[arg(long)]
    pub exit_when_settled: bool,
    /// The show's new revision is bad, and is rolled back.
    #[arg(long, value_enum, conflicts_with = "file", value_name = "HOW")]
    pub bad: Option<Bad>,
    /// One line per change, on a terminal too.
    #[arg(long)]
    pub plain: bool,
    /// The show sends no load.
    #[arg(long, conflicts_with_all = ["file", "rate"])]
    pub no_load: bool,
    /// Requests per second that the show sends; 80 unless given.
    #[arg(long, value_name = "N", conflicts_with = "file")]
    pub rate: Option<f64>,
    /// Requests per second (chat completions) that are sent to the file's model; none unless given.
    #[arg(long, value_name = "N", requires = "file")]
    pub load: Option<f64>,
}

const EXITS: &str = "\
Exit status with --exit-when-settled: 0 the declared revision serves, 3 it was rolled back, 4 it is blocked (a port,
a program that can't be had). Otherwise 0 after Ctrl-C, 64 for mistakes in flags or file, 1 when something else failed.
Ctrl-C lets requests in flight finish; a second one doesn't.";

impl UpArgs {
    /// Requests per second to send.
    pub(crate) fn rate(&self) -> Option<f64> {
        match (&self.file, self.no_load) {
            (Some(_), _) => self.load,
            (None, true) => None,
            (None, false) => Some(self.rate.unwrap_or(RATE)),
        }
    }
}
