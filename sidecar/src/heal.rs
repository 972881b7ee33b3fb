//! The engine's health on the control thread: carries out what `decide`'s judgement asks for, and tells the data
//! threads what it comes to.

use crate::engine::Engine;
use crate::ledger::Ledger;
use crate::shared::Shared;
use outrigger_decide::health::{Action, Ask, Dial, Event, Health, Order, PREPAID_EVERY, Restart, Settings};
use outrigger_wire::{EngineState, EngineTrouble, Serving};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How often the load is looked at while nothing else happens: two atomic loads, a few microseconds a second.
const LOOK: Duration = Duration::from_secs(1);
/// How long a connection to an engine on the same machine may take, before that counts as a failure.
const CONNECT: Duration = Duration::from_secs(3);

/// Restarts' numbers count from one below this: far from any other sidecar run's, and whole in every JSON reader.
const NUMBERS: u64 = 1 << 52;

/// What is known of the engine, for `/status`, `/readyz` and the helper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// What it is doing.
    pub(crate) state: EngineState,
    /// Which run of it.
    pub(crate) incarnation: u64,
    /// The restart that is ordered.
    pub(crate) restart: Option<Restart>,
    /// How many restarts were ordered so far.
    pub(crate) restarts: u64,
    /// The restarts that were ordered last, those of predecessors included, the newest at the end.
    pub(crate) orders: Vec<Order>,
    /// The restart that is asked for.
    pub(crate) asks: Option<Ask>,
    /// Why the engine isn't getting ready.
    pub(crate) trouble: Option<EngineTrouble>,
    /// What the last warm-up was, in words.
    pub(crate) warmed_by: &'static str,
}

impl Default for View {
    fn default() -> Self {
        Self {
            state: EngineState::Starting,
            incarnation: 0,
            restart: None,
            restarts: 0,
            orders: Vec::new(),
            asks: None,
            trouble: None,
            warmed_by: "not yet",
        }
    }
}

/// What an action came to.
enum Done {
    Event(Event),
    Dialled(io::Result<TcpStream>),
    /// The connection of this number ended.
    HoldEnded(u64),
}

struct Healer {
    health: Health,
    engine: Rc<Engine>,
    address: String,
    ledger: Ledger,
    shared: Arc<Shared>,
    doing: JoinSet<Done>,
    /// The number of the connection that is held; the ends of earlier ones mean nothing.
    hold: u64,
    holding: Option<tokio::task::AbortHandle>,
    view: watch::Sender<View>,
}

/// Judges the engine for as long as the program runs; within a `LocalSet`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    engine: Rc<Engine>,
    address: String,
    ledger: Ledger,
    mut hints: mpsc::Receiver<Event>,
    view: watch::Sender<View>,
) {
    let mut orders = shared.orders.subscribe();
    let mut serving = orders.borrow_and_update().serving.clone();
    let health = Health::new(settings(&serving), ledger.read(), fastrand::u64(..NUMBERS), now());
    let doing = JoinSet::new();
    let mut healer = Healer { health, engine, address, ledger, shared, doing, hold: 0, holding: None, view };
    let mut granted = None;
    healer.step(Event::Tick);
    loop {
        let wake = healer.health.wake_at(now()).map_or(now() + LOOK, |at| at.min(now() + LOOK));
        tokio::select! {
            Some(hint) = hints.recv() => healer.step(hint),
            Some(done) = healer.doing.join_next() => healer.done(done),
            Ok(()) = orders.changed() => {
                let (new, grant) = {
                    let orders = orders.borrow_and_update();
                    (orders.serving.clone(), orders.grant)
                };
                if !Arc::ptr_eq(&new, &serving) {
                    serving = new;
                    healer.step(Event::Settings(settings(&serving)));
                }
                if let Some(number) = grant.filter(|_| grant != granted) {
                    healer.step(Event::Granted(number));
                }
                granted = grant;
            }
            () = tokio::time::sleep_until(wake.into()) => healer.step(Event::Load(healer.shared.load())),
        }
    }
}

fn settings(serving: &Serving) -> Settings {
    let budget = serving.health.restart_budget;
    Settings {
        stall_after: serving.health.stall_after.get(),
        prepaid_every: (budget.max > 0).then(|| budget.per.get().max(PREPAID_EVERY)),
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Healer {
    fn step(&mut self, event: Event) {
        let actions = self.health.step(event, now());
        for action in actions {
            self.perform(action);
        }
        self.publish();
    }

    fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        // A task that was aborted has nothing to say.
        let Ok(done) = done else { return };
        match done {
            Done::Event(event) => self.step(event),
            Done::HoldEnded(number) if number == self.hold => {
                // What it means depends on the work that is in the engine at this moment.
                self.step(Event::Load(self.shared.load()));
                self.step(Event::HoldEnded);
            }
            Done::HoldEnded(_) => {}
            Done::Dialled(Ok(stream)) => {
                self.hold(stream);
                self.step(Event::Dialled(Dial::Taken));
            }
            Done::Dialled(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.step(Event::Dialled(Dial::Refused));
            }
            Done::Dialled(Err(_)) => self.step(Event::Dialled(Dial::Failed)),
        }
    }

    /// Holds this connection from now on. The one before is closed only now, so that there always is one.
    fn hold(&mut self, mut stream: TcpStream) {
        self.hold += 1;
        let number = self.hold;
        let holding = self.doing.spawn_local(async move {
            let mut byte = [0u8; 64];
            // Nothing is ever sent, so nothing is expected; whatever comes is not an end.
            while stream.read(&mut byte).await.is_ok_and(|n| n > 0) {}
            Done::HoldEnded(number)
        });
        if let Some(before) = self.holding.replace(holding) {
            before.abort();
        }
    }

    fn perform(&mut self, action: Action) {
        let engine = self.engine.clone();
        let serving = self.shared.orders.borrow().serving.clone();
        match action {
            Action::Dial => {
                let address = self.address.clone();
                self.doing.spawn_local(async move {
                    let dialled = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
                    Done::Dialled(dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
                });
            }
            Action::AskReady(n) => {
                self.doing
                    .spawn_local(async move { Done::Event(Event::AskedReady(n, engine.ready().await)) });
            }
            // The first inference may compile kernels: it has as long as any request.
            Action::WarmUp(n) => {
                let within = serving.timeouts.total.get();
                self.doing
                    .spawn_local(async move { Done::Event(Event::WarmedUp(n, engine.infer(within).await)) });
            }
            Action::Probe(n) => {
                let within = serving.health.stall_after.get();
                self.doing
                    .spawn_local(async move { Done::Event(Event::Probed(n, engine.infer(within).await)) });
            }
            Action::ReadCounters(n) => {
                self.doing
                    .spawn_local(async move { Done::Event(Event::Counted(n, engine.counters().await)) });
            }
            Action::Abort(waited) => self.shared.orders.send_modify(|orders| {
                orders.abort = (orders.abort.0 + 1, waited);
            }),
        }
    }

    fn publish(&mut self) {
        let state = self.health.state();
        // First what requests go by, then what is shown: who sees "ready" is served.
        self.shared.set_engine(state);
        let failed = self.health.warm_up_failed();
        let view = View {
            state,
            incarnation: self.health.incarnation(),
            restart: self.health.restart().cloned(),
            restarts: 0,
            orders: self.health.orders().to_vec(),
            asks: self.health.asks(),
            trouble: failed.then(|| warm_up_failed(&self.engine.failed())),
            warmed_by: self.engine.warmed_by(),
        };
        let ledger = &self.ledger;
        self.view.send_if_modified(|before| {
            let ordered = view.restart.is_some() && before.restart.is_none();
            let view = View { restarts: before.restarts + u64::from(ordered), ..view };
            let changed = *before != view;
            if before.orders != view.orders {
                ledger.write(&view.orders);
            }
            announce(before, &view);
            *before = view;
            changed
        });
    }
}

fn warm_up_failed(why: &str) -> EngineTrouble {
    let message = format!("the engine is up and fails its first inference: {why}");
    EngineTrouble { reason: "WarmUpFailed".to_owned(), message }
}

/// What of a change is worth a line in the log.
fn announce(before: &View, view: &View) {
    if before.state != view.state {
        tracing::info!(from = ?before.state, to = ?view.state, incarnation = view.incarnation, "engine");
    }
    if let Some(restart) = view.restart.as_ref().filter(|_| before.restart.is_none()) {
        tracing::warn!(incarnation = restart.incarnation, reason = %restart.reason, "restart ordered");
    }
    if view.asks.is_some() && before.asks.is_none() {
        tracing::warn!(incarnation = view.incarnation, "the prepaid restart is spent: asking for one");
    }
    if let Some(trouble) = view.trouble.as_ref().filter(|_| before.trouble.is_none()) {
        tracing::warn!(incarnation = view.incarnation, "{}", trouble.message);
    }
}
