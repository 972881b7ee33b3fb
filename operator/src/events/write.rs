//! Writing events, one after the other, each for a bounded time.

use super::ledger::{Ledger, PAUSE, Told, Write};
use crate::metrics::Metrics;
use crate::names;
use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(5);
/// How often an event is tried; then it is counted as dropped.
const ATTEMPTS: u32 = 3;
/// The rest between two attempts, drawn between half and the whole.
const REST: Duration = Duration::from_secs(1);

/// Writes what is told.
pub struct Writer {
    client: Client,
    instance: String,
    told: mpsc::Receiver<Told>,
    metrics: Metrics,
    ledger: Ledger,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn new(client: Client, instance: &str, told: mpsc::Receiver<Told>, metrics: Metrics) -> Self {
        Self { client, instance: instance.to_owned(), told, metrics, ledger: Ledger::default() }
    }

    /// Writes until nobody can tell anything any more.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(PAUSE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let writes = tokio::select! {
                told = self.told.recv() => match told {
                    Some(told) => vec![self.ledger.record(&told, &self.instance, Timestamp::now(), fastrand::u64(..))],
                    None => return,
                },
                _ = tick.tick() => self.ledger.due(Timestamp::now()),
            };
            for write in writes {
                self.write(write).await;
            }
        }
    }

    async fn write(&mut self, write: Write) {
        match write {
            Write::Later => {}
            Write::TooMuch => self.metrics.event_dropped(),
            Write::Create(event) => {
                let namespace = event.metadata.namespace.clone().unwrap_or_default();
                let name = event.metadata.name.clone().unwrap_or_default();
                let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
                let params =
                    PostParams { dry_run: false, field_manager: Some(names::FIELD_MANAGER.to_owned()) };
                // The name is its own: an attempt whose answer was lost is found to exist.
                if !attempt(|| api.create(&params, &event), 409).await {
                    self.metrics.event_dropped();
                    self.ledger.gone(&namespace, &name);
                }
            }
            Write::Count { namespace, name, series } => {
                let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
                let body = Patch::Merge(json!({ "series": series }));
                let params = PatchParams {
                    field_manager: Some(names::FIELD_MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                // The API server forgets events after an hour.
                if !attempt(|| api.patch(&name, &params, &body), 404).await {
                    self.metrics.event_dropped();
                }
            }
        }
    }
}

/// Tries a few times; whether it was done, or answered with the code that is as good.
async fn attempt<F: Future<Output = kube::Result<Event>>>(request: impl Fn() -> F, fine: u16) -> bool {
    for n in 1..=ATTEMPTS {
        match tokio::time::timeout(REQUEST, request()).await {
            Ok(Ok(_)) => return true,
            Ok(Err(kube::Error::Api(status))) if status.code == fine => return true,
            // Refused: it would be refused again. A namespace that is being deleted takes no new events.
            Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) && status.code != 429 => {
                tracing::debug!(code = status.code, message = %status.message, "an event was refused");
                return false;
            }
            _ if n < ATTEMPTS => tokio::time::sleep(REST.mul_f64(0.5 + fastrand::f64() / 2.0)).await,
            _ => {}
        }
    }
    false
}
