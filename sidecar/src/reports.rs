//! The table's stream: hot fields in, reports out.

use crate::config::Config;
use crate::engine::Engine;
use crate::shared::Shared;
use outrigger_table::{Client, ClientConfig, Table};
use outrigger_wire::stream::Report;
use outrigger_wire::{EndpointConfig, EndpointReport, EngineState, Subscription};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether anything has changed that is worth a report.
const LOOK: Duration = Duration::from_secs(1);
/// A report is sent at least this often: a server that has heard nothing for longer may think the sidecar gone.
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// What of a report makes a new one worth sending.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Said {
    serial: u64,
    engine: EngineState,
    in_flight: u32,
    queued: u32,
    draining: bool,
}

/// Follows the table and reports to it for as long as the program runs.
pub(crate) async fn run(config: Config, shared: Arc<Shared>, engine: Rc<Engine>, serial: Arc<AtomicU64>) {
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
            () = tokio::time::sleep(LOOK) => {}
        }
        let said = now(&shared, &serial);
        if last.is_some_and(|(before, at)| before == said && at.elapsed() < REPORT_EVERY) {
            continue;
        }
        last = Some((said, Instant::now()));
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
        })));
    }
}

fn now(shared: &Shared, serial: &AtomicU64) -> Said {
    let (in_flight, queued) = shared.counts();
    let orders = shared.orders.borrow();
    Said {
        serial: serial.load(Ordering::Relaxed),
        engine: orders.engine,
        in_flight,
        queued,
        draining: orders.draining,
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
        changed
    });
    if changed {
        tracing::info!(serial = config.serial, "hot fields changed");
    }
}
