//! Hot fields from the table's stream, and reports to it.

use crate::client::until;
use crate::fake::Fake;
use crate::world::{World, batched, plain};
use outrigger_wire::stream::Report;
use outrigger_wire::{EndpointConfig, EndpointReport, EngineState};
use std::sync::{Arc, Mutex};

/// A planner's end: publishes configurations and keeps the last report.
pub(crate) struct Planner {
    pub(crate) address: std::net::SocketAddr,
    server: outrigger_table::Server,
    last: Arc<Mutex<Option<EndpointReport>>>,
    pub(crate) grant: Mutex<Option<u64>>,
}

impl Planner {
    pub(crate) fn start() -> Self {
        let last = Arc::new(Mutex::new(None));
        let kept = last.clone();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        // Ends with the process.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let (server, mut reports) = outrigger_table::Server::new();
                tell.send((listener.local_addr().unwrap(), server.clone())).unwrap();
                let keep = async {
                    while let Some(report) = reports.recv().await {
                        if let Report::Endpoint(report) = report {
                            *kept.lock().unwrap() = Some(*report);
                        }
                    }
                };
                let _ = tokio::join!(server.serve(listener), keep);
            });
        });
        let (address, server) = told.recv().unwrap();
        Self { address, server, last, grant: Mutex::default() }
    }

    pub(crate) fn publish(&self, serial: u64, serving: outrigger_wire::Serving) {
        self.server.publish_endpoints(vec![EndpointConfig {
            endpoint: "e".into(),
            deployment: "default/d".into(),
            serial,
            model: "m".to_owned(),
            serving,
            grant: *self.grant.lock().unwrap(),
        }]);
    }

    pub(crate) fn last(&self) -> Option<EndpointReport> {
        self.last.lock().unwrap().clone()
    }
}

#[test]
fn hot_fields_come_and_reports_go() {
    let planner = Planner::start();
    planner.publish(3, plain());
    let table = vec![planner.address.to_string()];
    let world = World::start_with(Fake::start(), batched(1), |config| config.table = table);
    world.until_state("ready");
    until("the table's fields replace its own", || world.status()["serving"].get("batching").is_none());
    until("it is reported", || {
        planner.last().is_some_and(|r| (r.engine, r.serial, r.in_flight) == (EngineState::Ready, 3, 0))
    });
    let first = world.occupy();
    until("work is reported", || planner.last().is_some_and(|r| r.in_flight == 1));
    planner.publish(4, batched(2));
    until("a change arrives", || world.status()["serving"]["batching"]["maxSize"] == 8);
    until("and is acknowledged", || planner.last().is_some_and(|r| r.serial == 4));
    world.engine.open();
    assert_eq!(first.join().unwrap().status, 200);
    let before = planner.last().unwrap();
    until("the end is reported", || {
        planner.last().is_some_and(|r| r.in_flight == 0 && r.sequence > before.sequence)
    });
    assert_eq!(planner.last().unwrap().incarnation, before.incarnation);
}
