//! The control thread: hears routes, gives them to the data threads, takes in what they counted, reports.

use crate::config::{Config, Source};
use crate::ledger::Ledger;
use crate::record::{Desk, Record};
use crate::snapshot::Snapshot;
use arc_swap::ArcSwap;
use outrigger_table::{Client, ClientConfig, Table};
use outrigger_wire::stream::Report;
use outrigger_wire::{GatewayReport, Routes, Subscription};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// How often reports are sent while nothing presses.
const REPORTS: Duration = Duration::from_secs(1);
/// How long records gather before they are worked through: breakers and acknowledgements are this late at most.
const GATHERS: Duration = Duration::from_millis(20);

/// The shortest time between two snapshots. The first change is served at once, and what follows it closely, as when a
/// thousand deployments are declared, becomes one snapshot instead of one each.
const PACE: Duration = Duration::from_millis(20);

/// What the admin port shows of the control thread.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// Whether routes are known.
    pub(crate) ready: bool,
    live: bool,
    /// What every thread serves.
    served: Option<Arc<Snapshot>>,
    threads: serde_json::Value,
    report: Option<Arc<GatewayReport>>,
}

impl Shown {
    /// `/status`, made when somebody asks.
    pub(crate) fn status(&self) -> serde_json::Value {
        let routes = self.served.iter().flat_map(|served| &served.deployments);
        json!({
            "tableLive": self.live,
            "version": self.served.as_ref().map(|served| served.version),
            "routes": routes.map(|deployment| &*deployment.routes).collect::<Vec<_>>(),
            "threads": self.threads,
            "report": self.report.as_deref(),
        })
    }
}

/// The control thread's work.
#[derive(Debug)]
pub(crate) struct Control {
    ledger: Ledger,
    desks: Vec<Arc<Desk>>,
    bell: Arc<Notify>,
    give: watch::Sender<Arc<Snapshot>>,
    client: Option<Client>,
    table: watch::Receiver<Arc<Table>>,
    /// Keeps `table` open where routes come from a file.
    _fixed: Option<watch::Sender<Arc<Table>>>,
    shown: Arc<ArcSwap<Shown>>,
    /// Troubles that were logged, so that each is said once.
    said: HashSet<String>,
    emptied: Vec<Record>,
}

impl Control {
    /// Begins to hear routes; within a runtime. What is known already (a file, the last routes on disk) is given
    /// out before this returns.
    pub(crate) fn start(config: &Config, ledger: Ledger, shown: Arc<ArcSwap<Shown>>) -> Self {
        let bell = Arc::<Notify>::default();
        let desks = (0..config.threads).map(|_| Arc::new(Desk::new(Arc::clone(&bell)))).collect();
        let (client, table, fixed) = match &config.source {
            Source::Table(servers) => {
                let client = Client::start(ClientConfig {
                    servers: servers.clone(),
                    subscription: Subscription::Gateway(config.gateway.clone()),
                    state_dir: config.state_dir.clone(),
                    tls: config.tls.clone(),
                });
                let table = client.table();
                (Some(client), table, None)
            }
            Source::Fixed(routes) => {
                let (send, table) = watch::channel(Arc::new(fixed(routes)));
                (None, table, Some(send))
            }
        };
        let give = watch::Sender::new(Arc::clone(ledger.current()));
        let said = HashSet::new();
        let emptied = Vec::new();
        let mut control =
            Self { ledger, desks, bell, give, client, table, _fixed: fixed, shown, said, emptied };
        control.hear(Instant::now());
        control
    }

    /// The desk of each data thread.
    pub(crate) fn desks(&self) -> Vec<Arc<Desk>> {
        self.desks.clone()
    }

    /// Where data threads get their snapshots.
    pub(crate) fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.give.subscribe()
    }

    /// Works until the future is dropped.
    pub(crate) async fn run(mut self) {
        let mut reports = tokio::time::interval(REPORTS);
        reports.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut gates: Option<Instant> = None;
        let mut heard = tokio::time::Instant::now();
        loop {
            let bell = Arc::clone(&self.bell);
            let due = tokio::time::Instant::from_std(gates.unwrap_or_else(Instant::now));
            let mut report = false;
            tokio::select! {
                changed = next_change(&mut self.table, heard + PACE) => match changed {
                    Ok(()) => {
                        self.hear(Instant::now());
                        heard = tokio::time::Instant::now();
                    }
                    // The client is gone, which it is only when this program ends: serve on from what is known.
                    Err(_) => tokio::time::sleep(REPORTS).await,
                },
                () = bell.notified() => tokio::time::sleep(GATHERS).await,
                _ = reports.tick() => report = true,
                () = tokio::time::sleep_until(due), if gates.is_some() => {}
            }
            let now = Instant::now();
            self.gather(now);
            gates = self.ledger.set_gates(now);
            let seen = self.desks.iter().map(|desk| desk.seen()).min().unwrap_or(0);
            // An acknowledgement is worth a report of its own: a weight is programmed when it is heard.
            report |= self.ledger.acknowledge(seen);
            if report {
                self.report(now);
            }
        }
    }

    fn hear(&mut self, now: Instant) {
        let table = Arc::clone(&self.table.borrow_and_update());
        let (snapshot, trouble) = self.ledger.take_table(&table, now);
        let still: HashSet<String> = trouble.into_iter().collect();
        for news in still.difference(&self.said) {
            tracing::warn!("{news}");
        }
        self.said = still;
        self.give.send_replace(snapshot);
        self.show(None);
    }

    fn gather(&mut self, now: Instant) {
        for (thread, desk) in self.desks.iter().enumerate() {
            let taken = desk.take(std::mem::take(&mut self.emptied));
            self.ledger.absorb(thread, &taken, now);
            self.emptied = taken.records;
        }
    }

    fn report(&mut self, now: Instant) {
        let report = self.ledger.report(now);
        if let Some(client) = &self.client {
            client.report(Report::Gateway(Box::new(report.clone())));
        }
        self.show(Some(Arc::new(report)));
    }

    /// What `/readyz` and `/status` say. Ready is decided by the acknowledged snapshot: by then every thread
    /// serves it.
    fn show(&self, report: Option<Arc<GatewayReport>>) {
        let acknowledged = self.ledger.acknowledged();
        let before = self.shown.load();
        self.shown.store(Arc::new(Shown {
            ready: acknowledged.known,
            live: self.table.borrow().live,
            served: Some(Arc::clone(acknowledged)),
            threads: json!(self.ledger.counters()),
            report: report.or_else(|| before.report.clone()),
        }));
    }
}

/// The next change, not before this time.
async fn next_change(
    table: &mut watch::Receiver<Arc<Table>>,
    earliest: tokio::time::Instant,
) -> Result<(), watch::error::RecvError> {
    // In this order nothing is lost when it is dropped: a change counts as seen only once it is returned.
    tokio::time::sleep_until(earliest).await;
    table.changed().await
}

fn fixed(routes: &[Routes]) -> Table {
    let routes = routes.iter().map(|routes| (routes.deployment.clone(), Arc::new(routes.clone())));
    // A file is always as heard: nothing newer is to be expected.
    Table { routes: routes.collect(), live: true, ..Table::default() }
}
