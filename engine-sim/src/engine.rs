//! The engine between the protocols and the scheduler: takes sequences, tells their progress, counts, and keeps time.

use crate::config::Config;
use crate::fault::Wrong;
use crate::metrics::{Load, Metrics};
use crate::scheduler::{Scheduler, SequenceId, Stepped};
use crate::text;
use crate::timing::Timing;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

/// The most memory that it takes when it is told to, in MiB.
const MOST_MEBIBYTES: u32 = 16_384;

/// One running engine.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) config: Config,
    started: Instant,
    core: Mutex<Core>,
    /// Something came or left.
    changed: Notify,
    /// What is wrong has changed.
    changed_faults: Notify,
    /// The engine is to end.
    pub(crate) crashed: Notify,
    instances: Arc<Semaphore>,
    /// Taken for nothing, as it was told.
    hoard: Mutex<Vec<u8>>,
}

#[derive(Debug)]
struct Core {
    scheduler: Scheduler,
    sequences: HashMap<SequenceId, Counted>,
    metrics: Metrics,
    faults: crate::fault::Faults,
    requests: u64,
    next: SequenceId,
}

/// What is remembered of a sequence until it ends.
#[derive(Debug)]
struct Counted {
    output: Arc<Output>,
    arrived: Duration,
    last: Duration,
    prompt: u32,
    reason: &'static str,
}

/// A sequence's progress, as its reader sees it. Bounded: a slow reader finds several tokens at once.
#[derive(Debug, Default)]
pub(crate) struct Output(Mutex<(u32, bool, Option<Waker>)>);

/// The guard even after a panic: what it guards are counts, valid at every moment.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Output {
    /// The tokens so far and whether they are all, once they are more than `seen` or all.
    pub(crate) fn poll(&self, seen: u32, context: &mut Context<'_>) -> Poll<(u32, bool)> {
        let mut state = locked(&self.0);
        if state.0 > seen || state.1 {
            return Poll::Ready((state.0, state.1));
        }
        state.2 = Some(context.waker().clone());
        Poll::Pending
    }

    fn progress(&self, tokens: u32, finished: bool) {
        let waker = {
            let mut state = locked(&self.0);
            (state.0, state.1) = (tokens, finished);
            state.2.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A sequence under way: dropping it aborts what is left of it.
#[derive(Debug)]
pub(crate) struct Running {
    engine: Arc<Engine>,
    id: SequenceId,
    pub(crate) output: Arc<Output>,
}

impl Running {
    /// Its number within the engine.
    pub(crate) fn number(&self) -> u64 {
        self.id
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.engine.abort(self.id);
    }
}

/// What an inference request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is worked on; its number, from which on faults are counted.
    Served(u64),
    /// It is answered with 500.
    Failed,
    /// It is never answered.
    Hung,
}

impl Engine {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let core = Core {
            scheduler: Scheduler::new(config.limits.clone()),
            sequences: HashMap::new(),
            metrics: Metrics::new(),
            faults: config.faults.clone(),
            requests: 0,
            next: 0,
        };
        let instances = usize::try_from(config.instances).unwrap_or(1).clamp(1, 1024);
        let engine = Self {
            config,
            started: Instant::now(),
            core: Mutex::new(core),
            changed: Notify::new(),
            changed_faults: Notify::new(),
            crashed: Notify::new(),
            instances: Arc::new(Semaphore::new(instances)),
            hoard: Mutex::default(),
        };
        engine.notice(engine.wrong());
        Arc::new(engine)
    }

    /// What is wrong now.
    pub(crate) fn wrong(&self) -> Wrong {
        let core = locked(&self.core);
        core.faults.now(core.requests)
    }

    /// Changes what is wrong.
    pub(crate) fn set_faults(&self, change: impl FnOnce(&mut crate::fault::Faults, u64)) {
        let wrong = {
            let mut core = locked(&self.core);
            let requests = core.requests;
            change(&mut core.faults, requests);
            core.faults.now(requests)
        };
        self.notice(wrong);
        self.changed_faults.notify_waiters();
    }

    fn notice(&self, wrong: Wrong) {
        locked(&self.core).scheduler.freeze(wrong.stall || wrong.hang);
        self.changed.notify_one();
        self.hoard(wrong.mebibytes);
        if wrong.crash {
            self.crashed.notify_one();
        }
    }

    /// Holds this much memory, in MiB. Written to, since a kernel counts only what was.
    fn hoard(&self, mebibytes: u32) {
        let wanted = usize::try_from(mebibytes.min(MOST_MEBIBYTES)).unwrap_or_default() << 20;
        let mut held = locked(&self.hoard);
        if wanted < held.len() {
            *held = Vec::new();
        }
        let more = wanted.saturating_sub(held.len());
        // Where there is no more to be had, it has as much as there is.
        if held.try_reserve_exact(more).is_ok() {
            held.resize(wanted, 1);
        }
    }

    /// Counts an inference request and says what becomes of it.
    pub(crate) fn admit(&self) -> Fate {
        let (number, wrong) = {
            let mut core = locked(&self.core);
            let number = core.requests;
            core.requests += 1;
            (number, core.faults.now(number))
        };
        self.notice(wrong);
        if wrong.hang || wrong.crash {
            return Fate::Hung;
        }
        let draw = fastrand::Rng::with_seed(text::mix(self.config.seed ^ text::mix(number))).f64();
        if draw < wrong.errors { Fate::Failed } else { Fate::Served(number) }
    }

    fn timing(&self, wrong: &Wrong) -> Timing {
        self.config.timing.slowed(wrong.factor, wrong.prefill)
    }

    /// Takes a sequence; the caller has checked that it fits. Absent: too many wait.
    pub(crate) fn submit(
        self: &Arc<Self>,
        prompt: u32,
        wanted: u32,
        reason: &'static str,
    ) -> Option<Running> {
        let now = self.started.elapsed();
        let running = {
            let mut core = locked(&self.core);
            let wrong = core.faults.now(core.requests);
            let id = core.next;
            core.next += 1;
            let mut draw = fastrand::Rng::with_seed(text::mix(self.config.seed.wrapping_add(id)));
            let varied = 1.0 + self.config.jitter.clamp(0.0, 1.0) * (2.0 * draw.f64() - 1.0);
            let ready = now + self.timing(&wrong).overhead.mul_f64(varied);
            if !core.scheduler.submit(id, prompt, wanted, ready) {
                return None;
            }
            let output = Arc::new(Output::default());
            let counted = Counted { output: output.clone(), arrived: now, last: now, prompt, reason };
            core.sequences.insert(id, counted);
            Running { engine: self.clone(), id, output }
        };
        self.changed.notify_one();
        Some(running)
    }

    fn abort(&self, id: SequenceId) {
        let mut core = locked(&self.core);
        if core.sequences.remove(&id).is_some() {
            core.scheduler.abort(id);
            core.metrics.aborted += 1;
        }
    }

    /// Keeps the scheduler going, for ever.
    pub(crate) async fn drive(&self) {
        loop {
            match self.advance() {
                Some(wake) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(self.started + wake) => {}
                        () = self.changed.notified() => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    fn advance(&self) -> Option<Duration> {
        let now = self.started.elapsed();
        let mut core = locked(&self.core);
        let wrong = core.faults.now(core.requests);
        let stepped = core.scheduler.step(now, &self.timing(&wrong));
        core.count(&stepped);
        stepped.wake
    }

    /// One V1 or V2 call: waits for a free instance, in order, and takes as long as the timing model says. What has
    /// begun goes on when its caller leaves, as a GPU's work does.
    pub(crate) async fn call(self: &Arc<Self>, number: u64, rows: u32) {
        let Ok(permit) = self.instances.clone().acquire_owned().await else { return };
        let engine = self.clone();
        let work = tokio::spawn(async move {
            let wrong = engine.thawed(number).await;
            pause(engine.timing(&wrong).call(rows)).await;
            {
                let mut core = locked(&engine.core);
                core.metrics.calls += 1;
                core.metrics.rows += u64::from(rows);
            }
            drop(permit);
        });
        let _ = work.await;
    }

    /// Waits until nothing stalls request number `number` (any more); what else is wrong with it.
    async fn thawed(&self, number: u64) -> Wrong {
        loop {
            let changed = self.changed_faults.notified();
            let wrong = locked(&self.core).faults.now(number);
            if !wrong.stall && !wrong.hang {
                return wrong;
            }
            changed.await;
        }
    }

    pub(crate) fn load(&self) -> Load {
        let (running, waiting, cache) = locked(&self.core).scheduler.load();
        Load { running, waiting, cache }
    }

    pub(crate) fn metrics(&self) -> String {
        let core = locked(&self.core);
        let (running, waiting, cache) = core.scheduler.load();
        core.metrics.render(&self.config.model, Load { running, waiting, cache })
    }

    /// For `/sim/state`.
    pub(crate) fn state(&self) -> serde_json::Value {
        let core = locked(&self.core);
        let (running, waiting, cache) = core.scheduler.load();
        serde_json::json!({
            "version": self.config.version, "requests": core.requests, "running": running, "waiting": waiting,
            "in_flight": core.sequences.len(), "kv_cache_usage": cache,
            "aborted": core.metrics.aborted, "calls": core.metrics.calls, "rows": core.metrics.rows,
        })
    }
}

impl Core {
    fn count(&mut self, stepped: &Stepped) {
        self.metrics.preemptions += u64::from(stepped.preempted);
        for tokens in &stepped.iterations {
            self.metrics.iteration(*tokens);
        }
        for progress in &stepped.progress {
            let Some(counted) = self.sequences.get_mut(&progress.id) else { continue };
            self.metrics.generation_tokens += 1;
            if progress.tokens == 1 {
                self.metrics.prompt_tokens += u64::from(counted.prompt);
                self.metrics.first_token(progress.at.saturating_sub(counted.arrived));
            } else {
                self.metrics.next_token(progress.at.saturating_sub(counted.last));
            }
            counted.last = progress.at;
            counted.output.progress(progress.tokens, progress.finished);
            if progress.finished {
                self.metrics.ended(counted.reason, progress.at.saturating_sub(counted.arrived));
                self.sequences.remove(&progress.id);
            }
        }
    }
}

/// Sleeps to a tenth of a millisecond or so: the runtime's timer rounds up to whole milliseconds, which would be a
/// tenth of a short call; so the last part is slept on a thread of its own.
async fn pause(length: Duration) {
    const COARSE: Duration = Duration::from_millis(2);
    let end = std::time::Instant::now() + length;
    if let Some(most) = length.checked_sub(COARSE) {
        tokio::time::sleep(most).await;
    }
    let rest = end.saturating_duration_since(std::time::Instant::now());
    if !rest.is_zero() {
        let _ = tokio::task::spawn_blocking(move || std::thread::sleep(rest.min(COARSE))).await;
    }
}
