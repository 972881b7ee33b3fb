//! From a configuration to a running operator, and to its end.

use crate::config::{Config, NAME, Task};
use crate::controller::{Controller, Memory, Parts};
use crate::events::Events;
use crate::lease::{self, Leadership};
use crate::metrics::Metrics;
use crate::trust::{self, Trust};
use crate::watch::{Index, streams};
use crate::{upgrade, webhook};
use anyhow::Context;
use kube::Client;
use outrigger_dataplane::admin::Admin;
use outrigger_dataplane::log;
use outrigger_dataplane::signals::Signals;
use outrigger_table::Server;
use outrigger_table::server::Reports;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// Threads: one serves the table and decides, the other encodes and waits for the API server.
const THREADS: usize = 2;
/// How long the lease may take to be given back at the end.
const FAREWELL: Duration = Duration::from_secs(3);

/// The program: reads arguments (the program's name first) and environment, runs until it is told to stop.
pub fn main_with(args: impl Iterator<Item = OsString>) -> ExitCode {
    let task = match Task::read(args) {
        Ok(task) => task,
        Err(code) => return code,
    };
    log::init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    let ended = runtime.context("the runtime can't be made").and_then(|runtime| match task {
        Task::Run(config) => runtime.block_on(run(*config)),
        Task::Check(check) => runtime.block_on(check.run()),
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("signals can't be listened to")?;
    // What can't be had must show before anything else begins.
    let table_port = listener(config.table_listen, "--table-listen").await?;
    let webhook_port = listener(config.webhook_listen, "--webhook-listen").await?;
    let admin_port = listener(config.admin, "--admin").await?;
    let client = client().await?;
    tokio::select! {
        signal = signals.next() => {
            tracing::info!("{signal}: stopped before it began");
            return Ok(());
        }
        ended = serve(config, client, table_port, webhook_port, admin_port, &mut signals) => ended,
    }
}
