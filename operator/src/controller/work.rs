//! Who looks at which deployment when: a queue and a bounded number of workers.

use super::bundles::Bundles;
use super::memory::Memory;
use super::queue::Queue;
use super::reconcile;
use super::shortage::Shortage;
use crate::events::Events;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::render::Installation;
use crate::watch::Index;
use jiff::Timestamp;
use kube::Client;
use outrigger_table::Server;
use outrigger_wire::DeploymentKey;
use outrigger_wire::stream::Report;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// Deployments that are looked at at once. Each has one request under way at most, and the API server's own fair
/// queueing gives one client about this many.
const WORKERS: usize = 32;
/// While a canary is judged or gateways are waited for, it is planned at least this often: what nobody reports (a
/// gateway that fell silent) shows then.
const TICK: Duration = Duration::from_secs(1);
/// For how long reports gather: gateways acknowledge within milliseconds of each other, and what they say is one write
/// of the status instead of one each.
const GATHERS: Duration = Duration::from_millis(100);
/// Everything is looked at again after this long, against whatever a watch may have missed; drawn between half and the
/// whole.
const RESYNC: Duration = Duration::from_secs(600);

/// Everything that a worker needs.
#[derive(Clone)]
pub struct Parts {
    /// The API server.
    pub client: Client,
    /// What the watches show.
    pub index: Arc<Index>,
    /// What proxies are told.
    pub table: Server,
    /// What is remembered.
    pub memory: Arc<Memory>,
    /// Where this operator is installed.
    pub installation: Arc<Installation>,
    /// Who leads.
    pub leadership: watch::Receiver<Leadership>,
    /// What operators watch.
    pub metrics: Metrics,
    /// What users are told.
    pub events: Events,
    /// What other pods take.
    pub shortage: Shortage,
    /// Namespaces that have the bundle by which pods verify the operator.
    pub bundles: Bundles,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("installation", &self.installation).finish_non_exhaustive()
    }
}

impl Parts {
    /// Whether this replica plans and writes.
    pub fn leads(&self) -> bool {
        self.leadership.borrow().leader
    }
}

/// The controller. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct Controller {
    parts: Arc<Parts>,
    queue: Arc<Mutex<Queue>>,
    bell: Arc<Notify>,
}

impl Controller {
    /// With nothing looked at yet.
    pub fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts), queue: Arc::default(), bell: Arc::default() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are to be looked at now.
    pub fn mark(&self, keys: Vec<DeploymentKey>) {
        let now = Instant::now();
        self.mark_at(keys.into_iter().map(|key| (key, now)));
    }

    fn mark_at(&self, keys: impl Iterator<Item = (DeploymentKey, Instant)>) {
        let mut queue = self.queue();
        keys.for_each(|(key, at)| queue.mark(key, at));
        drop(queue);
        self.bell.notify_one();
    }

    /// A proxy has reported.
    pub fn report(&self, report: Report) {
        let marked = self.parts.memory.absorb(report, Timestamp::now());
        let at = Instant::now() + GATHERS;
        let memory = &self.parts.memory;
        self.mark_at(marked.into_iter().map(|key| {
            let rested = memory.rested(&key).map_or(at, |rested| rested.max(at));
            (key, rested)
        }));
    }

    /// Works until the future is dropped.
    pub async fn run(self) {
        let mut leadership = self.parts.leadership.clone();
        let mut tasks: JoinSet<(DeploymentKey, Option<Instant>)> = JoinSet::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut synced, mut led) = (false, false);
        loop {
            let due = self.queue().next().filter(|_| synced && tasks.len() < WORKERS);
            let due_at = due.unwrap_or_else(Instant::now);
            tokio::select! {
                () = self.bell.notified() => {}
                () = tokio::time::sleep_until(due_at.into()), if due.is_some() => {}
                Some(done) = tasks.join_next() => self.done(done),
                _ = leadership.changed() => {}
                _ = tick.tick() => self.attend(),
            }
            if !synced {
                synced = self.sync();
                if !synced {
                    continue;
                }
            }
            let leads = leadership.borrow_and_update().leader;
            if leads && !led {
                // What was counted while another led is in the status, or will be counted from here on.
                self.parts.memory.clear();
                self.mark(self.parts.index.keys());
            }
            led = leads;
            self.begin(&mut tasks);
        }
    }

    /// Whether everything has been read once. Then what the stored statuses say is served, and nothing before.
    fn sync(&self) -> bool {
        if !self.parts.index.missing().is_empty() {
            return false;
        }
        let keys = self.parts.index.keys();
        keys.iter().for_each(|key| reconcile::publish(&self.parts, key, &self.parts.index.entry(key)));
        self.parts.table.complete();
        tracing::info!(deployments = keys.len(), "everything was read; the table is served");
        self.mark(keys);
        true
    }

    fn begin(&self, tasks: &mut JoinSet<(DeploymentKey, Option<Instant>)>) {
        while tasks.len() < WORKERS {
            let Some(key) = self.queue().take(Instant::now()) else { return };
            let parts = Arc::clone(&self.parts);
            tasks.spawn(async move {
                let again = reconcile::look(&parts, &key).await;
                (key, again)
            });
        }
    }

    fn done(&self, done: Result<(DeploymentKey, Option<Instant>), tokio::task::JoinError>) {
        // Nothing panics in a worker; were one to, its deployment would wait for the next start.
        let Ok((key, again)) = done else {
            tracing::error!("a worker ended without an answer");
            return;
        };
        let resync = Instant::now() + RESYNC.mul_f64(0.5 + fastrand::f64() / 2.0);
        let mut queue = self.queue();
        queue.done(&key);
        // What is gone is not looked at again: nothing of it is left in the index.
        if again.is_some() || self.parts.memory.knows(&key) {
            queue.mark(key, again.unwrap_or(resync).min(resync));
        }
    }

    /// Marks those that must not wait for an event.
    fn attend(&self) {
        if self.parts.leads() {
            self.mark_at(self.parts.memory.attentive().into_iter());
            self.parts.memory.sweep(Timestamp::now());
        }
    }
}
