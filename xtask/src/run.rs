//! Running other programs: calm when they succeed, complete when they fail.

use anyhow::{Context, Result, anyhow, bail};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The lines of a failed program's output that are shown: enough for a whole test failure.
const SHOWN_LINES: usize = 400;

/// The repository's root.
pub(crate) fn root() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).context("xtask has no parent folder")
}

/// Where things that outlive a checkout are kept: `$OUTRIGGER_CACHE`, else `~/.cache/outrigger`.
pub(crate) fn cache() -> Result<PathBuf> {
    let path = match std::env::var_os("OUTRIGGER_CACHE") {
        Some(path) => PathBuf::from(path),
        None => std::env::home_dir().context("no home folder: set OUTRIGGER_CACHE")?.join(".cache/outrigger"),
    };
    fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}

/// Whether a skip is a failure.
pub(crate) fn in_ci() -> bool {
    ["CI", "OUTRIGGER_CI"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "false"))
}

/// A program to run from the repository's root.
pub(crate) fn command<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Result<Command> {
    let mut command = Command::new(program);
    command.args(args).current_dir(root()?).stdin(Stdio::null());
    // Set by `cargo xtask` itself; a nested cargo must not think that it is part of the same build.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    Ok(command)
}

/// What a program that has ended left.
pub(crate) struct Finished {
    pub(crate) succeeded: bool,
    pub(crate) output: String,
    pub(crate) took: Duration,
}

/// Runs a program with both outputs into `target/xtask/NAME.log`, and waits for it.
pub(crate) fn quietly(name: &str, mut command: Command) -> Result<Finished> {
    let folder = root()?.join("target/xtask");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}.log", name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")));
    let log = fs::File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let started = Instant::now();
    let status = command
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .with_context(|| format!("{name}: running {:?}", command.get_program()))?;
    let output = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
    Ok(Finished { succeeded: status.success(), output, took: started.elapsed() })
}

/// Runs a step: one line with its time when it succeeds, its output when it fails.
pub(crate) fn step(name: &str, command: Command) -> Result<Finished> {
    let finished = quietly(name, command)?;
    say(name, finished.took, if finished.succeeded { "ok" } else { "FAILED" });
    if !finished.succeeded {
        show(&finished.output);
    }
    Ok(finished)
}

/// Runs a step that must succeed.
pub(crate) fn must(name: &str, command: Command) -> Result<Finished> {
    let finished = step(name, command)?;
    if !finished.succeeded {
        bail!("{name} failed");
    }
    Ok(finished)
}

/// One calm line.
pub(crate) fn say(name: &str, took: Duration, what: &str) {
    println!("{name:<44} {what:<8} {:>6.1} s", took.as_secs_f64());
}

/// The end of what a failed program printed.
pub(crate) fn show(output: &str) {
    let lines: Vec<&str> = output.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(SHOWN_LINES)) {
        println!("    {line}");
    }
}

/// Something that is set up while other steps run.
pub(crate) struct Background {
    name: String,
    thread: std::thread::JoinHandle<Result<Finished>>,
}

/// Starts `work` beside what follows.
pub(crate) fn in_background(
    name: &str,
    work: impl FnOnce() -> Result<Finished> + Send + 'static,
) -> Background {
    Background { name: name.to_owned(), thread: std::thread::spawn(work) }
}

impl Background {
    /// Waits for it and says how long it took.
    pub(crate) fn wait(self) -> Result<Finished> {
        let finished = self.thread.join().map_err(|_| anyhow!("{}: its thread panicked", self.name))??;
        say(&self.name, finished.took, if finished.succeeded { "ok" } else { "FAILED" });
        Ok(finished)
    }
}
