//! A sidecar beside a fake engine, and what can be seen of it from outside.

use crate::client::{self, Reply, until};
use crate::fake::Fake;
use outrigger_sidecar::Sidecar;
use outrigger_sidecar::config::Config;
use outrigger_wire::serving::{Admission, Batching};
use outrigger_wire::{EngineKind, Period, Serving};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::JoinHandle;

pub(crate) struct World {
    pub(crate) engine: Fake,
    pub(crate) sidecar: Sidecar,
    _folder: tempfile::TempDir,
    pub(crate) socket: PathBuf,
}

/// No batching, two calls at once, four may wait for long.
pub(crate) fn plain() -> Serving {
    let admission = Admission { concurrency: Some(2), max_queue: 4, max_queue_delay: Period::secs(60) };
    Serving { admission, ..Serving::default() }
}

/// Batches of at most eight rows; company is waited for as long as is allowed, so that a test which gets an
/// answer without any has shown that it wasn't waited for.
pub(crate) fn batched(concurrency: u32) -> Serving {
    let batching = Batching { max_size: 8, max_delay: Period::secs(10) };
    let admission =
        Admission { concurrency: Some(concurrency), max_queue: 64, max_queue_delay: Period::secs(60) };
    Serving { batching: Some(batching), admission, ..Serving::default() }
}

pub(crate) fn config(engine: SocketAddr, serving: Serving) -> Config {
    Config {
        engine: engine.to_string(),
        kind: EngineKind::Custom,
        model: "m".to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        admin: "127.0.0.1:0".parse().unwrap(),
        table: Vec::new(),
        state_dir: None,
        tls: None,
        endpoint: "e".into(),
        deployment: "default/d".into(),
        socket: None,
        helper: None,
        max_body: 4 << 20,
        threads: 1,
        serving,
    }
}

impl World {
    /// Both running, the engine warmed up.
    pub(crate) fn start(serving: Serving) -> Self {
        let world = Self::start_with(Fake::start(), serving, |_| {});
        world.until_state("ready");
        world
    }

    pub(crate) fn start_with(engine: Fake, serving: Serving, change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let mut config = config(engine.address, serving);
        config.socket = Some(socket.clone());
        change(&mut config);
        let sidecar = Sidecar::start(config).unwrap();
        Self { engine, sidecar, _folder: folder, socket }
    }

    pub(crate) fn status(&self) -> Value {
        client::ask(self.sidecar.admin(), "GET", "/status", &[], "").json()
    }

    pub(crate) fn state(&self) -> String {
        self.status()["engine"]["state"].as_str().unwrap().to_owned()
    }

    pub(crate) fn until_state(&self, state: &str) {
        until(state, || self.state() == state);
    }

    pub(crate) fn until_waiting(&self, n: u64) {
        until("requests wait", || self.status()["queued"] == n);
    }

    pub(crate) fn until_inside(&self, n: usize) {
        until("requests are in the engine", || self.engine.inside() == n);
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Reply {
        client::ask(self.sidecar.address(), "POST", path, &[], body)
    }

    pub(crate) fn later(&self, path: &str, body: &str) -> JoinHandle<Reply> {
        client::later(self.sidecar.address(), path, &[], body)
    }

    /// A request that stays in the engine until it is opened.
    pub(crate) fn occupy(&self) -> JoinHandle<Reply> {
        self.engine.close();
        let inside = self.engine.inside();
        let first = self.later("/v2/models/m/infer", &v2(&[0], Some("occupies")));
        self.until_inside(inside + 1);
        first
    }
}

/// A V2 request with these rows.
pub(crate) fn v2(rows: &[i64], id: Option<&str>) -> String {
    let id = id.map(|id| format!("\"id\":\"{id}\",")).unwrap_or_default();
    let data = rows.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let n = rows.len();
    format!(r#"{{{id}"inputs":[{{"name":"x","datatype":"INT64","shape":[{n},1],"data":[{data}]}}]}}"#)
}

/// The rows of a V2 answer.
pub(crate) fn rows(reply: &Reply) -> Vec<i64> {
    let json = reply.json();
    let output = &json["outputs"][0];
    let rows: Vec<i64> = output["data"].as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect();
    assert_eq!(output["shape"][0], rows.len());
    rows
}
