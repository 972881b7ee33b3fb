//! Processes that outlive this command: started apart from the terminal, and found again by id *and* start time, so
//! that a number which the kernel gave to somebody else is never signalled.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How often a condition is looked at again.
const LOOK: Duration = Duration::from_millis(50);

/// One process, as it was when it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: i32,
    /// When it started, in ticks since the machine did.
    pub(crate) started: u64,
}

impl Process {
    /// The process that has this id now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let (started, state) = stat(pid)?;
        // A zombie has ended; only its parent hasn't looked.
        (state != 'Z' && state != 'X').then_some(Self { pid, started })
    }

    pub(crate) fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, unless it has ended.
    pub(crate) fn signal(self, signal: Signal) {
        if let (true, Some(pid)) = (self.alive(), Pid::from_raw(self.pid)) {
            // It may end in between.
            let _ = kill_process(pid, signal);
        }
    }

    /// Asks it to end, and kills it when it has not within `patience`.
    pub(crate) fn end(self, patience: Duration) -> Result<()> {
        self.signal(Signal::TERM);
        // A stopped process can't take the signal.
        self.signal(Signal::CONT);
        if !until(patience, || !self.alive()) {
            self.signal(Signal::KILL);
        }
        if until(Duration::from_secs(10), || !self.alive()) {
            return Ok(());
        }
        bail!("process {} does not end, not even by SIGKILL", self.pid)
    }
}

/// Start time and state, from the fields after the name, which may hold anything.
fn stat(pid: i32) -> Option<(u64, char)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some((fields.get(19)?.parse().ok()?, fields.first()?.chars().next()?))
}

/// Every process with its command line.
pub(crate) fn all() -> Vec<(Process, String)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some((Process::of(pid)?, String::from_utf8_lossy(&line).replace('\0', " ")))
    })
    .collect()
}

/// The processes whose parent this is.
pub(crate) fn children(parent: Process) -> Vec<Process> {
    let lists = fs::read_dir(format!("/proc/{}/task", parent.pid)).into_iter().flatten().flatten();
    let lists = lists.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<i32> =
        lists.flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<_>>()).collect();
    pids.into_iter().filter_map(Process::of).collect()
}

/// Starts a program that stays when this one ends, with both outputs appended to a file.
pub(crate) fn start(mut command: Command, log: &Path) -> Result<Process> {
    let file = fs::OpenOptions::new().create(true).append(true).open(log);
    let file = file.with_context(|| format!("opening {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    // Ctrl-C at this command's terminal is not meant for it.
    command.process_group(0).current_dir("/");
    let child = command.spawn().with_context(|| format!("starting {:?}", command.get_program()))?;
    let pid = i32::try_from(child.id()).context("a process id is a positive number")?;
    Process::of(pid).with_context(|| format!("{:?} ended at once: {}", command.get_program(), tail(log)))
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().skip(lines.len().saturating_sub(12)).copied().collect::<Vec<_>>().join("\n")
}

/// Looks until something holds; false when it doesn't in time.
pub(crate) fn until(bound: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + bound;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(LOOK); // between two looks
    }
}

#[cfg(test)]
mod tests {
    use super::Process;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    #[test]
    fn a_process_is_known_by_id_and_start() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = Process::of(child.id().try_into().unwrap()).unwrap();
        assert!(process.alive());
        let namesake = Process { started: process.started + 1, ..process };
        assert!(!namesake.alive(), "another process had this id at another time");
        namesake.end(Duration::ZERO).unwrap();
        assert!(process.alive(), "the namesake's end is not ours");
        process.end(Duration::from_secs(5)).unwrap();
        assert!(!process.alive(), "a zombie has ended");
        child.wait().unwrap();
    }
}
