//! `outrigger-keeper`: stands between `outrigger up` and each program that it runs, so that no program outlives it.
//!
//! `outrigger-keeper PROGRAM ARG0 ARG…` runs PROGRAM as the leader of a process group of its own and is the reaper of
//! everything that descends from it, workers that left the group included. Its standard input comes from `up`:
//!
//! | line | what happens |
//! |---|---|
//! | `term` | SIGTERM to the program (not to its workers: they are the program's to stop) |
//! | `kill` | SIGKILL to the program, its group and every descendant |
//! | end of file | the same: whoever started the keeper is gone |
//!
//! Its standard output says `started PID`, then `exited code N` or `exited signal N`. When the program ends, what it
//! left behind is killed, as in a container whose first process ends. The keeper itself ends when no descendant is
//! left. Output of the program goes to the keeper's standard error.
//!
//! A killed keeper takes the program along (its parent-death signal), and what the program left behind falls to `up`,
//! which is a reaper as well.

pub(crate) mod descendants;

use crate::up::Launch;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The name under which the one binary is a keeper.
pub const NAME: &str = "outrigger-keeper";
/// First argument of the keeper's second stage, which becomes the program.
const STAGE: &str = "--become";
/// Between two looks at which descendants are left while they are being killed.
const KILL_AGAIN: Duration = Duration::from_millis(10);
/// The longest command that `up` sends, in bytes.
const LONGEST_COMMAND: u64 = 16;
/// What shells return for a program that can't be run.
const CANNOT_RUN: u8 = 126;

/// Runs the keeper; `args` begins with its own name.
pub fn main_with(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.skip(1).collect();
    match args.as_slice() {
        [stage, parent, program, arg0, rest @ ..] if stage == STAGE => {
            become_program(parent, program, arg0, rest)
        }
        [program, arg0, rest @ ..] => match keep(program, arg0, rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => complain(&format!("{NAME}: {}: {e}", program.to_string_lossy())),
        },
        _ => complain(&format!("{NAME} is started by `outrigger up`: {NAME} PROGRAM ARG0 ARG…")),
    }
}

/// The file of this very program. Where it was replaced meanwhile (a new build), the running one still has it.
pub(crate) fn own_file() -> PathBuf {
    match std::env::current_exe() {
        Ok(path) if path.exists() => path,
        _ => PathBuf::from(format!("/proc/{}/exe", std::process::id())),
    }
}

/// The same program, killed when the calling thread's process ends: for short helpers that need no keeper.
pub(crate) fn dying_with_us(launch: Launch) -> Launch {
    let parent = rustix::process::getpid().to_string();
    let args = [STAGE.into(), parent.into(), launch.program.clone().into(), launch.arg0];
    Launch { arg0: NAME.into(), args: args.into_iter().chain(launch.args).collect(), ..launch }
}

/// To the keeper's standard error, which is the program's log.
fn complain(message: &str) -> ExitCode {
    // A log that can't be written to leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "{message}");
    ExitCode::from(CANNOT_RUN)
}

/// The second stage: dies with the keeper, then becomes the program, under the same process id.
fn become_program(parent: &OsStr, program: &OsStr, arg0: &OsStr, args: &[OsString]) -> ExitCode {
    let armed = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let expected = parent.to_str().and_then(|text| text.parse().ok()).and_then(Pid::from_raw);
    // The keeper may have died before the signal was armed.
    if armed.is_err() || rustix::process::getppid() != expected {
        return complain(&format!("{NAME}: the keeper is gone"));
    }
    let error = Command::new(program).arg0(arg0).args(args).exec();
    complain(&format!("{}: {error}", program.to_string_lossy()))
}

fn keep(program: &OsStr, arg0: &OsStr, args: &[OsString]) -> std::io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    ignore_signals()?;
    let child = start(program, arg0, args)?;
    let leader = Leader { pid: child, lives: Arc::new(Mutex::new(true)) };
    report(&format!("started {child}"));
    let obey = {
        let leader = leader.clone();
        move || obey(std::io::stdin().lock(), &leader)
    };
    std::thread::Builder::new().name("commands".to_owned()).spawn(obey)?;
    reap(&leader)
}

/// Signals for the keeper's name (`pkill outrigger`) are `up`'s business, which stops its programs in order. A
/// handler, once installed, stays; the program begins without it.
fn ignore_signals() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _inside = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()] {
        // Nobody waits for it: it is taken and forgotten.
        drop(signal(kind)?);
    }
    Ok(())
}

/// Starts the second stage on the main thread, which lives as long as the keeper: the parent-death signal comes when
/// the thread that started a process ends.
fn start(program: &OsStr, arg0: &OsStr, args: &[OsString]) -> std::io::Result<Pid> {
    let log = || std::io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
    let child = Command::new(own_file())
        .arg0(NAME)
        .arg(STAGE)
        .arg(rustix::process::getpid().to_string())
        .args([program, arg0])
        .args(args)
        .stdin(Stdio::null())
        .stdout(log()?)
        .stderr(log()?)
        .process_group(0)
        .spawn()?;
    Ok(Pid::from_child(&child))
}

/// `up` may be gone; then there is nobody to tell.
fn report(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// The program itself. Its id is signalled only while it is not reaped, so the id is never another process's.
#[derive(Clone)]
struct Leader {
    pid: Pid,
    lives: Arc<Mutex<bool>>,
}

impl Leader {
    fn lives(&self) -> MutexGuard<'_, bool> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn terminate(&self) {
        let lives = self.lives();
        if *lives {
            // It may be a zombie already.
            let _ = rustix::process::kill_process(self.pid, Signal::TERM);
        }
    }

    fn kill_group(&self) {
        let lives = self.lives();
        if *lives {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        }
    }

    /// Reaps one process that has ended; its status, if it was the program.
    fn reap_one(&self) -> std::io::Result<Option<ExitStatus>> {
        let mut lives = self.lives();
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == self.pid => {
                *lives = false;
                Ok(Some(ExitStatus::from_raw(status.as_raw())))
            }
            Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::CHILD) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

/// Does what `up` says, until it says to kill or is gone.
fn obey(mut commands: impl BufRead, leader: &Leader) {
    loop {
        let mut line = String::new();
        match commands.by_ref().take(LONGEST_COMMAND).read_line(&mut line) {
            Ok(1..) if line.trim_end() == "term" => leader.terminate(),
            _ => break,
        }
    }
    leader.kill_group();
    kill_all();
}

/// Kills descendants until the keeper ends for want of them.
fn kill_all() {
    loop {
        descendants::kill(descendants::of(rustix::process::getpid()));
        std::thread::sleep(KILL_AGAIN);
    }
}

/// Reaps until no descendant is left. Everything that loses its parent becomes a child of the keeper, so no children
/// means no descendants.
fn reap(leader: &Leader) -> std::io::Result<()> {
    loop {
        // Waits without reaping: the reaping is done under the lock, see `Leader`.
        match rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        if let Some(status) = leader.reap_one()? {
            report(&match (status.code(), status.signal()) {
                (Some(code), _) => format!("exited code {code}"),
                (None, signal) => format!("exited signal {}", signal.unwrap_or_default()),
            });
            std::thread::Builder::new().name("killer".to_owned()).spawn(kill_all)?;
        }
    }
}
