//! What one data thread knows: the routes it works by, its endpoints, what it has in flight.

use crate::config::Limits;
use crate::record::{Counters, Desk, Record, Standing};
use crate::snapshot::{Deployment, Revision, Side, Snapshot, Target};
use http::HeaderMap;
use outrigger_dataplane::serve::Connection;
use outrigger_dataplane::upstream::{Endpoint, PoolOptions};
use outrigger_decide::balance::{Load, Reported};
use outrigger_decide::breaker::{Admits, Breaker};
use outrigger_decide::retry::Budget;
use outrigger_decide::tally::FirstToken;
use outrigger_wire::traffic::CircuitBreaker;
use outrigger_wire::{Arm, Stratum};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often a thread with something in flight says what, for the report.
const LOOKS: Duration = Duration::from_secs(1);

/// One data thread.
#[derive(Debug)]
pub(crate) struct Thread {
    view: RefCell<Rc<View>>,
    endpoints: RefCell<HashMap<Target, Rc<Replica>>>,
    desk: Arc<Desk>,
    in_flight: RefCell<Slots>,
    /// Requests being answered, whether or not they are upstream already.
    admitted: Cell<usize>,
    /// Bytes of request bodies in memory.
    buffered: Cell<usize>,
    /// Retries that may be made.
    pub(crate) budget: RefCell<Budget>,
    random: RefCell<fastrand::Rng>,
}

/// A snapshot with this thread's endpoints.
#[derive(Debug)]
pub(crate) struct View {
    /// The snapshot.
    pub(crate) snapshot: Arc<Snapshot>,
    deployments: Vec<Rc<Local>>,
}

/// A deployment with this thread's endpoints.
#[derive(Debug)]
pub(crate) struct Local {
    /// What all threads share of it.
    pub(crate) shared: Arc<Deployment>,
    stable: Option<LocalSide>,
    canary: Option<LocalSide>,
}

/// A revision with this thread's endpoints.
#[derive(Debug)]
pub(crate) struct LocalSide {
    /// Which revision.
    pub(crate) revision: Arc<Revision>,
    /// Its replicas.
    pub(crate) replicas: Vec<Rc<Replica>>,
}

/// A replica as one thread sees it. It lives on while the table has it, whatever else changes, and until the last
/// request there has ended.
#[derive(Debug)]
pub(crate) struct Replica {
    /// This thread's connections to it.
    pub(crate) upstream: Rc<Endpoint>,
    in_flight: Cell<u32>,
    reported: Cell<Option<Reported>>,
    rests_until: Cell<Option<Instant>>,
    /// This thread's breaker of it.
    pub(crate) breaker: RefCell<Breaker>,
}

/// One request at one replica; dropping it gives it back, on every path.
#[derive(Debug)]
pub(crate) struct Token(Rc<Replica>);

/// One request in this thread; dropping it gives it back, on every path.
#[derive(Debug)]
pub(crate) struct Admitted(Rc<Thread>);

/// Bytes of a body in this thread's memory; dropping it gives them back.
#[derive(Debug)]
pub(crate) struct Buffered {
    thread: Rc<Thread>,
    connection: Rc<Connection>,
    bytes: usize,
}

/// Why there is no room for more of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// The bodies of this connection together have their share.
    Connection,
    /// Those of all connections together fill the thread's memory for them.
    Thread,
}

/// Attempts in flight that count for a revision.
#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
}

/// One attempt in flight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// The number of the revision that the hash assigned.
    pub(crate) revision: u32,
    /// The request's length.
    pub(crate) stratum: Stratum,
    /// The reference that stood when the attempt began.
    pub(crate) generation: u32,
    /// When the attempt began.
    pub(crate) began: Instant,
    /// Whether the first token was reported.
    pub(crate) first: Option<First>,
}

/// A first token that came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct First {
    /// After so many microseconds.
    pub(crate) micros: u64,
    /// Whether the control thread knows.
    pub(crate) told: bool,
}

// === impl Thread ===

impl Thread {
    /// A thread that works by what `snapshots` gives, from now on and whenever it changes. Within a `LocalSet`.
    pub(crate) fn start(
        desk: Arc<Desk>,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        seed: u64,
    ) -> Rc<Self> {
        let first = Arc::clone(&snapshots.borrow_and_update());
        let empty = Rc::new(View { snapshot: Arc::clone(&first), deployments: Vec::new() });
        let thread = Rc::new(Self {
            view: RefCell::new(empty),
            endpoints: RefCell::default(),
            desk,
            in_flight: RefCell::default(),
            admitted: Cell::new(0),
            buffered: Cell::new(0),
            budget: RefCell::default(),
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
        });
        thread.work_by(first);
        tokio::task::spawn_local(Rc::clone(&thread).follow(snapshots));
        tokio::task::spawn_local(Rc::clone(&thread).look());
        thread
    }

    /// Takes up each new snapshot and says so. Requests are decided within one poll, so once this has run none is
    /// decided by an older one: that is what makes the acknowledgement true. A load of a shared pointer per
    /// request would show a new one no sooner than the next request, and could acknowledge nothing while idle.
    async fn follow(self: Rc<Self>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        while snapshots.changed().await.is_ok() {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.work_by(snapshot);
        }
    }

    fn work_by(&self, snapshot: Arc<Snapshot>) {
        let before = self.view.borrow().clone();
        let mut endpoints = self.endpoints.borrow_mut();
        let mut kept = HashMap::with_capacity(endpoints.len());
        let mut side = |side: &Side| {
            let replicas = side.endpoints.iter().map(|target| {
                let known = kept.get(target).or_else(|| endpoints.get(target)).cloned();
                let replica = known.unwrap_or_else(|| Replica::new(target));
                kept.insert(target.clone(), Rc::clone(&replica));
                replica
            });
            LocalSide { revision: Arc::clone(&side.revision), replicas: replicas.collect() }
        };
        let deployments = snapshot.deployments.iter().map(|shared| {
            let stable = shared.stable.as_ref().map(&mut side);
            let canary = shared.canary.as_ref().map(&mut side);
            let same = before.deployments.iter().find(|local| Arc::ptr_eq(&local.shared, shared));
            same.cloned().unwrap_or_else(|| Rc::new(Local { shared: Arc::clone(shared), stable, canary }))
        });
        let deployments = deployments.collect();
        let version = snapshot.version;
        *endpoints = kept;
        self.view.replace(Rc::new(View { snapshot, deployments }));
        self.desk.set_seen(version);
    }

    /// Says each second what is in flight, and which first tokens came to streams that still run.
    async fn look(self: Rc<Self>) {
        let mut tick = tokio::time::interval(LOOKS);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let mut standing: Vec<Standing> = Vec::new();
            for slot in self.in_flight.borrow_mut().slots.iter_mut().flatten() {
                slot.tell(&self.desk);
                match standing.iter_mut().find(|s| s.revision == slot.revision) {
                    Some(sum) => {
                        sum.count += 1;
                        sum.oldest = sum.oldest.min(slot.began);
                    }
                    None => standing.push(Standing { revision: slot.revision, count: 1, oldest: slot.began }),
                }
            }
            self.desk.set_standing(&standing, self.counters());
        }
    }

    /// The routes as they are now.
    pub(crate) fn view(&self) -> Rc<View> {
        Rc::clone(&self.view.borrow())
    }

    /// Tells the control thread.
    pub(crate) fn tell(&self, record: Record) {
        self.desk.put(record);
    }

    /// 64 random bits.
    pub(crate) fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// 128 random bits.
    pub(crate) fn random_id(&self) -> u128 {
        self.random.borrow_mut().u128(..)
    }

    /// Takes in one more request, unless there are `max` already.
    pub(crate) fn admit(self: &Rc<Self>, max: usize) -> Option<Admitted> {
        let now = self.admitted.get();
        (now < max).then(|| {
            self.admitted.set(now + 1);
            Admitted(Rc::clone(self))
        })
    }

    /// Room for nothing yet; see [`Buffered::grow`].
    pub(crate) fn buffered(self: &Rc<Self>, connection: Rc<Connection>) -> Buffered {
        Buffered { thread: Rc::clone(self), connection, bytes: 0 }
    }

    /// Puts an attempt among those in flight; [`Self::leave`] with what is returned takes it out.
    pub(crate) fn enter(&self, slot: Slot) -> usize {
        let mut slots = self.in_flight.borrow_mut();
        if let Some(index) = slots.free.pop()
            && let Some(place) = slots.slots.get_mut(index)
        {
            *place = Some(slot);
            return index;
        }
        slots.slots.push(Some(slot));
        slots.slots.len() - 1
    }

    /// The first token of an attempt came.
    pub(crate) fn first(&self, index: usize, micros: u64) {
        if let Some(Some(slot)) = self.in_flight.borrow_mut().slots.get_mut(index) {
            slot.first.get_or_insert(First { micros, told: false });
        }
    }

    /// Takes an attempt out; its first token is told if it came and wasn't yet.
    pub(crate) fn leave(&self, index: usize) -> Option<Slot> {
        let mut slots = self.in_flight.borrow_mut();
        let mut slot = slots.slots.get_mut(index).and_then(Option::take)?;
        slots.free.push(index);
        slot.tell(&self.desk);
        Some(slot)
    }

    fn counters(&self) -> Counters {
        let slots = self.in_flight.borrow();
        let attempts = slots.slots.iter().flatten().count();
        let tokens = self.endpoints.borrow().values().map(|r| r.in_flight.get() as usize).sum();
        let (requests, buffered) = (self.admitted.get(), self.buffered.get());
        Counters { requests, buffered, attempts, tokens }
    }
}

impl Slot {
    fn tell(&mut self, desk: &Desk) {
        if let Some(first) = self.first.as_mut().filter(|first| !first.told) {
            first.told = true;
            desk.put(Record::First {
                revision: self.revision,
                stratum: self.stratum,
                token: FirstToken::Came(first.micros),
                generation: self.generation,
            });
        }
    }
}

impl View {
    /// The deployment at this index of the snapshot.
    pub(crate) fn deployment(&self, index: usize) -> Option<&Rc<Local>> {
        self.deployments.get(index)
    }
}

impl Local {
    /// One of the two sides.
    pub(crate) fn side(&self, arm: Arm) -> Option<&LocalSide> {
        match arm {
            Arm::Stable => self.stable.as_ref(),
            Arm::Canary => self.canary.as_ref(),
        }
    }

    /// When endpoints are ejected.
    pub(crate) fn settings(&self) -> &CircuitBreaker {
        &self.shared.routes.traffic.circuit_breaker
    }
}

impl Replica {
    fn new(target: &Target) -> Rc<Self> {
        Rc::new(Self {
            upstream: Endpoint::new(&target.address.to_string(), PoolOptions::default()),
            in_flight: Cell::new(0),
            reported: Cell::new(None),
            rests_until: Cell::new(None),
            breaker: RefCell::default(),
        })
    }

    /// Its load, as picking sees it. `tried` says that the request was there already.
    pub(crate) fn load(&self, tried: bool, settings: &CircuitBreaker, now: Instant) -> Load {
        Load {
            in_flight: self.in_flight.get(),
            reported: self.reported.get(),
            rests_until: self.rests_until.get(),
            excluded: tried || self.breaker.borrow().admits(settings, now) == Admits::No,
        }
    }

    /// One request goes there.
    pub(crate) fn token(self: &Rc<Self>) -> Token {
        self.in_flight.set(self.in_flight.get() + 1);
        Token(Rc::clone(self))
    }

    /// An answer came, perhaps with its load.
    pub(crate) fn heard(&self, headers: &HeaderMap) {
        if let Some(reported) = Reported::read(headers, Instant::now()) {
            self.reported.set(Some(reported.with_own(self.in_flight.get())));
        }
    }

    /// It is passed over for a while.
    pub(crate) fn rest_until(&self, until: Instant) {
        self.rests_until.set(Some(until));
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get().saturating_sub(1));
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.admitted.set(self.0.admitted.get().saturating_sub(1));
    }
}

impl Buffered {
    /// Takes room for so many bytes more.
    pub(crate) fn grow(&mut self, bytes: usize, limits: &Limits) -> Result<(), NoRoom> {
        let held = self.connection.held().get() + bytes;
        if held > limits.max_held() {
            return Err(NoRoom::Connection);
        }
        let sum = self.thread.buffered.get() + bytes;
        if sum > limits.max_buffered {
            return Err(NoRoom::Thread);
        }
        self.connection.held().set(held);
        self.thread.buffered.set(sum);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        for sum in [&self.thread.buffered, self.connection.held()] {
            sum.set(sum.get().saturating_sub(self.bytes));
        }
    }
}
