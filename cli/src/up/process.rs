//! One child of `up`: a program behind its keeper.

use super::log::Log;
use super::program::Launch;
use crate::keeper::{self, descendants};
use rustix::process::{Pid, WaitOptions};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

/// A log, shared between the task that fills it and whoever wants its last lines.
pub(crate) type SharedLog = Arc<Mutex<Log>>;

/// Between two looks at orphans while they are being killed.
const KILL_AGAIN: Duration = Duration::from_millis(10);
/// What is read of a child's output at once, in bytes.
const PIECE: usize = 8 * 1024;
/// How long the end of a child's output is waited for once its keeper is gone: nobody holds the pipe then, unless
/// something escaped.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Its keeper was killed, and it with the keeper.
    KeeperLost,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::KeeperLost => f.write_str("was killed together with its keeper"),
        }
    }
}

/// The processes that `up` has started directly: every other child of it is an orphan that fell to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Family {
    known: Arc<Mutex<BTreeSet<Pid2>>>,
}

/// A process id as a number: rustix's type has no order.
type Pid2 = i32;

impl Family {
    fn known(&self) -> std::sync::MutexGuard<'_, BTreeSet<Pid2>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process, under a lock, so that it is never taken for an orphan.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let mut known = self.known();
        let child = command.spawn()?;
        known.extend(child.id().and_then(|id| i32::try_from(id).ok()));
        Ok(child)
    }

    /// The process has been reaped.
    pub(crate) fn forget(&self, id: Option<u32>) {
        if let Some(id) = id.and_then(|id| i32::try_from(id).ok()) {
            self.known().remove(&id);
        }
    }

    /// Kills and reaps what fell to `up` when a keeper was killed.
    pub(crate) async fn bury_orphans(&self) {
        let own = rustix::process::getpid();
        loop {
            let orphans: Vec<_> = {
                let known = self.known();
                let children = descendants::children(own);
                children.into_iter().filter(|c| !known.contains(&c.pid.as_raw_nonzero().get())).collect()
            };
            if orphans.is_empty() {
                return;
            }
            for orphan in orphans {
                descendants::kill(descendants::of(orphan.pid));
                descendants::kill([orphan]);
                reap(orphan.pid);
            }
            tokio::time::sleep(KILL_AGAIN).await;
        }
    }
}

/// It may need a moment to end; then it is reaped the next time.
fn reap(pid: Pid) {
    let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
}

/// A command that runs one of our own programs or a keeper: apart from the terminal's process group, so that Ctrl-C
/// reaches `up` alone, and without `up`'s own settings.
pub(crate) fn quiet(launch: &Launch) -> Command {
    let mut command = Command::new(&launch.program);
    command.arg0(&launch.arg0).args(&launch.args).process_group(0);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OUTRIGGER_") {
            command.env_remove(name);
        }
    }
    command.envs(launch.env.iter().map(|(name, value)| (name, value)));
    command
}

/// A running program. Dropping it kills it and everything that descends from it.
#[derive(Debug)]
pub(crate) struct Process {
    family: Family,
    keeper: Child,
    keeper_id: Option<u32>,
    commands: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
    output: Option<JoinHandle<()>>,
    pid: i32,
    exit: Option<Exit>,
}

impl Process {
    /// Starts the program behind a keeper; its output goes to `log`.
    ///
    /// # Errors
    /// When the keeper can't be started. A program that can't be run is one that exits.
    pub(crate) async fn start(launch: &Launch, log: SharedLog, family: &Family) -> io::Result<Self> {
        let keeper = Launch {
            program: keeper::own_file(),
            arg0: keeper::NAME.into(),
            args: [launch.program.clone().into(), launch.arg0.clone()]
                .into_iter()
                .chain(launch.args.iter().cloned())
                .collect(),
            env: launch.env.clone(),
        };
        let mut command = quiet(&keeper);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = family.spawn(&mut command)?;
        let missing = || io::Error::other("the keeper has no pipes");
        let commands = child.stdin.take().ok_or_else(missing)?;
        let reports = BufReader::new(child.stdout.take().ok_or_else(missing)?).lines();
        let output = tokio::spawn(copy(child.stderr.take().ok_or_else(missing)?, log));
        let keeper_id = child.id();
        let mut process = Self {
            family: family.clone(),
            keeper: child,
            keeper_id,
            commands,
            reports,
            output: Some(output),
            pid: 0,
            exit: None,
        };
        match process.reports.next_line().await?.as_deref().and_then(|line| line.strip_prefix("started ")) {
            Some(pid) => process.pid = pid.parse().unwrap_or_default(),
            // What went wrong stands in the log.
            None => process.exit = Some(Exit::Code(126)),
        }
        Ok(process)
    }

    /// The program's process id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Asks the program to end (SIGTERM).
    pub(crate) async fn terminate(&mut self) {
        // A keeper that is gone has taken the program along.
        let _ = self.commands.write_all(b"term\n").await;
        let _ = self.commands.flush().await;
    }

    /// Kills the program and everything that descends from it.
    pub(crate) async fn kill(&mut self) {
        let _ = self.commands.write_all(b"kill\n").await;
        let _ = self.commands.flush().await;
    }

    /// Waits until the program and everything that descends from it is gone. May be cancelled and called again.
    pub(crate) async fn ended(&mut self) -> Exit {
        while let Ok(Some(line)) = self.reports.next_line().await {
            self.exit = parse(&line).or(self.exit);
        }
        // The pipe's end means that the keeper is gone, whether or not it could be reaped.
        let _ = self.keeper.wait().await;
        self.family.forget(self.keeper_id.take());
        if self.exit.is_none() {
            self.family.bury_orphans().await;
        }
        if let Some(mut output) = self.output.take()
            && tokio::time::timeout(LAST_OUTPUT, &mut output).await.is_err()
        {
            output.abort();
        }
        self.exit.unwrap_or(Exit::KeeperLost)
    }
}

fn parse(line: &str) -> Option<Exit> {
    let (kind, number) = line.strip_prefix("exited ")?.split_once(' ')?;
    let number = number.parse().ok()?;
    match kind {
        "code" => Some(Exit::Code(number)),
        "signal" => Some(Exit::Signal(number)),
        _ => None,
    }
}

async fn copy(mut from: ChildStderr, log: SharedLog) {
    let mut piece = vec![0; PIECE];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        log.lock().unwrap_or_else(PoisonError::into_inner).write(piece.get(..n).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_keeper_says() {
        assert_eq!(parse("exited code 3"), Some(Exit::Code(3)));
        assert_eq!(parse("exited signal 9"), Some(Exit::Signal(9)));
        for line in ["", "started 3", "exited", "exited code", "exited code x", "exited badly 3"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
