//! A proxy's end.

use crate::lines::Cutter;
use crate::wallet::{ClientTls, Wallet};
use crate::{disk, post};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use outrigger_wire::stream::{Change, HEARTBEAT, Report, STREAM_PATH, Subscribe, Version};
use outrigger_wire::{DeploymentKey, EndpointConfig, Routes, Subscription};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, timeout};

/// A stream from which nothing is heard for this long is dead.
const SILENCE: Duration = HEARTBEAT.saturating_mul(3);
/// The shortest and longest rests between two attempts; each is drawn between half and the whole, so that a
/// thousand sidecars don't dial in step.
const REST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The most deployments that are taken in.
const MOST_DEPLOYMENTS: usize = 20_000;

/// The shortest time between two stores of the table: each writes all of it and waits for the disk, and a thousand
/// deployments that change in a minute must not cost a thousand times their number.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// For how long the serial of a deployment that is gone is remembered: longer than a server's cache lags behind,
/// so that one server which lacks the deployment and a second which has it as it was before its last rollback
/// don't bring a weight back together. One that is made anew under the same name waits as long at most.
const TOMBSTONE: Duration = Duration::from_secs(30);

/// Where to subscribe and as whom.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Servers, `host:port`, any of which will do; tried in turn.
    pub servers: Vec<String>,
    /// As whom.
    pub subscription: Subscription,
    /// Where the last table is kept, to serve from when no server answers.
    pub state_dir: Option<PathBuf>,
    /// What is needed to be let in by servers that ask who one is; without it there is no TLS.
    pub tls: Option<ClientTls>,
}

/// What was heard so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Routes by deployment (gateways).
    pub routes: BTreeMap<DeploymentKey, Arc<Routes>>,
    /// The sidecar's own configuration (sidecars).
    pub endpoint: Option<Arc<EndpointConfig>>,
    /// Whether the stream lives; while it doesn't, the table is the last one heard or the one on disk.
    pub live: bool,
}

/// A subscription that lasts until it is dropped: it dials, resumes and keeps the table.
#[derive(Debug)]
pub struct Client {
    table: watch::Receiver<Arc<Table>>,
    reports: watch::Sender<Option<Report>>,
    tasks: Vec<AbortHandle>,
}

impl Client {
    /// Starts the subscription on the current runtime, from the table on disk where there is one.
    pub fn start(config: ClientConfig) -> Self {
        let kept = config.state_dir.as_deref().map(disk::load).unwrap_or_default();
        let (sender, table) = watch::channel(Arc::new(kept));
        let (reports, newest) = watch::channel(None);
        // The server that answers the stream is the one that reports go to.
        let (answering, at) = watch::channel(None);
        let wallet = Arc::new(Wallet::new(config.tls.clone()));
        let post = tokio::spawn(post::post(Arc::clone(&wallet), newest, at));
        let (gone, said) = (Gone::default(), String::new());
        let (keep, whole) = watch::channel(Arc::new(Table::default()));
        let keeper = tokio::spawn(keep_on_disk(config.state_dir.clone(), whole));
        let follower = Follower { config, table: sender, keep, answering, gone, wallet, said };
        let follow = tokio::spawn(follower.follow());
        let tasks = [follow, post, keeper].iter().map(JoinHandle::abort_handle).collect();
        Self { table, reports, tasks }
    }

    /// The table, now and whenever it changes.
    pub fn table(&self) -> watch::Receiver<Arc<Table>> {
        self.table.clone()
    }

    /// Sends a report soon. Only the newest is kept: reports are cumulative.
    pub fn report(&self, report: Report) {
        self.reports.send_replace(Some(report));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

struct Follower {
    config: ClientConfig,
    table: watch::Sender<Arc<Table>>,
    /// The table whenever it is whole, to be kept.
    keep: watch::Sender<Arc<Table>>,
    answering: watch::Sender<Option<String>>,
    gone: Gone,
    wallet: Arc<Wallet>,
    /// Why there was no stream, as it was said last: each reason is said once.
    said: String,
}

/// The serials of deployments that are gone, and when they went.
#[derive(Debug, Default)]
struct Gone(BTreeMap<DeploymentKey, (u64, Instant)>);

impl Gone {
    fn bury(&mut self, routes: &Routes) {
        let now = Instant::now();
        self.0.retain(|_, (_, at)| now.duration_since(*at) < TOMBSTONE);
        if self.0.len() < MOST_DEPLOYMENTS {
            self.0.insert(routes.deployment.clone(), (routes.serial, now));
        }
    }

    /// The serial below which nothing is believed of a deployment that is not in the table.
    fn serial(&self, deployment: &DeploymentKey) -> u64 {
        let found = self.0.get(deployment).filter(|(_, at)| at.elapsed() < TOMBSTONE);
        found.map_or(0, |(serial, _)| *serial)
    }
}

impl Follower {
    async fn follow(mut self) {
        let mut rest = REST.0;
        let servers = self.config.servers.clone();
        for server in servers.iter().cycle() {
            let mut synced = false;
            let why = self.subscribe(server, &mut synced).await;
            self.answering.send_replace(None);
            self.table.send_if_modified(|table| {
                let was = table.live;
                Arc::make_mut(table).live = false;
                was
            });
            rest = if synced { REST.0 } else { (rest * 2).min(REST.1) };
            self.say(server, why, synced);
            sleep(rest.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
        // No servers: the table stays what it is.
        std::future::pending().await
    }

    /// Follows one server's stream until it ends, and says why it did.
    async fn subscribe(&mut self, server: &str, synced: &mut bool) -> String {
        let have = versions(&self.table.borrow());
        let subscribe = Subscribe { subscription: self.config.subscription.clone(), have };
        let dialled = timeout(post::DIAL_TIME, self.wallet.connect(server)).await;
        let mut connection = match dialled {
            Err(_) => return "no connection in time".to_owned(),
            Ok(Err(why)) => return why,
            Ok(Ok(connection)) => connection,
        };
        let answer = post::send(&mut connection, server, STREAM_PATH, &subscribe);
        let mut body = match timeout(SILENCE, answer).await {
            Err(_) => return "no answer in time".to_owned(),
            // With TLS 1.3 a client hears that its certificate was refused only when it reads.
            Ok(Err(why)) => {
                self.wallet.refused().await;
                return why;
            }
            Ok(Ok(answer)) if !answer.status().is_success() => return self.refused(answer).await,
            Ok(Ok(answer)) => answer.into_body(),
        };
        let mut cutter = Cutter::default();
        loop {
            let piece = match timeout(SILENCE, next_piece(&mut body)).await {
                Err(_) => return "silence".to_owned(),
                Ok(Err(why)) => return why,
                Ok(Ok(piece)) => piece,
            };
            if let Err(why) = cutter.push(&piece) {
                return why;
            }
            if let Err(why) = self.take_in(&mut cutter, server, synced).await {
                return why;
            }
        }
    }

    async fn refused(&self, answer: Response<Incoming>) -> String {
        let status = answer.status();
        if post::is_about_identity(status) {
            self.wallet.refused().await;
        }
        let body = timeout(SILENCE, post::read(answer, 1 << 16)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        post::refusal("the stream was refused", status, &body)
    }

    fn say(&mut self, server: &str, why: String, synced: bool) {
        if synced {
            self.said.clear();
        }
        if self.said == why {
            tracing::debug!(server, why, "there is no stream of the table");
        } else {
            tracing::warn!(server, why, "there is no stream of the table; what was heard last stays");
            self.said = why;
        }
    }

    /// Takes in the whole lines that have come, in one step: a weight and the endpoints that it needs are never
    /// seen apart.
    async fn take_in(&mut self, cutter: &mut Cutter, server: &str, synced: &mut bool) -> Result<(), String> {
        let mut table = Table::clone(&self.table.borrow());
        let mut differs = false;
        while let Some(line) = cutter.next_line() {
            let change = serde_json::from_slice(&line).map_err(|error| format!("not a change: {error}"))?;
            if matches!(change, Change::Synced) {
                *synced = true;
                table.live = true;
                differs = true;
                self.answering.send_replace(Some(server.to_owned()));
            } else {
                differs |= apply(&mut table, &mut self.gone, change);
            }
        }
        if !differs {
            return Ok(());
        }
        let table = Arc::new(table);
        if *synced {
            self.keep.send_replace(Arc::clone(&table));
        }
        self.table.send_replace(table);
        Ok(())
    }
}

/// Keeps the newest whole table, at once and then at most every [`KEEP_EVERY`].
async fn keep_on_disk(folder: Option<PathBuf>, mut tables: watch::Receiver<Arc<Table>>) {
    let Some(folder) = folder else { return };
    while tables.changed().await.is_ok() {
        let (table, folder) = (Arc::clone(&tables.borrow_and_update()), folder.clone());
        let stored = tokio::task::spawn_blocking(move || disk::store(&folder, &table)).await;
        if let Ok(Err(error)) = stored {
            tracing::warn!(%error, "the table can't be kept on disk");
        }
        sleep(KEEP_EVERY).await;
    }
}

/// Applies one change; whether anything differs. A lower serial is refused: whoever sends it has an old cache,
/// and must not undo a rollback.
fn apply(table: &mut Table, gone: &mut Gone, change: Change) -> bool {
    match change {
        Change::Routes(routes) => {
            let known = table.routes.get(&routes.deployment);
            let serial = known.map_or_else(|| gone.serial(&routes.deployment), |known| known.serial);
            if serial > routes.serial {
                tracing::warn!(deployment = %routes.deployment, known = serial, offered = routes.serial,
                    "refused routes with a lower serial");
                return false;
            }
            if known.is_none() && table.routes.len() >= MOST_DEPLOYMENTS {
                tracing::warn!(deployment = %routes.deployment, "refused: {MOST_DEPLOYMENTS} deployments are known");
                return false;
            }
            let routes = Arc::new(*routes);
            let before = table.routes.insert(routes.deployment.clone(), Arc::clone(&routes));
            before.as_ref() != Some(&routes)
        }
        Change::Removed(key) => {
            let removed = table.routes.remove(&key);
            removed.iter().for_each(|routes| gone.bury(routes));
            removed.is_some()
        }
        Change::Endpoint(config) => {
            if table.endpoint.as_ref().is_some_and(|known| known.serial > config.serial) {
                tracing::warn!(offered = config.serial, "refused a configuration with a lower serial");
                return false;
            }
            let before = table.endpoint.replace(Arc::new(*config));
            before != table.endpoint
        }
        Change::Synced | Change::Alive => false,
    }
}

/// The versions of what a table holds, to resume from.
fn versions(table: &Table) -> BTreeMap<String, Version> {
    fn version<T: serde::Serialize>(serial: u64, value: &T) -> Option<Version> {
        serde_json::to_vec(value).ok().map(|json| Version::of(serial, &json))
    }
    let routes = table
        .routes
        .iter()
        .filter_map(|(key, routes)| Some((key.0.clone(), version(routes.serial, &**routes)?)));
    let endpoint = table.endpoint.as_deref();
    let endpoint =
        endpoint.and_then(|config| Some((config.endpoint.0.clone(), version(config.serial, config)?)));
    routes.chain(endpoint).collect()
}

async fn next_piece(body: &mut Incoming) -> Result<Bytes, String> {
    loop {
        match body.frame().await {
            None => return Err("the server ended the stream".to_owned()),
            Some(Err(error)) => return Err(error.to_string()),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(data);
                }
            }
        }
    }
}
