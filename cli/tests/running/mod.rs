//! A running `outrigger`, its lines, and what is left of it.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// The program under test.
pub(crate) const BIN: &str = env!("CARGO_BIN_EXE_outrigger");
/// How long anything may take here, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under another of its names.
pub(crate) fn named(name: &str) -> Command {
    let mut command = Command::new(BIN);
    command.arg0(name);
    command
}

/// Waits for a condition.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "after {PATIENCE:?} still not: {what}");
        std::thread::sleep(Duration::from_millis(20)); // between two looks
    }
}

/// The ids of processes whose command line or environment holds `marker`, zombies left out, this one too.
pub(crate) fn processes(marker: &str) -> BTreeSet<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let holds = |pid: &i32| {
        let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let text = [read("cmdline"), read("environ")].concat();
        String::from_utf8_lossy(&text).contains(marker)
    };
    pids.filter(|pid| *pid != std::process::id() as i32).filter(holds).collect()
}

/// Processes whose command line holds `part` and that belong to the `up` of `marker`.
pub(crate) fn processes_of(marker: &str, part: &str) -> BTreeSet<i32> {
    let command_line = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = |pid: &i32| {
        let line = command_line(pid);
        line.split(|byte| *byte == 0)
            .next()
            .map(|arg| String::from_utf8_lossy(arg).into_owned())
            .unwrap_or_default()
    };
    processes(marker).into_iter().filter(|pid| first(pid).contains(part)).collect()
}

/// kill -9.
pub(crate) fn kill(pid: i32) {
    let status = Command::new("kill").arg("-9").arg(pid.to_string()).status().unwrap();
    assert!(status.success(), "kill -9 {pid}");
}

/// A running `outrigger up`, killed when the test ends.
pub(crate) struct Up {
    pub(crate) child: Child,
    pub(crate) marker: String,
    lines: Receiver<String>,
    pub(crate) seen: Vec<String>,
}

impl Up {
    /// Starts it; `marker` is in the environment of everything that it starts.
    pub(crate) fn start(marker: &str, args: &[&str]) -> Self {
        let mut child = Command::new(BIN)
            .arg("up")
            .args(args)
            .env("TEST_MARKER", marker)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = sync_channel(10_000);
        let out = child.stdout.take().unwrap();
        let err = child.stderr.take().unwrap();
        let also = send.clone();
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).for_each(|line| drop(send.try_send(line)));
        });
        std::thread::spawn(move || {
            BufReader::new(err).lines().map_while(Result::ok).for_each(|line| drop(also.try_send(line)));
        });
        Self { child, marker: marker.to_owned(), lines, seen: Vec::new() }
    }

    /// Waits for a line that holds all of `parts`, from where the last search ended.
    #[track_caller]
    pub(crate) fn line(&mut self, parts: &[&str]) -> String {
        self.line_within(parts, PATIENCE)
    }

    /// The same, but what was said before counts too.
    #[track_caller]
    pub(crate) fn ever(&mut self, parts: &[&str]) -> String {
        let before = self.seen.iter().find(|line| parts.iter().all(|part| line.contains(part))).cloned();
        before.unwrap_or_else(|| self.line(parts))
    }

    #[track_caller]
    pub(crate) fn line_within(&mut self, parts: &[&str], patience: Duration) -> String {
        self.next(&format!("all of {parts:?}"), patience, |line| parts.iter().all(|part| line.contains(part)))
    }

    /// Waits for a line that holds any of `parts`.
    #[track_caller]
    pub(crate) fn either(&mut self, parts: &[&str]) -> String {
        self.next(&format!("any of {parts:?}"), PATIENCE, |line| parts.iter().any(|part| line.contains(part)))
    }

    #[track_caller]
    fn next(&mut self, what: &str, patience: Duration, wanted: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let left = patience.saturating_sub(began.elapsed());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no line with {what}; seen:\n{}", self.seen.join("\n"));
            };
            self.seen.push(line.clone());
            if wanted(&line) {
                return line;
            }
        }
    }

    /// Its processes whose name holds `part`.
    pub(crate) fn processes(&self, part: &str) -> BTreeSet<i32> {
        processes_of(&self.marker, part)
    }

    /// kill -9, and what remains of everything that it started: nothing, soon.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.gone();
    }

    /// Nothing is left.
    #[track_caller]
    pub(crate) fn gone(&self) {
        wait_until("every process is gone", || processes(&self.marker).is_empty());
    }

    /// SIGTERM, and its end.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.end()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // What it said last may still be on its way.
                while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
                    self.seen.push(line);
                }
                return status;
            }
            self.seen.extend(self.lines.try_iter());
            assert!(began.elapsed() < PATIENCE * 3, "it goes on:\n{}", self.seen.join("\n"));
            std::thread::sleep(Duration::from_millis(50)); // between two looks
        }
    }

    /// Everything that it said so far.
    pub(crate) fn said(&mut self) -> String {
        self.seen.extend(self.lines.try_iter());
        self.seen.join("\n")
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a file of a deployment whose engine is this; `more` goes below `spec`.
pub(crate) fn deployment(path: &Path, engine: &str, more: &str) {
    let text = format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {{name: demo}}\nspec:\n  \
         model: {{name: demo}}\n  engine: {engine}\n{more}"
    );
    // As editors do: a new file takes the old one's place as a whole.
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}
