//! The books without threads or sockets.

use super::*;
use crate::snapshot::Pass;
use outrigger_decide::breaker::Signal;
use outrigger_wire::{Arm, BasisPoints, Endpoint, Outcome, Percent, Period, RevisionRoute, Routes, Stratum};
use prometheus_client::registry::Registry;

fn route(revision: &str) -> Option<RevisionRoute> {
    let endpoint =
        Endpoint { id: format!("{revision}-0").as_str().into(), address: "127.0.0.1:9".to_owned() };
    Some(RevisionRoute { revision: revision.into(), endpoints: vec![endpoint] })
}

fn routes(serial: u64, stable: &str, canary: Option<&str>) -> Routes {
    let circuit_breaker =
        CircuitBreaker { failure_rate: Percent::whole(50), window: 4, open_for: Period::secs(1) };
    Routes {
        deployment: "default/chat".into(),
        serial,
        model: "m".to_owned(),
        aliases: Vec::new(),
        traffic: outrigger_wire::Traffic { circuit_breaker, ..Default::default() },
        timeouts: Default::default(),
        max_queue_delay: Period::secs(2),
        stable: route(stable),
        canary: canary.and_then(route),
        weight: BasisPoints::percent(if canary.is_some() { 10 } else { 0 }),
        reference: None,
    }
}

fn table(routes: Routes) -> Table {
    let key = routes.deployment.clone();
    Table { routes: BTreeMap::from([(key, Arc::new(routes))]), live: true, ..Table::default() }
}

struct Books {
    ledger: Ledger,
    registry: Registry,
    now: Instant,
}

impl Books {
    fn new() -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        Self { ledger: Ledger::new("g".into(), 7, 2, metrics), registry, now: Instant::now() }
    }

    fn hear(&mut self, routes: Routes) -> Vec<String> {
        let (snapshot, trouble) = self.ledger.take_table(&table(routes), self.now);
        self.ledger.acknowledge(snapshot.version);
        trouble
    }

    fn revision(&self, arm: Arm) -> Arc<Revision> {
        let deployment = &self.ledger.current().deployments[0];
        let side = if arm == Arm::Stable { &deployment.stable } else { &deployment.canary };
        Arc::clone(&side.as_ref().unwrap().revision)
    }

    fn absorb(&mut self, records: Vec<Record>) {
        self.ledger.absorb(0, &Taken { records, ..Taken::default() }, self.now);
        self.ledger.set_gates(self.now);
    }

    fn ended(&mut self, arm: Arm, outcome: Outcome, signal: Signal, probe: bool, times: usize) {
        let revision = self.revision(arm).number;
        let stratum = Stratum::Short;
        let ended = Record::Ended { revision, stratum, outcome, signal, probe, micros: 1_000 };
        self.absorb(vec![ended; times]);
    }

    fn deployment(&mut self) -> outrigger_wire::DeploymentReport {
        self.ledger.report(self.now).deployments[&"default/chat".into()].clone()
    }

    fn text(&self) -> String {
        outrigger_dataplane::metrics::text(&self.registry)
    }
}

/// The serial that is reported is the one that every thread works by, not the one that was heard.
#[test]
fn a_serial_is_acknowledged_when_all_threads_work_by_it() {
    let mut books = Books::new();
    books.hear(routes(1, "a", None));
    assert_eq!(books.deployment().serial, 1);
    let (snapshot, _) = books.ledger.take_table(&table(routes(2, "a", Some("b"))), books.now);
    assert!(!books.ledger.acknowledge(snapshot.version - 1));
    assert_eq!(books.deployment().serial, 1);
    assert!(books.ledger.acknowledge(snapshot.version), "news");
    assert!(!books.ledger.acknowledge(snapshot.version), "told once");
    assert_eq!(books.deployment().serial, 2);
}

#[test]
fn assignments_are_those_of_the_acknowledged_serial() {
    let mut books = Books::new();
    books.hear(routes(5, "a", Some("b")));
    let deployment = books.ledger.current().deployments[0].number;
    let of = |serial, arm| Record::Assigned { deployment, serial, arm };
    books.absorb(vec![of(4, Arm::Stable), of(5, Arm::Stable), of(5, Arm::Stable), of(5, Arm::Canary)]);
    let report = books.deployment();
    assert_eq!((report.assigned_stable, report.assigned_canary), (2, 1));
}

#[test]
fn the_canarys_breaker_ejects_and_lets_one_try() {
    let mut books = Books::new();
    books.hear(routes(1, "a", Some("b")));
    let canary = books.revision(Arm::Canary);
    books.ended(Arm::Canary, Outcome::Failure, Signal::Failure, false, 4);
    assert_eq!(canary.gate.pass(), Pass::No);
    assert_eq!(books.deployment().ejected, ["b".into()]);
    assert!(
        books
            .text()
            .contains("outrigger_gateway_revision_ejected{deployment=\"default/chat\",revision=\"b\"} 1")
    );

    // Attempts of the ejected canary that stable serves are failures of it, but nothing that its breaker learns of.
    books.ended(Arm::Canary, Outcome::Failure, Signal::Neutral, false, 3);
    assert_eq!(books.deployment().revisions[&"b".into()].strata[&Stratum::Short].failure, 7);

    books.now += Duration::from_secs(1);
    books.absorb(Vec::new());
    assert_eq!((canary.gate.pass(), canary.gate.pass()), (Pass::Probe, Pass::No), "one");
    books.absorb(Vec::new());
    assert_eq!(canary.gate.pass(), Pass::No, "until it is heard of");
    books.ended(Arm::Canary, Outcome::Success, Signal::Success, true, 1);
    assert_eq!(canary.gate.pass(), Pass::Yes);
    assert!(books.deployment().ejected.is_empty());
}

/// Nobody could stand in for stable.
#[test]
fn stable_is_never_ejected() {
    let mut books = Books::new();
    books.hear(routes(1, "a", Some("b")));
    books.ended(Arm::Stable, Outcome::Failure, Signal::Failure, false, 100);
    assert_eq!(books.revision(Arm::Stable).gate.pass(), Pass::Yes);
    assert!(books.deployment().ejected.is_empty());
}

#[test]
fn a_promoted_revision_leaves_its_breaker_behind() {
    let mut books = Books::new();
    books.hear(routes(1, "a", Some("b")));
    books.ended(Arm::Canary, Outcome::Failure, Signal::Failure, false, 4);
    books.hear(routes(2, "b", None));
    assert_eq!(books.revision(Arm::Stable).gate.pass(), Pass::Yes);
    assert_eq!(books.deployment().revisions[&"b".into()].strata[&Stratum::Short].failure, 4, "counts go on");
}

#[test]
fn what_is_in_flight_is_summed_over_threads() {
    let mut books = Books::new();
    books.hear(routes(1, "a", None));
    let revision = books.revision(Arm::Stable).number;
    let began = books.now;
    books.now += Duration::from_secs(10);
    for (thread, count, after) in [(0, 2, 0), (1, 3, 4)] {
        let oldest = began + Duration::from_secs(after);
        let standing = vec![Standing { revision, count, oldest }];
        books.ledger.absorb(thread, &Taken { standing, ..Taken::default() }, books.now);
    }
    let report = &books.deployment().revisions[&"a".into()];
    assert_eq!((report.in_flight, report.oldest_millis), (5, 10_000));
}

#[test]
fn a_lower_serial_is_refused_unless_the_deployment_was_gone() {
    let mut books = Books::new();
    books.hear(routes(5, "a", None));
    let trouble = books.hear(routes(4, "old", Some("b")));
    assert!(trouble[0].contains("serial 4 is lower than 5"), "{trouble:?}");
    assert_eq!(books.deployment().serial, 5);
    assert_eq!(books.revision(Arm::Stable).id, "a".into());
    books.ledger.take_table(&Table { live: true, ..Table::default() }, books.now);
    assert!(books.hear(routes(1, "a", None)).is_empty(), "made anew under the same name");
}

#[test]
fn what_left_the_table_is_forgotten_in_the_end() {
    let mut books = Books::new();
    books.hear(routes(1, "a", Some("b")));
    books.ended(Arm::Canary, Outcome::Success, Signal::Success, false, 1);
    books.hear(routes(2, "a", None));
    assert!(books.text().contains("revision=\"b\""), "its last streams are still counted");
    books.now += KEPT_FOR + Duration::from_secs(1);
    books.deployment();
    assert!(!books.text().contains("revision=\"b\""));
    assert!(books.text().contains("revision=\"a\""));
}

#[test]
fn sequences_grow_and_the_incarnation_stands() {
    let mut books = Books::new();
    let (first, second) = (books.ledger.report(books.now), books.ledger.report(books.now));
    assert!(second.sequence > first.sequence);
    assert_eq!((first.incarnation, second.incarnation), (7, 7));
}

/// Series are made of the table and of this program's words; their names are part of the interface.
#[test]
fn metrics_have_their_names() {
    let mut books = Books::new();
    books.hear(routes(1, "a", None));
    books.absorb(vec![Record::Refused { reason: "model_not_found" }]);
    books.ended(Arm::Stable, Outcome::Success, Signal::Success, false, 1);
    let text = books.text();
    for line in [
        "outrigger_gateway_attempts_total{deployment=\"default/chat\",revision=\"a\",outcome=\"success\"} 1",
        "outrigger_gateway_duration_seconds_count{deployment=\"default/chat\",revision=\"a\"} 1",
        "outrigger_gateway_first_token_seconds_count{deployment=\"default/chat\",revision=\"a\"} 0",
        "outrigger_gateway_in_flight{deployment=\"default/chat\",revision=\"a\"} 0",
        "outrigger_gateway_retries_total{deployment=\"default/chat\",revision=\"a\"} 0",
        "outrigger_gateway_fallbacks_total{deployment=\"default/chat\",revision=\"a\"} 0",
        "outrigger_gateway_refused_total{reason=\"model_not_found\"} 1",
        "outrigger_gateway_programmed_weight_ratio{deployment=\"default/chat\"} 0.0",
        "outrigger_gateway_serial{deployment=\"default/chat\"} 1",
        "outrigger_gateway_dropped_records_total 0",
        "outrigger_gateway_table_live 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
