//! From a configuration to a running gateway, and to its end.

use crate::config::{Config, NAME};
use crate::control::{Control, Shown};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::stack;
use crate::thread::Thread;
use anyhow::Context;
use arc_swap::ArcSwap;
use outrigger_dataplane::admin::Admin;
use outrigger_dataplane::signals::Signals;
use outrigger_dataplane::threads::{Bound, DataThreads};
use outrigger_dataplane::{log, metrics};
use prometheus_client::registry::Registry;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;

/// The program: reads arguments (the program's name first), environment and file, serves until it is told to stop.
pub fn main_with(args: impl Iterator<Item = OsString>) -> ExitCode {
    let config = match Config::read(args) {
        Ok(config) => config,
        Err(code) => return code,
    };
    log::init();
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the control thread's runtime can't be made")?;
    runtime.block_on(async {
        let mut signals = Signals::new().context("signals can't be listened to")?;
        let max_drain = config.max_drain;
        let gateway = Gateway::start(config).await?;
        let signal = tokio::select! {
            signal = signals.next() => signal,
            () = gateway.work() => return Ok(()),
        };
        tracing::info!("{signal}: finishing what is in flight, for at most {} s", max_drain.as_secs());
        gateway.draining.store(true, Ordering::Relaxed);
        // The control task goes on reporting while the last streams end.
        let drained = signals.drain(&gateway.threads, max_drain).await;
        tracing::info!("stopped: {drained:?}");
        Ok(())
    })
}

/// A running gateway. Dropping it ends it at once.
#[derive(Debug)]
pub struct Gateway {
    threads: DataThreads,
    admin: SocketAddr,
    draining: Arc<AtomicBool>,
    control: tokio::task::JoinHandle<()>,
    probes: tokio::task::JoinHandle<()>,
}

impl Gateway {
    /// Takes its ports and serves. Within a runtime, which becomes its control thread.
    ///
    /// # Errors
    ///
    /// When a port is taken or can't be had, or threads can't be made.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        // Both ports first: what can't be had must show before anything else begins.
        let bound = Bound::bind(config.listen).with_context(|| format!("--listen {}", config.listen))?;
        let admin_listener =
            TcpListener::bind(config.admin).await.with_context(|| format!("--admin {}", config.admin))?;
        let (listen, admin) = (bound.address(), admin_listener.local_addr()?);

        let mut registry = Registry::default();
        let counted = Metrics::register(&mut registry);
        let incarnation = fastrand::u64(..);
        let ledger = Ledger::new(config.gateway.clone(), incarnation, config.threads, counted);
        let shown = Arc::new(ArcSwap::from_pointee(Shown::default()));
        let control = Control::start(&config, ledger, Arc::clone(&shown));

        let (desks, snapshots) = (control.desks(), control.snapshots());
        let limits = config.limits.clone();
        let threads = DataThreads::start(bound, config.threads, limits.serving(), move |thread| {
            let desk = desks.get(thread.index).map_or_else(Default::default, Arc::clone);
            let thread = Thread::start(desk, snapshots.clone(), fastrand::u64(..));
            stack::Gateway::new(thread, limits.clone())
        })
        .context("data threads can't be started")?;

        let draining = Arc::new(AtomicBool::new(false));
        let admin_port = probes(&shown, &draining, registry, listen, &config);
        tracing::info!(
            %listen, %admin, gateway = %config.gateway, threads = config.threads, "serving"
        );
        Ok(Self {
            threads,
            admin,
            draining,
            control: tokio::spawn(control.run()),
            probes: tokio::spawn(admin_port.serve(admin_listener)),
        })
    }

    /// Where requests are taken.
    pub fn address(&self) -> SocketAddr {
        self.threads.address()
    }

    /// Where probes and metrics are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Runs until the data threads have ended.
    pub async fn work(&self) {
        self.threads.ended().await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.control.abort();
        self.probes.abort();
    }
}

fn probes(
    shown: &Arc<ArcSwap<Shown>>,
    draining: &Arc<AtomicBool>,
    registry: Registry,
    listen: SocketAddr,
    config: &Config,
) -> Admin {
    let (ready, status, draining) = (Arc::clone(shown), Arc::clone(shown), Arc::clone(draining));
    let name = config.gateway.clone();
    Admin::new(
        || Ok("alive".to_owned()),
        move || match (draining.load(Ordering::Relaxed), ready.load().ready) {
            (true, _) => Err("draining".to_owned()),
            (false, false) => Err("no routes were heard of yet".to_owned()),
            (false, true) => Ok("serving".to_owned()),
        },
        move || metrics::text(&registry),
        move || {
            let mut status = status.load().status();
            if let Some(status) = status.as_object_mut() {
                status.insert("listen".to_owned(), listen.to_string().into());
                status.insert("gateway".to_owned(), name.as_str().into());
            }
            status
        },
    )
}
