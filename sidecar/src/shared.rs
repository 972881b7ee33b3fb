//! What the control thread and the data threads know of each other: orders one way, gauges the other.

use outrigger_decide::health::{Event, Load};
use outrigger_wire::{EngineKind, EngineState, Serving};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// What data threads are told. They take it in as it changes, without a lock on the path of a request.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    /// The hot fields.
    pub(crate) serving: Arc<Serving>,
    /// What the engine is doing; requests are taken while it is ready.
    pub(crate) engine: EngineState,
    /// It is going away: nobody should send anything new.
    pub(crate) draining: bool,
    /// Nothing new is taken.
    pub(crate) refusing: bool,
    /// Abort what has waited for its first byte for this long; each new order has a new number.
    pub(crate) abort: (u64, Duration),
    /// The restart that is granted, by its number.
    pub(crate) grant: Option<u64>,
}

/// What one data thread shows; it is the only one that writes here.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    in_flight: AtomicU32,
    queued: AtomicU32,
    /// See [`Load::progress`], in microseconds from [`Shared::epoch`].
    progress: AtomicU64,
    /// See [`Load::stretch`], in milliseconds.
    stretch: AtomicU64,
}

impl Gauges {
    /// Shows what is in the engine.
    pub(crate) fn show(&self, in_flight: u32, progress: Duration, stretch: Duration) {
        self.in_flight.store(in_flight, Ordering::Relaxed);
        self.progress.store(progress.as_micros() as u64, Ordering::Relaxed);
        self.stretch.store(stretch.as_millis() as u64, Ordering::Relaxed);
    }

    /// Shows that something moved.
    pub(crate) fn moved(&self, progress: Duration) {
        self.progress.store(progress.as_micros() as u64, Ordering::Relaxed);
    }

    /// Shows how many wait.
    pub(crate) fn waiting(&self, queued: usize) {
        self.queued.store(u32::try_from(queued).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// What times are counted from.
    pub(crate) epoch: Instant,
    /// The engine's kind, fixed for the life of the program.
    pub(crate) kind: EngineKind,
    /// One for each data thread.
    pub(crate) threads: Vec<Gauges>,
    /// What data threads are told.
    pub(crate) orders: watch::Sender<Orders>,
    /// Whether anything is taken: read by every request, so that it holds from the moment at which it is said.
    taking: AtomicU8,
    /// What data threads notice of the engine's health. Bounded: a hint that finds it full is one of many alike.
    pub(crate) hints: mpsc::Sender<Event>,
}

const READY: u8 = EngineState::Ready as u8;
const WARMING: u8 = EngineState::Warming as u8;
const STALLED: u8 = EngineState::Stalled as u8;
const GONE: u8 = EngineState::Gone as u8;
/// Beside the engine's state, which is small.
const DRAINING: u8 = 0x80;

/// How many hints may wait for the control thread.
const HINTS: usize = 64;

impl Shared {
    /// Everything at its beginning, and the hints' other end.
    pub(crate) fn new(
        kind: EngineKind,
        threads: usize,
        serving: Serving,
    ) -> (Arc<Self>, mpsc::Receiver<Event>) {
        let (hints, heard) = mpsc::channel(HINTS);
        let orders = Orders {
            serving: Arc::new(serving),
            engine: EngineState::Starting,
            draining: false,
            refusing: false,
            abort: (0, Duration::ZERO),
            grant: None,
        };
        let shared = Self {
            epoch: Instant::now(),
            kind,
            threads: (0..threads).map(|_| Gauges::default()).collect(),
            orders: watch::channel(orders).0,
            taking: AtomicU8::new(EngineState::Starting as u8),
            hints,
        };
        (Arc::new(shared), heard)
    }

    /// What the engine is doing, and whether nothing new is taken because of a drain.
    pub(crate) fn taking(&self) -> (EngineState, bool) {
        let taking = self.taking.load(Ordering::Relaxed);
        let engine = match taking & !DRAINING {
            READY => EngineState::Ready,
            WARMING => EngineState::Warming,
            STALLED => EngineState::Stalled,
            GONE => EngineState::Gone,
            _ => EngineState::Starting,
        };
        (engine, taking & DRAINING != 0)
    }

    /// The engine is now doing this. Returns whether that is new.
    pub(crate) fn set_engine(&self, engine: EngineState) -> bool {
        self.orders.send_if_modified(|orders| {
            let changed = orders.engine != engine;
            orders.engine = engine;
            self.say(orders);
            changed
        })
    }

    /// Nobody should send anything new from now on. Returns whether that is new.
    pub(crate) fn drain(&self) -> bool {
        self.orders.send_if_modified(|orders| !std::mem::replace(&mut orders.draining, true))
    }

    /// Nothing new is taken from now on. Returns whether that is new.
    pub(crate) fn refuse(&self) -> bool {
        self.orders.send_if_modified(|orders| {
            let began = !std::mem::replace(&mut orders.refusing, true);
            orders.draining = true;
            self.say(orders);
            began
        })
    }

    fn say(&self, orders: &Orders) {
        let draining = if orders.refusing { DRAINING } else { 0 };
        self.taking.store(orders.engine as u8 | draining, Ordering::Relaxed);
    }

    /// Requests in the engine and requests that wait, over all threads.
    pub(crate) fn counts(&self) -> (u32, u32) {
        self.threads.iter().fold((0, 0), |(in_flight, queued), gauges| {
            (
                in_flight + gauges.in_flight.load(Ordering::Relaxed),
                queued + gauges.queued.load(Ordering::Relaxed),
            )
        })
    }

    /// What is in the engine, for the judgement of its health. What moves on any thread is the engine's progress.
    pub(crate) fn load(&self) -> Load {
        let progress = self.threads.iter().map(|t| t.progress.load(Ordering::Relaxed)).max().unwrap_or(0);
        let stretch = self.threads.iter().map(|t| t.stretch.load(Ordering::Relaxed)).max().unwrap_or(0);
        Load {
            in_flight: self.counts().0,
            progress: self.epoch + Duration::from_micros(progress),
            stretch: Duration::from_millis(stretch),
        }
    }
}
