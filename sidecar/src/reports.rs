//! The table's stream: hot fields in, reports out.

use crate::config::Config;
use crate::engine::Engine;
use crate::heal::View;
use crate::shared::Shared;
use outrigger_decide::health::{Ask, Order};
use outrigger_table::{Client, ClientConfig, Table};
use outrigger_wire::stream::Report;
use outrigger_wire::{
    EndpointConfig, EndpointReport, EngineState, EngineTrouble, RestartAsk, RestartOrder, Restarts,
    Subscription,
};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often it is looked whether anything has changed that is worth a report.
const LOOK: Duration = Duration::from_secs(1);
/// A report is sent at least this often: a server that has heard nothing for longer may think the sidecar gone.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// What of a report makes a new one worth sending.
#[derive(Clone, PartialEq, Eq)]
struct Said {
    serial: u64,
    engine: EngineState,
    in_flight: u32,
    queued: u32,
    draining: bool,
    orders: Vec<Order>,
    asks: Option<Ask>,
    trouble: Option<EngineTrouble>,
}

impl Said {
    fn restarts(&self) -> Restarts {
        let age = |at: std::time::Instant| at.elapsed().as_millis() as u64;
        let order = |o: &Order| RestartOrder { number: o.number, age_millis: age(o.at) };
        let ask =
            |a: Ask| RestartAsk { number: a.number, incarnation: a.incarnation, age_millis: age(a.since) };
        Restarts { orders: self.orders.iter().map(order).collect(), asks: self.asks.map(ask) }
    }
}

/// Follows the table and reports to it for as long as the program runs.
pub(crate) async fn run(
    config: Config,
    shared: Arc<Shared>,
    engine: Rc<Engine>,
    serial: Arc<AtomicU64>,
    mut view: watch::Receiver<View>,
) {
    let client = Client::start(ClientConfig {
        servers: config.table.clone(),
        subscription: Subscription::Endpoint(config.endpoint.clone()),
        state_dir: config.state_dir.clone(),
        tls: config.tls.clone(),
    });
    let mut table = client.table();
    let mut orders = shared.orders.subscribe();
    let incarnation = fastrand::u64(..);
    let mut sequence = 0;
    let mut last: Option<(Said, Instant)> = None;
    // The table may be there already: the one on disk.
    table.mark_changed();
    loop {
        tokio::select! {
            Ok(()) = table.changed() => {
                let table = table.borrow_and_update().clone();
                take_in(&table, &shared, &engine, &serial);
            }
            // A changed state is told at once, changed counts when they are looked at.
            Ok(()) = orders.changed() => {}
            Ok(()) = view.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        let said = now(&shared, &serial, &view.borrow_and_update());
        if last.as_ref().is_some_and(|(before, at)| *before == said && at.elapsed() < REPORT_EVERY) {
            continue;
        }
        last = Some((said.clone(), Instant::now()));
        sequence += 1;
        client.report(Report::Endpoint(Box::new(EndpointReport {
            endpoint: config.endpoint.clone(),
            incarnation,
            sequence,
            serial: said.serial,
            kind: config.kind,
            engine: said.engine,
            in_flight: said.in_flight,
            queued: said.queued,
            draining: said.draining,
            restarts: said.restarts(),
            trouble: said.trouble,
        })));
    }
}

fn now(shared: &Shared, serial: &AtomicU64, view: &View) -> Said {
    let (in_flight, queued) = shared.counts();
    let orders = shared.orders.borrow();
    Said {
        serial: serial.load(Ordering::Relaxed),
        engine: orders.engine,
        in_flight,
        queued,
        draining: orders.draining,
        orders: view.orders.clone(),
        asks: view.asks,
        trouble: view.trouble.clone(),
    }
}

fn take_in(table: &Table, shared: &Shared, engine: &Engine, serial: &AtomicU64) {
    let Some(config) = &table.endpoint else { return };
    // The stream's other end checks this too; a proxy refuses what is older than what it works by.
    if config.serial < serial.load(Ordering::Relaxed) {
        return;
    }
    serial.store(config.serial, Ordering::Relaxed);
    apply(config, shared, engine);
}

fn apply(config: &EndpointConfig, shared: &Shared, engine: &Engine) {
    let mistakes = config.serving.check("serving");
    if !mistakes.is_empty() {
        // A planner of another version; what this one can't do, it doesn't do by halves.
        for mistake in mistakes {
            tracing::warn!(%mistake, "hot fields refused");
        }
        return;
    }
    engine.set_model(&config.model);
    let changed = shared.orders.send_if_modified(|orders| {
        let changed = *orders.serving != config.serving;
        if changed {
            orders.serving = Arc::new(config.serving.clone());
        }
        let granted = std::mem::replace(&mut orders.grant, config.grant) != config.grant;
        changed || granted
    });
    if changed {
        tracing::info!(serial = config.serial, "hot fields changed");
    }
}
