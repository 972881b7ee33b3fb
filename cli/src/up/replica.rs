//! One replica, as the kubelet runs a pod: the sidecar first, then the engine; probes; hooks at the end.

use super::container::{Container, Ended, Prepare};
use super::ports::{self, Ports};
use super::probe::{self, Readiness};
use super::process::Family;
use super::program::{self, Launch};
use jiff::Timestamp;
use outrigger_crds::Engine;
use outrigger_plan::{Phase, Trouble};
use outrigger_wire::{DeploymentKey, EndpointId, RevisionId};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

/// Between two readiness probes: a replica that stops being ready loses its traffic within this.
const READINESS: Duration = Duration::from_millis(200);
/// Probes in a row that may go unanswered before the replica counts as not ready. A refusal counts at once.
const SILENT: u32 = 2;
/// Between two liveness probes of an engine.
const LIVENESS: Duration = Duration::from_secs(3);
/// What an engine gets to end when its liveness failed: it hangs, so little.
const STUCK_GRACE: Duration = Duration::from_secs(2);
/// What an engine gets to end once nothing is in flight.
const ENGINE_GRACE: Duration = Duration::from_secs(10);
/// What a sidecar gets to end once its engine is gone.
const SIDECAR_GRACE: Duration = Duration::from_secs(5);

/// What a replica is made of; never changes.
#[derive(Clone, Debug)]
pub(crate) struct Make {
    pub(crate) id: EndpointId,
    pub(crate) revision: RevisionId,
    pub(crate) created: Timestamp,
    pub(crate) deployment: DeploymentKey,
    /// The name that the engine answered to when the replica was made; the stream tells newer ones.
    pub(crate) model: String,
    pub(crate) engine: Engine,
    /// The table's server.
    pub(crate) table: SocketAddr,
    /// Where logs are.
    pub(crate) logs: PathBuf,
    /// The sidecar's own directory.
    pub(crate) state: PathBuf,
    /// The helper's socket.
    pub(crate) socket: PathBuf,
}

/// What a replica shares with the others.
#[derive(Clone, Debug)]
pub(crate) struct Around {
    pub(crate) family: Family,
    pub(crate) ports: Arc<Mutex<Ports>>,
    /// How long the end may take; hot.
    pub(crate) max_drain: watch::Receiver<Duration>,
    /// Told whenever something changed.
    pub(crate) wake: Arc<Notify>,
    /// What happened, for people.
    pub(crate) happened: mpsc::Sender<Happening>,
}

/// Something that happened to a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happening {
    pub(crate) at: Timestamp,
    pub(crate) warning: bool,
    /// One word: `EngineEnded`, `SidecarEnded`, `EngineStuck`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// The last lines of what crashed.
    pub(crate) tail: Vec<String>,
}

/// How a replica is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) phase: Phase,
    pub(crate) address: Option<String>,
    pub(crate) ready_since: Option<Timestamp>,
    /// The engine's.
    pub(crate) restarts: Vec<Timestamp>,
    pub(crate) trouble: Option<Trouble>,
    /// Everything of it is gone.
    pub(crate) gone: bool,
}

/// A replica under way. Dropping it kills what runs.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) make: Make,
    pub(crate) seen: watch::Receiver<Seen>,
    stop: watch::Sender<bool>,
    poke: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Replica {
    /// Starts it.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub(crate) fn start(make: Make, around: Around) -> std::io::Result<Self> {
        let given = Given::take(&around.ports)?;
        let first = Seen {
            phase: Phase::Starting,
            address: Some(local(given.listen).to_string()),
            ready_since: None,
            restarts: Vec::new(),
            trouble: None,
            gone: false,
        };
        let (show, seen) = watch::channel(first);
        let (stop, stopped) = watch::channel(false);
        let poke = Arc::new(Notify::new());
        let pod = Pod {
            make: make.clone(),
            around,
            given: Arc::new(Mutex::new(given)),
            was_ready: Arc::default(),
            moved: Arc::default(),
            show,
            stopped,
            poke: Arc::clone(&poke),
            silent: 0,
        };
        Ok(Self { make, seen, stop, poke, task: tokio::spawn(pod.run()) })
    }

    /// Lets it finish what is in flight and end.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Whether it was told to end.
    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Its readiness may have changed: looks at once.
    pub(crate) fn poke(&self) {
        self.poke.notify_one();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The ports of one replica, the same for its life unless one was taken by somebody before it was ever ready.
#[derive(Clone, Copy, Debug)]
struct Given {
    engine: u16,
    listen: u16,
    admin: u16,
}

impl Given {
    fn take(ports: &Mutex<Ports>) -> std::io::Result<Self> {
        let mut ports = lock(ports);
        Ok(Self { engine: ports.take()?, listen: ports.take()?, admin: ports.take()? })
    }

    fn give_back(self, ports: &Mutex<Ports>) {
        let mut ports = lock(ports);
        [self.engine, self.listen, self.admin].into_iter().for_each(|port| ports.give_back(port));
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Every value behind these locks is whole after each statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Pod {
    make: Make,
    around: Around,
    given: Arc<Mutex<Given>>,
    was_ready: Arc<AtomicBool>,
    /// The engine's port was changed: the sidecar has to be told anew.
    moved: Arc<AtomicBool>,
    show: watch::Sender<Seen>,
    stopped: watch::Receiver<bool>,
    poke: Arc<Notify>,
    silent: u32,
}

impl Pod {
    async fn run(mut self) {
        let sidecar = self.container("sidecar", self.sidecar());
        // A native sidecar: the engine waits until it has started.
        if self.until_it_answers(&sidecar).await {
            let engine = Arc::new(self.container("engine", self.engine()));
            let liveness = tokio::spawn(Liveness::of(&self, &engine).run());
            self.attend(&sidecar, &engine).await;
            liveness.abort();
            self.update(|seen| seen.phase = Phase::Terminating);
            self.finish(&engine).await;
        }
        self.update(|seen| seen.phase = Phase::Terminating);
        sidecar.stop(SIDECAR_GRACE).await;
        let _ = std::fs::remove_file(&self.make.socket);
        let _ = std::fs::remove_dir_all(&self.make.state);
        lock(&self.given).give_back(&self.around.ports);
        self.update(|seen| seen.gone = true);
    }

    fn container(&self, part: &str, prepare: Prepare) -> Container {
        let name = format!("{}-{part}", self.make.id);
        Container::start(name, self.make.logs.clone(), self.around.family.clone(), prepare)
    }

    /// What starts the sidecar: its ports as they are then.
    fn sidecar(&self) -> Prepare {
        let (make, given, ports) =
            (self.make.clone(), Arc::clone(&self.given), Arc::clone(&self.around.ports));
        let was_ready = Arc::clone(&self.was_ready);
        Box::new(move || {
            let mut given = lock(&given);
            given.listen = keep_or_move(given.listen, &ports, &was_ready)?;
            given.admin = keep_or_move(given.admin, &ports, &was_ready)?;
            Ok(sidecar(&make, *given))
        })
    }

    fn engine(&self) -> Prepare {
        let (make, given, ports) =
            (self.make.clone(), Arc::clone(&self.given), Arc::clone(&self.around.ports));
        let (was_ready, moved) = (Arc::clone(&self.was_ready), Arc::clone(&self.moved));
        Box::new(move || {
            let mut given = lock(&given);
            let port = given.engine;
            given.engine = keep_or_move(port, &ports, &was_ready)?;
            if given.engine != port {
                moved.store(true, Ordering::SeqCst);
            }
            program::engine(&make.engine, given.engine)
        })
    }

    /// Waits until the sidecar's admin port answers anything; false when the replica is to end before.
    async fn until_it_answers(&mut self, sidecar: &Container) -> bool {
        let mut ticks = interval(READINESS);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = self.stopped.wait_for(|stop| *stop) => return false,
            }
            let trouble = sidecar.state().borrow().trouble.clone().map(blocking);
            self.update(|seen| seen.trouble = trouble);
            let admin = local(lock(&self.given).admin);
            let runs = sidecar.state().borrow().pid.is_some();
            if runs && matches!(probe::readiness(admin).await, Readiness::Ready | Readiness::NotReady(_)) {
                return true;
            }
        }
    }

    /// Probes and watches until the replica is to end.
    async fn attend(&mut self, sidecar: &Container, engine: &Container) {
        let (mut sidecar_state, mut engine_state) = (sidecar.state(), engine.state());
        let mut told: [Option<Ended>; 2] = [None, None];
        let mut ticks = interval(READINESS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let poke = Arc::clone(&self.poke);
        loop {
            tokio::select! {
                _ = self.stopped.wait_for(|stop| *stop) => return,
                _ = ticks.tick() => {}
                () = poke.notified() => {}
                Ok(()) = sidecar_state.changed() => {}
                Ok(()) = engine_state.changed() => {}
            }
            if self.moved.swap(false, Ordering::SeqCst) {
                sidecar.restart(SIDECAR_GRACE).await;
            }
            let (sidecar_now, engine_now) =
                (sidecar_state.borrow_and_update().clone(), engine_state.borrow_and_update().clone());
            let [sidecar_told, engine_told] = &mut told;
            self.tell("sidecar", "SidecarEnded", sidecar_now.ended.clone(), sidecar_told);
            self.tell("engine", "EngineEnded", engine_now.ended.clone(), engine_told);
            let runs = sidecar_now.pid.is_some() && engine_now.pid.is_some();
            let ready = runs && self.is_ready().await;
            let name = format!("the engine of {}", self.make.id);
            let own = engine_now.trouble.clone().or_else(|| engine_now.ended_by_itself(&name));
            let trouble = sidecar_now.trouble.clone().map(blocking).or(own);
            self.account(ready, &engine_now.restarts, trouble);
        }
    }

    async fn is_ready(&mut self) -> bool {
        let admin = local(lock(&self.given).admin);
        match probe::readiness(admin).await {
            Readiness::Ready => {
                self.silent = 0;
                true
            }
            Readiness::NotReady(_) | Readiness::Refused => false,
            Readiness::Silent => {
                self.silent += 1;
                self.silent < SILENT && self.show.borrow().phase == Phase::Ready
            }
        }
    }

    fn account(&self, ready: bool, restarts: &[Timestamp], trouble: Option<Trouble>) {
        let address = local(lock(&self.given).listen).to_string();
        self.update(|seen| {
            seen.phase = match (ready, seen.phase) {
                (true, _) => Phase::Ready,
                (false, Phase::Starting) => Phase::Starting,
                (false, _) => Phase::Unready,
            };
            seen.ready_since = ready.then(|| seen.ready_since.unwrap_or_else(Timestamp::now));
            seen.address = Some(address);
            seen.restarts = restarts.to_vec();
            // One that is ready gets on.
            seen.trouble = trouble.filter(|_| !ready);
        });
        if ready {
            self.was_ready.store(true, Ordering::SeqCst);
        }
    }

    /// Hooks, then the engine's end: the sidecar's preStop begins the drain, the engine's waits for its end.
    async fn finish(&self, engine: &Container) {
        let (family, socket) = (&self.around.family, &self.make.socket);
        let most = *self.around.max_drain.borrow();
        // What is not told to drain, because it is dead, has nothing in flight.
        let (_, ()) = tokio::join!(probe::drain(family, socket), probe::wait_drained(family, socket, most));
        engine.stop(ENGINE_GRACE).await;
    }

    fn tell(&self, part: &str, reason: &'static str, ended: Option<Ended>, told: &mut Option<Ended>) {
        if ended == *told {
            return;
        }
        *told = ended.clone();
        let Some(ended) = ended.filter(|ended| !ended.told) else { return };
        self.happen(reason, format!("the {part} of {} {}", self.make.id, ended.how), ended.tail);
    }

    fn happen(&self, reason: &'static str, message: String, tail: Vec<String>) {
        let happening = Happening { at: Timestamp::now(), warning: true, reason, message, tail };
        // More than fit are a crash loop's, of which enough was told.
        let _ = self.around.happened.try_send(happening);
    }

    fn update(&self, change: impl FnOnce(&mut Seen)) {
        let changed = self.show.send_if_modified(|seen| {
            let before = seen.clone();
            change(seen);
            *seen != before
        });
        if changed {
            self.around.wake.notify_one();
        }
    }
}

/// Asks, through the helper, whether the sidecar wants its engine restarted.
struct Liveness {
    id: EndpointId,
    socket: PathBuf,
    around: Around,
    engine: Arc<Container>,
}

impl Liveness {
    fn of(pod: &Pod, engine: &Arc<Container>) -> Self {
        Self {
            id: pod.make.id.clone(),
            socket: pod.make.socket.clone(),
            around: pod.around.clone(),
            engine: Arc::clone(engine),
        }
    }

    async fn run(self) {
        let mut answered = String::new();
        loop {
            tokio::time::sleep(LIVENESS).await;
            if self.engine.state().borrow().pid.is_none() {
                continue;
            }
            let Some(words) = probe::asks_for_restart(&self.around.family, &self.socket).await else {
                continue;
            };
            // `restart INCARNATION REASON`: each incarnation is restarted once.
            if words == answered {
                continue;
            }
            answered.clone_from(&words);
            let happening = Happening {
                at: Timestamp::now(),
                warning: true,
                reason: "EngineStuck",
                message: format!("the engine of {} is restarted: {words}", self.id),
                tail: Vec::new(),
            };
            let _ = self.around.happened.try_send(happening);
            self.engine.restart(STUCK_GRACE).await;
        }
    }
}

/// A sidecar that can't be had is nothing that a revision can be blamed for.
fn blocking(trouble: Trouble) -> Trouble {
    Trouble { blocks: true, ..trouble }
}

/// The port, if nobody listens there; else another one, if the replica was never ready.
fn keep_or_move(port: u16, ports: &Mutex<Ports>, was_ready: &AtomicBool) -> Result<u16, Trouble> {
    if ports::is_free(port) {
        return Ok(port);
    }
    let in_use = |message| Trouble { reason: "PortInUse".to_owned(), message, blocks: true };
    if was_ready.load(Ordering::SeqCst) {
        return Err(in_use(format!(
            "port {port}, where this replica listened, is in use by another program"
        )));
    }
    let mut ports = lock(ports);
    let other = ports.take().map_err(|e| in_use(format!("there is no free port: {e}")))?;
    ports.give_back(port);
    Ok(other)
}

fn sidecar(make: &Make, given: Given) -> Launch {
    let env = [
        ("OUTRIGGER_LISTEN", local(given.listen).to_string()),
        ("OUTRIGGER_ADMIN", local(given.admin).to_string()),
        ("OUTRIGGER_ENGINE", local(given.engine).to_string()),
        ("OUTRIGGER_ENGINE_KIND", make.engine.kind.unwrap_or_default().as_str().to_owned()),
        ("OUTRIGGER_MODEL", make.model.clone()),
        ("OUTRIGGER_ENDPOINT", make.id.to_string()),
        ("OUTRIGGER_DEPLOYMENT", make.deployment.to_string()),
        ("OUTRIGGER_TABLE", make.table.to_string()),
        ("OUTRIGGER_SOCKET", make.socket.to_string_lossy().into_owned()),
        ("OUTRIGGER_STATE_DIR", make.state.to_string_lossy().into_owned()),
    ];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    program::own("outrigger-sidecar", &[], env)
}
