//! From a configuration to a running sidecar, and to its end.

use crate::config::{Config, NAME};
use crate::engine::Engine;
use crate::heal::{self, View};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::shared::Shared;
use crate::stack::Stack;
use crate::upstream::Upstream;
use crate::{helper, reports, socket};
use anyhow::Context;
use outrigger_dataplane::admin::Admin;
use outrigger_dataplane::log;
use outrigger_dataplane::serve::ServeOptions;
use outrigger_dataplane::signals::Signals;
use outrigger_dataplane::threads::{Bound, DataThreads};
use outrigger_dataplane::upstream::{Endpoint, PoolOptions, Timeouts};
use outrigger_decide::health::Event;
use outrigger_wire::EngineState;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

/// The program: reads arguments (the program's name first), environment and file, serves until it is told to stop.
pub fn main_with(args: impl Iterator<Item = OsString>) -> ExitCode {
    let config = match Config::read(args) {
        Ok(config) => config,
        Err(code) => return code,
    };
    log::init();
    let ended = Sidecar::with_signals(config, true).and_then(Sidecar::join);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{NAME}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A running sidecar, on threads of its own. Dropping it ends it at once.
#[derive(Debug)]
pub struct Sidecar {
    listen: SocketAddr,
    admin: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    control: Option<JoinHandle<anyhow::Result<()>>>,
}

/// What was bound before anything else began: what can't be had must show at once.
struct Ports {
    data: Bound,
    admin: std::net::TcpListener,
    socket: Option<std::os::unix::net::UnixListener>,
}

impl Ports {
    fn bind(config: &Config) -> anyhow::Result<Self> {
        if let Some(to) = &config.helper {
            // Before the socket: who finds that may use the helper.
            helper::own()
                .and_then(|own| helper::install(&own, to))
                .with_context(|| format!("--helper {}", to.display()))?;
        }
        let data = Bound::bind(config.listen).with_context(|| format!("--listen {}", config.listen))?;
        let admin = std::net::TcpListener::bind(config.admin)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .with_context(|| format!("--admin {}", config.admin))?;
        let socket = match &config.socket {
            Some(path) => Some(socket::bind(path).with_context(|| format!("--socket {}", path.display()))?),
            None => None,
        };
        Ok(Self { data, admin, socket })
    }
}

impl Sidecar {
    /// Takes its ports and serves.
    ///
    /// # Errors
    ///
    /// When a port or the socket is taken or can't be had, or a thread can't be made.
    pub fn start(config: Config) -> anyhow::Result<Self> {
        Self::with_signals(config, false)
    }

    fn with_signals(config: Config, signals: bool) -> anyhow::Result<Self> {
        let ports = Ports::bind(&config)?;
        let (listen, admin) = (ports.data.address(), ports.admin.local_addr()?);
        let (shared, hints) = Shared::new(config.kind, config.threads, config.serving.clone());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the control thread's runtime can't be made")?;
        let for_control = shared.clone();
        let control = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let control = control(config, ports, for_control, hints, stopped, signals);
                LocalSet::new().block_on(&runtime, control)
            })
            .context("the control thread can't be started")?;
        Ok(Self { listen, admin, shared, stop: Some(stop), control: Some(control) })
    }

    /// Where requests are taken.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Where probes and metrics are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Changes the hot fields, as the table's stream does.
    pub fn set_serving(&self, serving: outrigger_wire::Serving) {
        self.shared.orders.send_modify(|orders| orders.serving = Arc::new(serving));
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    ///
    /// When it ended because of one.
    pub fn join(mut self) -> anyhow::Result<()> {
        match self.control.take().map(JoinHandle::join) {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => anyhow::bail!("the control thread panicked"),
            None => Ok(()),
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(control) = self.control.take() {
            // A panic of it was reported already.
            let _ = control.join();
        }
    }
}

/// The control thread.
async fn control(
    config: Config,
    ports: Ports,
    shared: Arc<Shared>,
    hints: mpsc::Receiver<Event>,
    stopped: oneshot::Receiver<()>,
    signals: bool,
) -> anyhow::Result<()> {
    let mut signals =
        if signals { Some(Signals::new().context("signals can't be listened to")?) } else { None };
    let listen = ports.data.address();
    let metrics = Metrics::register();
    let threads = data_threads(&config, ports.data, &shared, &metrics)?;
    let engine = Engine::new(config.kind, &config.engine, &config.model);
    let (view, seen) = watch::channel(View::default());
    let serial = Arc::new(AtomicU64::new(0));
    tracing::info!(
        %listen, admin = %ports.admin.local_addr()?, engine = %config.engine, kind = config.kind.as_str(), "serving"
    );
    let admin = admin(&config, listen, &shared, &metrics, &seen, &serial);
    tokio::task::spawn_local(admin.serve(TcpListener::from_std(ports.admin)?));
    if let Some(socket) = ports.socket {
        socket.set_nonblocking(true)?;
        tokio::task::spawn_local(socket::serve(
            UnixListener::from_std(socket)?,
            shared.clone(),
            seen.clone(),
        ));
    }
    let ledger = Ledger::new(config.state_dir.as_deref());
    let healing = heal::run(shared.clone(), engine.clone(), config.engine.clone(), ledger, hints, view);
    tokio::task::spawn_local(healing);
    if !config.table.is_empty() {
        tokio::task::spawn_local(reports::run(config.clone(), shared.clone(), engine, serial, seen));
    }
    match &mut signals {
        None => {
            // Either the owner is gone or it says so: both mean the end.
            let _ = stopped.await;
            threads.abort();
            threads.ended().await;
        }
        Some(signals) => {
            let signal = tokio::select! {
                signal = signals.next() => signal,
                () = threads.ended() => anyhow::bail!("the data threads have ended"),
            };
            tokio::select! {
                () = socket::parted(&shared) => {}
                _ = signals.next() => {}
            }
            socket::refuse(&shared);
            let bound = shared.orders.borrow().serving.max_drain.0.get();
            tracing::info!("{signal}: finishing what is in flight, for at most {} s", bound.as_secs());
            let drained = signals.drain(&threads, bound).await;
            tracing::info!("stopped: {drained:?}");
        }
    }
    if let Some(path) = &config.socket {
        // So that the next one finds no leftover; it would cope with one.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

fn data_threads(
    config: &Config,
    bound: Bound,
    shared: &Arc<Shared>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<DataThreads> {
    let (shared, metrics, address) = (shared.clone(), metrics.clone(), config.engine.clone());
    let max_body = config.max_body;
    DataThreads::start(bound, config.threads, ServeOptions::default(), move |thread| {
        let endpoint = Endpoint::new(&address, PoolOptions::default());
        let timeouts = Timeouts::from(&shared.orders.borrow().serving.timeouts);
        let upstream = Upstream::new(endpoint, shared.clone(), thread.index, timeouts, metrics.thread());
        Stack::start(shared.clone(), upstream, thread.of, max_body)
    })
    .context("data threads can't be started")
}

fn admin(
    config: &Config,
    listen: SocketAddr,
    shared: &Arc<Shared>,
    metrics: &Arc<Metrics>,
    view: &watch::Receiver<View>,
    serial: &Arc<AtomicU64>,
) -> Admin {
    let ready = shared.clone();
    let (counted, of_metrics, view_of_metrics) = (metrics.clone(), shared.clone(), view.clone());
    let (config, shared, view, serial) = (config.clone(), shared.clone(), view.clone(), serial.clone());
    Admin::new(
        || Ok("alive".to_owned()),
        move || {
            let orders = ready.orders.borrow();
            match (orders.draining, orders.engine) {
                (true, _) => Err("draining".to_owned()),
                (false, EngineState::Ready) => Ok("the engine is ready".to_owned()),
                (false, engine) => Err(format!("the engine is not ready: {engine:?}").to_lowercase()),
            }
        },
        move || counted.text(&of_metrics, view_of_metrics.borrow().incarnation),
        move || {
            let (in_flight, queued) = shared.counts();
            let (draining, refusing, serving) = {
                let orders = shared.orders.borrow();
                (orders.draining, orders.refusing, orders.serving.clone())
            };
            let view = view.borrow().clone();
            let restart = view.restart.map(|r| format!("restart {} {}", r.incarnation, r.reason));
            serde_json::json!({
                "listen": listen.to_string(),
                "endpoint": config.endpoint,
                "deployment": config.deployment,
                "engine": {
                    "address": config.engine,
                    "kind": config.kind,
                    "state": view.state,
                    "incarnation": view.incarnation,
                    "warmedBy": view.warmed_by,
                    "restart": restart,
                    "restartsOrdered": view.restarts,
                    "asksForRestart": view.asks.is_some(),
                    "trouble": view.trouble.map(|trouble| trouble.message),
                },
                "inFlight": in_flight,
                "queued": queued,
                "draining": draining,
                "refusing": refusing,
                "serial": serial.load(Ordering::Relaxed),
                "serving": *serving,
            })
        },
    )
}
