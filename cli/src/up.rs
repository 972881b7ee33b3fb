//! `outrigger up`: the whole circle on one machine. It plays the operator, with `outrigger_plan` deciding, and the
//! kubelet, with processes in place of containers.
//!
//! ```text
//! file ─► world ─► plan ─► store ─► table ─► children ─┐
//!           ▲                                          │
//!           └── reports, readiness, exits ◄────────────┘
//! ```

mod args;
mod circle;
mod container;
mod file;
mod kubelet;
mod log;
pub(crate) mod output;
mod ports;
mod probe;
mod process;
mod program;
mod replica;
mod seen;
mod show;
mod store;
mod world;

pub use args::UpArgs;
pub use show::Bad;

pub(crate) use program::Launch;

use crate::keeper::descendants;
use circle::{Circle, End, Round};
use file::Watched;
use kubelet::{Common, Kubelet};
use output::Output;
use outrigger_plan::{Declaration, Outcome, revision};
use outrigger_wire::Mistake;
use rustix::process::WaitOptions;
use show::Show;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::{Refused, Store};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// EX_USAGE of sysexits.h: flags or file are mistaken.
const MISTAKEN: u8 = 64;
const ROLLED_BACK: u8 = 3;
const BLOCKED: u8 = 4;
/// What shells return for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;
/// How long a port that is in use is waited for: the gateway of an `up` that was killed a moment ago still has it.
const PORT_PATIENCE: Duration = Duration::from_secs(3);
/// How long killed children may take to be gone.
const LAST_CHILDREN: Duration = Duration::from_secs(5);
/// Between two looks at either.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why it didn't begin, or didn't go on.
enum Failure {
    /// The user can mend it: flags, file, a port, a directory.
    Mistake(Vec<String>),
    /// Nobody expected it.
    Internal(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Internal(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Internal(error.into())
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        Self::Mistake(vec![refused.to_string()])
    }
}

/// Runs `outrigger up`.
pub fn run(args: &UpArgs) -> ExitCode {
    let code = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(begin(args)));
    bury_children();
    match code {
        Ok(code) => ExitCode::from(code),
        Err(Failure::Mistake(lines)) => {
            complain(&lines);
            ExitCode::from(MISTAKEN)
        }
        Err(Failure::Internal(error)) => {
            complain(&[format!("outrigger up: {error:#}")]);
            ExitCode::FAILURE
        }
    }
}

fn complain(lines: &[String]) {
    let mut err = std::io::stderr().lock();
    for line in lines {
        // Nobody is left to tell.
        let _ = writeln!(err, "{line}");
    }
}

async fn begin(args: &UpArgs) -> Result<u8, Failure> {
    // First of all: what loses its parent falls to us, not to the machine.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(std::io::Error::from)?;
    let (file, declaration) =
        circle::declared(args).map_err(|mistakes| listed(args.file.as_deref(), &mistakes))?;
    check_rate(args)?;
    // The show begins anew each time: its directory goes with it.
    let temporary = match (&args.file, &args.state) {
        (None, None) => Some(Temporary::make()?),
        _ => None,
    };
    let root = match (&args.state, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, Some(temporary)) => temporary.0.clone(),
        (None, None) => store::default_dir(&declaration.key)?,
    };
    let store = Store::open(&root)?;
    log::prune(&store.dirs.logs);
    let mut circle = prepare(args, file, declaration, store).await?;
    let ask = Arc::new(Notify::new());
    let second = signals(Arc::clone(&ask))?;
    let end = tokio::select! {
        end = circle.run(&ask) => end?,
        () = second.notified() => return Ok(INTERRUPTED),
    };
    tokio::select! {
        () = circle.stop() => {}
        () = second.notified() => return Ok(INTERRUPTED),
    }
    circle.store.sweep();
    drop(temporary);
    Ok(match end {
        End::Asked | End::Settled(Outcome::Serving | Outcome::Starting | Outcome::RollingOut) => 0,
        End::Settled(Outcome::RolledBack) => ROLLED_BACK,
        End::Settled(Outcome::Blocked) => BLOCKED,
    })
}

fn listed(file: Option<&Path>, mistakes: &[Mistake]) -> Failure {
    let name = file.map_or_else(|| "the example".to_owned(), |file| file.display().to_string());
    Failure::Mistake(mistakes.iter().map(|mistake| format!("{name}: {mistake}")).collect())
}

fn check_rate(args: &UpArgs) -> Result<(), Failure> {
    match args.rate() {
        Some(rate) if !(rate > 0.0 && rate <= crate::load::MAX_RATE) => Err(Failure::Mistake(vec![format!(
            "the rate {rate} is out of range; allowed: above 0 and up to {} requests per second",
            crate::load::MAX_RATE
        )])),
        _ => Ok(()),
    }
}

/// Everything that is needed before the first turn.
async fn prepare(
    args: &UpArgs,
    file: Option<Watched>,
    declaration: Declaration,
    store: Store,
) -> Result<Circle, Failure> {
    let stored = store.stored().cloned();
    if let Some(other) = stored.as_ref().filter(|stored| stored.deployment != declaration.key) {
        let dir = store.dirs.root.display();
        return Err(Failure::Mistake(vec![format!(
            "the state in {dir} is that of {}; {} needs another directory (--state)",
            other.deployment, declaration.key
        )]));
    }
    let (table, reports) = outrigger_table::Server::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let served = listener.local_addr()?;
    let server = table.clone();
    tokio::spawn(async move { server.serve(listener).await });

    let wake = Arc::new(Notify::new());
    let common = Common { deployment: declaration.key.clone(), table: served, dirs: store.dirs.clone() };
    let (mut kubelet, happenings) = Kubelet::new(common, Arc::clone(&wake));
    let listen = front_door(args, &kubelet).await?;
    kubelet.start_gateway(listen, args.admin)?;

    let mut spec = declaration.spec.clone();
    let mut show = args.file.is_none().then(|| Show::new(args.bad));
    if let (Some(show), Some(stored)) = (&mut show, &stored) {
        // There is no file that the edit would stand in.
        spec = stored.spec.clone();
        show.resume(&spec);
    }
    let mut output = Output::open(args.plain)?;
    // Nobody may be reading.
    let _ = output.note(&format!("gateway http://{listen}"));
    let _ = output.note(&format!("state {}", store.dirs.root.display()));
    if let Some(admin) = kubelet.gateway_admin() {
        let _ = output.note(&format!("metrics http://{admin}/metrics"));
    }
    Ok(Circle {
        key: declaration.key,
        declared: revision::of(&spec.engine),
        spec,
        file,
        show,
        store,
        kubelet,
        happenings,
        table,
        reports,
        wake,
        output,
        listen,
        rate: args.rate(),
        exit_when_settled: args.exit_when_settled,
        round: Round::default(),
    })
}

/// Where the gateway is to listen, once it can.
async fn front_door(args: &UpArgs, kubelet: &Kubelet) -> Result<SocketAddr, Failure> {
    let mut listen = args.listen;
    if listen.port() == 0 {
        listen.set_port(kubelet.free_port()?);
    }
    let began = Instant::now();
    for (address, flag) in [(Some(listen), "--listen"), (args.admin, "--admin")] {
        let Some(address) = address else { continue };
        while let Err(e) = ports::can_listen(address) {
            if began.elapsed() >= PORT_PATIENCE || e.kind() != std::io::ErrorKind::AddrInUse {
                return Err(Failure::Mistake(vec![format!(
                    "the gateway can't listen on {address}: {e}; end what uses it, or choose another address with \
                     {flag} (port 0 takes a free one)"
                )]));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(listen)
}

/// The first signal asks for the end, the second one is told to the returned.
fn signals(ask: Arc<Notify>) -> std::io::Result<Arc<Notify>> {
    let second = Arc::new(Notify::new());
    let (mut interrupt, mut terminate, mut hangup) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let tell = Arc::clone(&second);
    tokio::spawn(async move {
        for told in [ask, tell] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            told.notify_one();
        }
    });
    Ok(second)
}

/// A directory that goes when its owner does, in order or not: one that was left behind by a killed `up` is in the
/// system's directory for such things.
struct Temporary(std::path::PathBuf);

impl Temporary {
    fn make() -> std::io::Result<Self> {
        let name = format!("outrigger-up-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until every child is gone. Their keepers kill what they keep as soon as our end of their pipes is closed,
/// which it is once the runtime has been dropped.
fn bury_children() {
    let began = Instant::now();
    let own = rustix::process::getpid();
    while began.elapsed() < LAST_CHILDREN {
        let children = descendants::children(own);
        if children.is_empty() {
            return;
        }
        for child in children {
            let _ = rustix::process::waitpid(Some(child.pid), WaitOptions::NOHANG);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    descendants::kill(descendants::of(own));
}
