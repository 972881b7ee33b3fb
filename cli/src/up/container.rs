//! One program that is kept running: what the kubelet does with a container. Started again when it ends, after a
//! pause that grows; stopped with a grace period.

use super::log::Log;
use super::process::{Exit, Family, Process, SharedLog};
use super::program::Launch;
use jiff::Timestamp;
use outrigger_plan::Trouble;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// The pause before the first restart. The kubelet's is 10 s: on one machine, before somebody's eyes, a short one
/// shows more and costs nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause, reached after seven crashes in a row.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A program that ran this long was not crashing at once: pauses begin anew.
const LONG_RUN: Duration = Duration::from_secs(10);
/// From this many short runs in a row on it counts as crashing again and again.
const CRASH_LOOP: u32 = 3;
/// How many restarts are remembered: what `Replica::restarts` holds.
const RESTARTS: usize = 16;
/// How long a killed program is waited for before it is said to hang: an uninterruptible read from a dead disk.
const KILLED: Duration = Duration::from_secs(5);

/// Makes what is to be started, anew for each start; fails when it can't be had now.
pub(crate) type Prepare = Box<dyn FnMut() -> Result<Launch, Trouble> + Send>;

/// How a program is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    /// The running one's process id.
    pub(crate) pid: Option<i32>,
    /// How often it was started.
    pub(crate) starts: u32,
    /// When it was started again, newest last.
    pub(crate) restarts: Vec<Timestamp>,
    /// How it ended, last.
    pub(crate) ended: Option<Ended>,
    /// Why it isn't getting on.
    pub(crate) trouble: Option<Trouble>,
    /// It was stopped and is not started again.
    pub(crate) stopped: bool,
}

impl State {
    /// What is wrong when the program has last ended without being told to, in words: `the engine of r1 exited
    /// with code 1: no such file`. It may run again by now, and is in trouble until it is known to be well.
    pub(crate) fn ended_by_itself(&self, what: &str) -> Option<Trouble> {
        let ended = self.ended.as_ref().filter(|ended| !ended.told)?;
        let last = ended.tail.last().map(|line| format!(": {line}")).unwrap_or_default();
        let message = format!("{what} {}{last}", ended.how);
        Some(Trouble { reason: "ProgramEnded".to_owned(), message, blocks: false })
    }
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    /// When.
    pub(crate) at: Timestamp,
    /// How, in words: `exited with code 1`.
    pub(crate) how: String,
    /// Whether it was told to.
    pub(crate) told: bool,
    /// Its last lines.
    pub(crate) tail: Vec<String>,
}

#[derive(Debug)]
enum Order {
    /// End it, with this much time, and start it again at once.
    Restart(Duration),
    /// End it, with this much time.
    Stop(Duration),
}

/// A program that is kept running by a task of its own. Dropping it kills the program.
#[derive(Debug)]
pub(crate) struct Container {
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Container {
    /// Starts the program that `prepare` makes, and keeps it running. Its output goes to `NAME.log` in `logs`.
    pub(crate) fn start(name: String, logs: PathBuf, family: Family, prepare: Prepare) -> Self {
        // One order at a time is in work; a second one is all that can wait, and waits.
        let (orders, inbox) = mpsc::channel(1);
        let (show, state) = watch::channel(State::default());
        let keep = Keep { name, logs, family, prepare, show, inbox, short_runs: 0 };
        Self { orders, state, task: tokio::spawn(keep.run()) }
    }

    /// How it is, now and whenever that changes.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Ends the program, killing it after `grace`, and starts it again.
    pub(crate) async fn restart(&self, grace: Duration) {
        // A task that has ended is stopped for good.
        let _ = self.orders.send(Order::Restart(grace)).await;
    }

    /// Ends the program, killing it after `grace`; returns when it is gone.
    pub(crate) async fn stop(&self, grace: Duration) {
        let _ = self.orders.send(Order::Stop(grace)).await;
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| state.stopped).await;
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keep {
    name: String,
    logs: PathBuf,
    family: Family,
    prepare: Prepare,
    show: watch::Sender<State>,
    inbox: mpsc::Receiver<Order>,
    /// Runs in a row that ended soon and by themselves.
    short_runs: u32,
}

/// Whether it goes on.
enum Then {
    Again,
    Pause,
    Stop,
}

impl Keep {
    async fn run(mut self) {
        loop {
            match self.run_once().await {
                Then::Again => {}
                Then::Pause => {
                    if !self.pause().await {
                        break;
                    }
                }
                Then::Stop => break,
            }
        }
        self.show.send_modify(|state| {
            state.pid = None;
            state.stopped = true;
        });
    }

    async fn run_once(&mut self) -> Then {
        let launch = match (self.prepare)() {
            Ok(launch) => launch,
            Err(trouble) => return self.failed(trouble),
        };
        let log = match Log::open(&self.logs, &self.name) {
            Ok(log) => Arc::new(Mutex::new(log)),
            Err(e) => return self.failed(cannot_start(&format!("its log can't be opened: {e}"))),
        };
        let mut process = match Process::start(&launch, Arc::clone(&log), &self.family).await {
            Ok(process) => process,
            Err(e) => return self.failed(cannot_start(&e.to_string())),
        };
        let began = Instant::now();
        self.show.send_modify(|state| {
            if state.starts > 0 {
                state.restarts.push(Timestamp::now());
                let excess = state.restarts.len().saturating_sub(RESTARTS);
                state.restarts.drain(..excess);
            }
            state.starts += 1;
            state.pid = Some(process.pid());
            // A crash loop is over when it has run for a while.
            state.trouble = state.trouble.take().filter(|trouble| trouble.reason == CRASHING);
        });
        let (exit, order) = self.attend(&mut process, began).await;
        drop(process);
        self.account(exit, order.as_ref(), began.elapsed(), &log);
        match order {
            None => Then::Pause,
            Some(Order::Restart(_)) => Then::Again,
            Some(Order::Stop(_)) => Then::Stop,
        }
    }

    /// Waits for the program's end or an order; an order ends it.
    async fn attend(&mut self, process: &mut Process, began: Instant) -> (Exit, Option<Order>) {
        let calm = tokio::time::sleep_until(began + LONG_RUN);
        tokio::pin!(calm);
        let mut crashing = self.show.borrow().trouble.is_some();
        let order = loop {
            tokio::select! {
                exit = process.ended() => return (exit, None),
                () = &mut calm, if crashing => {
                    crashing = false;
                    self.show.send_modify(|state| state.trouble = None);
                }
                order = self.inbox.recv() => break order.unwrap_or(Order::Stop(Duration::ZERO)),
            }
        };
        let (Order::Restart(grace) | Order::Stop(grace)) = order;
        process.terminate().await;
        if let Ok(exit) = tokio::time::timeout(grace, process.ended()).await {
            return (exit, Some(order));
        }
        process.kill().await;
        let killed = tokio::time::timeout(KILLED, process.ended()).await;
        (killed.unwrap_or(Exit::Signal(9)), Some(order))
    }

    fn account(&mut self, exit: Exit, order: Option<&Order>, ran: Duration, log: &SharedLog) {
        self.short_runs = if order.is_some() || ran >= LONG_RUN { 0 } else { self.short_runs + 1 };
        let log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let ended =
            Ended { at: Timestamp::now(), how: exit.to_string(), told: order.is_some(), tail: log.tail() };
        let looping = (self.short_runs >= CRASH_LOOP).then(|| Trouble {
            reason: CRASHING.to_owned(),
            message: format!(
                "{} ended {} times in a row within {} s of its start; last, it {exit}{}",
                self.name,
                self.short_runs,
                LONG_RUN.as_secs(),
                log.tail().last().map(|line| format!(", saying `{line}`")).unwrap_or_default(),
            ),
            blocks: false,
        });
        self.show.send_modify(|state| {
            state.pid = None;
            state.ended = Some(ended);
            state.trouble = looping.or(state.trouble.take());
        });
    }

    fn failed(&mut self, trouble: Trouble) -> Then {
        self.short_runs += 1;
        self.show.send_modify(|state| state.trouble = Some(trouble));
        Then::Pause
    }

    /// Waits before the next start; false when it is to be the last.
    async fn pause(&mut self) -> bool {
        let doublings = self.short_runs.saturating_sub(1).min(16);
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        // A tenth more or less, so that replicas that failed together don't start together for ever.
        let pause = pause.mul_f64(0.9 + 0.2 * fastrand::f64());
        match tokio::time::timeout(pause, self.inbox.recv()).await {
            Err(_) | Ok(Some(Order::Restart(_))) => true,
            Ok(Some(Order::Stop(_)) | None) => false,
        }
    }
}

/// The reason word for a program that ends again and again.
const CRASHING: &str = "CrashLoop";

fn cannot_start(why: &str) -> Trouble {
    Trouble { reason: "CannotStart".to_owned(), message: why.to_owned(), blocks: true }
}
