//! `outrigger load`: open-loop load from the command line.

use super::{Config, Counts, Load, Target};
use outrigger_wire::Period;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::sleep;

/// Send chat completions at a rate and count how they end.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Where to, without TLS: the gateway of `outrigger up` unless given.
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub url: Target,
    /// The model to ask for.
    #[arg(long, default_value = "demo")]
    pub model: String,
    /// Requests per second; they are sent whether or not earlier ones were answered.
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    pub rate: f64,
    /// How long.
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = period)]
    pub duration: Duration,
    /// The share of requests that ask for a stream, 0 to 1.
    #[arg(long, default_value_t = 0.5, value_name = "SHARE")]
    pub streaming: f64,
    /// How many sessions the requests belong to; 0: none has one.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub sessions: u32,
    /// Tokens that an answer may have.
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub max_tokens: u32,
    /// Requests that may be open at a time; arrivals beyond are counted and not sent.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_in_flight: usize,
    /// The same seed sends the same requests.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
}

fn period(text: &str) -> Result<Duration, String> {
    text.parse::<Period>().map(Period::get).map_err(|error| error.to_string())
}

/// Sends the load and prints what came of it. Ctrl-C ends it early, with what was counted until then. Fails unless
/// something was answered and nothing failed.
///
/// # Errors
/// When the arguments are out of range or there is no runtime to be had.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let counts = runtime.block_on(send(args))?;
    println!("{counts}");
    let good = counts.ok > 0 && counts.failed == 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn send(args: Args) -> anyhow::Result<Counts> {
    let config = Config {
        rate: args.rate,
        streaming: args.streaming,
        sessions: args.sessions,
        max_tokens: args.max_tokens,
        max_in_flight: args.max_in_flight,
        seed: args.seed,
        ..Config::new(args.url, &args.model)
    };
    let load = Load::start(config)?;
    tokio::select! {
        () = sleep(args.duration) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(load.stop().await)
}
