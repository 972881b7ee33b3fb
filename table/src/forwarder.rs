//! Hands reports on to the server that leads.

use crate::inbox::{Inbox, Kept};
use crate::post::Line;
use crate::wallet::Wallet;
use outrigger_wire::stream::Report;
use rustls::ClientConfig;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// The rest after a report that was not taken, drawn between half and the whole.
const REST: Duration = Duration::from_millis(500);

/// Hands reports on until it is dropped. Of each sender only the newest waits: reports are cumulative, so what is
/// dropped loses nothing that the next one doesn't bring.
#[derive(Debug)]
pub struct Forwarder {
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    come: Notify,
    forwarded: AtomicU64,
    dropped: AtomicU64,
}

impl Forwarder {
    /// Hands reports on to wherever `leader` says (`host:port`), by what `tls` gives at each dial; within a
    /// runtime. While nobody leads, reports wait.
    pub fn start(leader: watch::Receiver<Option<String>>, tls: watch::Receiver<Arc<ClientConfig>>) -> Self {
        let shared = Arc::<Shared>::default();
        let task = tokio::spawn(work(Arc::clone(&shared), leader, Wallet::Given(tls)));
        Self { shared, task: task.abort_handle() }
    }

    /// Hands a report on soon.
    pub fn forward(&self, report: Report) {
        match self.shared.inbox().keep(report) {
            Kept::Yes => self.shared.come.notify_one(),
            Kept::Older => {}
            Kept::NoRoom => {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How many reports the leader took.
    pub fn forwarded(&self) -> u64 {
        self.shared.forwarded.load(Ordering::Relaxed)
    }

    /// How many reports found no room or were not taken by the leader.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn inbox(&self) -> std::sync::MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn work(shared: Arc<Shared>, mut leader: watch::Receiver<Option<String>>, wallet: Wallet) {
    let mut line = Line::default();
    let mut said = String::new();
    loop {
        let come = shared.come.notified();
        if shared.inbox().is_empty() {
            come.await;
            continue;
        }
        let Ok(server) = leader.wait_for(Option::is_some).await.map(|at| at.clone().unwrap_or_default())
        else {
            return;
        };
        // Taken last, so that it is the newest that goes.
        let Some(report) = shared.inbox().take() else { continue };
        match line.deliver(&wallet, &server, &report).await {
            Ok(()) => {
                said.clear();
                shared.forwarded.fetch_add(1, Ordering::Relaxed);
            }
            Err(why) => {
                shared.dropped.fetch_add(1, Ordering::Relaxed);
                if said != why {
                    tracing::warn!(
                        server,
                        why,
                        "a report was not handed on; the next one says the same and more"
                    );
                    said = why;
                }
                sleep(REST.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            }
        }
    }
}
