//! From a configuration to a running operator, and to its end.

use crate::config::{Config, NAME, Task};
use crate::controller::{Bundles, Controller, Parts, Shortage};
use crate::events::Events;
use crate::lease::{self, Leadership, Lease};
use crate::metrics::Metrics;
use crate::trust::ring::Me;
use crate::trust::rotation::Times;
use crate::trust::{self, Trust};
use crate::upgrade::{self, News};
use crate::watch::{Index, Kind, streams};
use crate::webhook;
use anyhow::Context;
use kube::Client;
use outrigger_dataplane::admin::Admin;
use outrigger_dataplane::log;
use outrigger_dataplane::signals::Signals;
use outrigger_table::{Forwarder, Reports, Server};
use prometheus_client::registry::Registry;
use rustls::ClientConfig;
use std::collections::HashSet;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Threads: one serves the table and decides, the other encodes and waits for the API server.
const THREADS: usize = 2;
/// How long a connection to the API server may take.
const CONNECT: Duration = Duration::from_secs(5);
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
    let ended = runtime.context("the runtime can't be made").and_then(|runtime| {
        let ended = match task {
            Task::Run(config) => runtime.block_on(run(*config)),
            Task::Check(check) => runtime.block_on(check.run()),
        };
        // Whoever still looks a name up or reads a file must not hold the program: another replica is to lead.
        runtime.shutdown_timeout(FAREWELL);
        ended
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
    let ports = Ports {
        table: listener(config.table_listen, "--table-listen").await?,
        webhook: listener(config.webhook_listen, "--webhook-listen").await?,
        admin: listener(config.admin, "--admin").await?,
    };
    let client = client()?;
    let (stop, stopped) = watch::channel(false);
    let mut serving = tokio::spawn(serve(config, client, ports, stopped));
    tokio::select! {
        signal = signals.next() => {
            tracing::info!("{signal}: giving the lease back");
            stop.send_replace(true);
            let ended = tokio::time::timeout(FAREWELL, &mut serving).await;
            serving.abort();
            ended.unwrap_or(Ok(Ok(()))).context("the operator's main task ended")?
        }
        ended = &mut serving => ended.context("the operator's main task ended")?,
    }
}

struct Ports {
    table: TcpListener,
    webhook: TcpListener,
    admin: TcpListener,
}

async fn listener(address: SocketAddr, name: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{name} {address}"))
}

/// The API server's client: from the pod's service account, or the present kubeconfig.
fn client() -> anyhow::Result<Client> {
    let mut config = match kube::Config::incluster() {
        Ok(config) => config,
        Err(_) => tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(kube::Config::from_kubeconfig(&Default::default()))
        })
        .context("neither a service account nor a kubeconfig is here")?,
    };
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).context("the API server's client can't be made")
}

/// Everything, until it is told to stop.
async fn serve(
    config: Config,
    client: Client,
    ports: Ports,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let state = Arc::new(Health::default());
    let metrics = Metrics::default();
    let webhook = webhook::State::new(config.installation.clone());
    // Probes are answered while the API server is not there yet: a restart would not bring it.
    let mut tasks = JoinSet::new();
    tasks.spawn(admin(&state, &metrics, &webhook, &config).serve(ports.admin));
    let trust = Trust::start(client.clone(), trust_settings(&config)).await;
    let tls = trust.serving().map_err(anyhow::Error::msg)?;
    tasks.spawn(webhook::serve(ports.webhook, tls, webhook));
    let (lease, leadership) = Lease::new(client.clone(), lease_settings(&config));
    let mut until = stopped.clone();
    let lease = tokio::spawn(lease.run(async move {
        // An error means that the program ends.
        let _ = until.wait_for(|stopped| *stopped).await;
    }));
    circle(&config, &client, &state, &metrics, &trust, &leadership, ports.table, &mut tasks);
    let mut stopped = stopped;
    tokio::select! {
        _ = stopped.wait_for(|stopped| *stopped) => {}
        Some(ended) = tasks.join_next() => anyhow::bail!("a task ended that runs for ever: {ended:?}"),
    }
    // First nothing is written any more, then another may lead.
    tasks.shutdown().await;
    lease.await.context("the lease's task ended")
}

/// Starts what observes, plans, writes and tells.
#[allow(clippy::too_many_arguments, reason = "it is the one place where all parts meet")]
fn circle(
    config: &Config,
    client: &Client,
    state: &Arc<Health>,
    metrics: &Metrics,
    trust: &Trust,
    leadership: &watch::Receiver<Leadership>,
    port: TcpListener,
    tasks: &mut JoinSet<()>,
) {
    let index = Arc::<Index>::default();
    state.watch(Arc::clone(&index), leadership.clone());
    let (server, reports) = Server::new();
    let (events, writer) = Events::new(client.clone(), &config.pod_name, metrics.clone());
    let told = events.clone();
    let bundles = Bundles::new(trust.clone(), client.clone(), &config.installation.namespace);
    let controller = Controller::new(Parts {
        client: client.clone(),
        index: Arc::clone(&index),
        table: server.clone(),
        memory: Arc::default(),
        installation: Arc::new(config.installation.clone()),
        leadership: leadership.clone(),
        metrics: metrics.clone(),
        events,
        shortage: Shortage::default(),
        bundles: bundles.clone(),
    });
    let (marked, counted) = (controller.clone(), metrics.clone());
    let changed: streams::Changed = Arc::new(move |keys| marked.mark(keys));
    let restarted: streams::Restarted = Arc::new(move |kind| counted.watch_restarted(kind));
    tasks.spawn(streams::watch_all(client.clone(), Arc::clone(&index), changed, restarted));
    tasks.spawn(controller.clone().run());
    tasks.spawn(writer.run());
    let known = Arc::clone(&index);
    let door = trust.door(Arc::new(move |uid| trust::replicas::is_replica(&known, uid)));
    tasks.spawn(async move {
        if let Err(error) = server.serve_tls(port, door).await {
            tracing::error!(%error, "the table is no longer served");
        }
    });
    tasks.spawn(hear(controller, reports, leadership.clone(), trust.dialling()));
    let (leads, leading) = watch::channel(false);
    tasks.spawn(lead(leadership.clone(), metrics.clone(), leads));
    let injected = upgrade::Injected::default();
    let pods = (Arc::clone(&index), injected.clone());
    tasks.spawn(swap_sidecars(config, client, pods, leading, (told, metrics.clone())));
    let counted = metrics.clone();
    tasks.spawn(injected.follow(client.clone(), move || counted.watch_restarted("InjectedPod")));
    let renewing = trust.clone();
    tasks.spawn(async move { renewing.run().await });
    tasks.spawn(publish(trust.clone(), bundles, leadership.clone()));
}

fn lease_settings(config: &Config) -> lease::Settings {
    lease::Settings {
        namespace: config.installation.namespace.clone(),
        name: config.lease.clone(),
        pod: config.pod_name.clone(),
        address: SocketAddr::new(config.pod_ip, config.table_listen.port()).to_string(),
    }
}

fn trust_settings(config: &Config) -> trust::Settings {
    trust::Settings {
        me: Me {
            service: config.service.clone(),
            namespace: config.installation.namespace.clone(),
            pod: config.pod_name.clone(),
            address: Some(config.pod_ip),
        },
        gateway: config.gateway_service_account.clone(),
        webhook: config.webhook_name.clone(),
        times: times(config.ca_lifetime),
    }
}

/// How long certificates last, for an authority of this lifetime: where that is short, everything is.
fn times(authority: Duration) -> Times {
    let usual = Times::default();
    let part = authority / 8;
    let overlap = usual.overlap.min(part);
    Times {
        authority,
        overlap,
        certificate: usual.certificate.min(part),
        serving: usual.serving.min(part),
        look: usual.look.min(overlap / 8),
    }
}

/// The leader keeps the bundle wherever it is needed.
async fn publish(trust: Trust, bundles: Bundles, mut leadership: watch::Receiver<Leadership>) {
    loop {
        if leadership.wait_for(|now| now.leader).await.is_err() {
            return std::future::pending().await;
        }
        let mut lost = leadership.clone();
        tokio::select! {
            () = trust.publish(bundles.namespaces()) => {}
            _ = lost.wait_for(|now| !now.leader) => {}
        }
    }
}

/// Reports go to the leader: here, or forwarded to it.
async fn hear(
    controller: Controller,
    mut reports: Reports,
    leadership: watch::Receiver<Leadership>,
    tls: watch::Receiver<Arc<ClientConfig>>,
) {
    let (leader, at) = watch::channel(None);
    let forwarder = Forwarder::start(at, tls);
    while let Some(report) = reports.recv().await {
        let now = leadership.borrow().clone();
        leader.send_if_modified(|known| std::mem::replace(known, now.address.clone()) != now.address);
        match now.leader {
            true => controller.report(report),
            false => forwarder.forward(report),
        }
    }
}

/// Shows who leads.
async fn lead(mut leadership: watch::Receiver<Leadership>, metrics: Metrics, leads: watch::Sender<bool>) {
    loop {
        let now = leadership.borrow_and_update().clone();
        metrics.led(now.leader);
        leads.send_replace(now.leader);
        tracing::info!(leads = now.leader, leader = now.address, "leadership");
        if leadership.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Brings this operator's sidecar image into pods that run: replicas, and users' own with a sidecar.
fn swap_sidecars(
    config: &Config,
    client: &Client,
    (index, injected): (Arc<Index>, upgrade::Injected),
    leading: watch::Receiver<bool>,
    (events, metrics): (Events, Metrics),
) -> impl Future<Output = ()> + Send + 'static {
    let settings = upgrade::Settings {
        namespace: config.installation.namespace.clone(),
        image: config.installation.sidecar_image.clone(),
        pull_policy: config.installation.pull_policy.clone(),
        pull_secrets: config.pull_secrets.clone(),
    };
    let own = settings.namespace.clone();
    let pods = move || {
        let mut pods: Vec<_> = index.pods().iter().filter_map(|pod| upgrade::pod_image(pod)).collect();
        let replicas: HashSet<String> = pods.iter().map(|pod| pod.uid.clone()).collect();
        let others = injected.pods().into_iter();
        // The webhook leaves the operator's own namespace alone, and so is this.
        pods.extend(others.filter(|pod| pod.namespace != own && !replicas.contains(&pod.uid)));
        pods
    };
    let tell = move |news: News<'_>| match news {
        News::Swapped(pod, image) => {
            let words = format!("the sidecar is given {image}; the engine is not restarted");
            tracing::info!(pod = %format!("{}/{}", pod.namespace, pod.name), "{words}");
            events.of_sidecar(pod, false, "SidecarSwapped", &words);
        }
        News::Halted(pod, why) => {
            let words = format!("no more pods are given the new sidecar: {why}");
            tracing::warn!("{words}");
            metrics.upgrade_halted(true);
            events.of_sidecar(pod, true, "SidecarUpgradeHalted", &words);
        }
        News::GoesOn => metrics.upgrade_halted(false),
    };
    upgrade::run(client.clone(), settings, leading, pods, tell)
}

/// What probes ask. Ready means: everything was read, so that the table is complete.
#[derive(Debug, Default)]
struct Health {
    watched: OnceLock<(Arc<Index>, watch::Receiver<Leadership>)>,
}

impl Health {
    fn watch(&self, index: Arc<Index>, leadership: watch::Receiver<Leadership>) {
        // Set once, by the one who starts.
        let _ = self.watched.set((index, leadership));
    }

    fn missing(&self) -> Vec<&'static str> {
        match self.watched.get() {
            Some((index, _)) => index.missing().into_iter().map(Kind::as_str).collect(),
            None => vec!["the certificate authority"],
        }
    }
}

fn admin(health: &Arc<Health>, metrics: &Metrics, webhook: &webhook::State, config: &Config) -> Admin {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    webhook.metrics.register(&mut registry);
    let (ready, status, pod) = (Arc::clone(health), Arc::clone(health), config.pod_name.clone());
    Admin::new(
        || Ok("alive".to_owned()),
        move || match ready.missing() {
            missing if missing.is_empty() => Ok("everything was read".to_owned()),
            missing => Err(format!("not read yet: {}", missing.join(", "))),
        },
        move || outrigger_dataplane::metrics::text(&registry),
        move || {
            let leadership = status.watched.get().map(|(_, leadership)| leadership.borrow().clone());
            let leadership = leadership.unwrap_or_default();
            let deployments = status.watched.get().map_or(0, |(index, _)| index.keys().len());
            serde_json::json!({
                "pod": pod,
                "leads": leadership.leader,
                "leader": leadership.address,
                "deployments": deployments,
                "notRead": status.missing(),
            })
        },
    )
}
