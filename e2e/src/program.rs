//! The `outrigger` program of this checkout, run as a user runs it.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

/// Lines that may wait to be read; a program that prints more stops until they are.
const LINES: usize = 10_000;

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// The program, built from what stands in the checkout now: in the profile and folder that this test was built in.
///
/// # Errors
/// When it does not build.
pub fn outrigger() -> Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BUILT.get_or_init(|| build("outrigger").map_err(|error| format!("{error:#}"))) {
        Ok(program) => Ok(program),
        Err(error) => bail!("{error}"),
    }
}

/// The operator, which is a program of its own: whoever serves on one machine needs nothing of Kubernetes.
///
/// # Errors
/// When it does not build.
pub fn operator() -> Result<PathBuf> {
    build("outrigger-operator")
}

/// Builds a package and returns its program, which has the same name.
fn build(package: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("a test stands in TARGET/PROFILE/deps")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "-p", package, "--target-dir"]);
    cargo.arg(folder.parent().context("a profile stands in TARGET")?).current_dir(root());
    if folder.file_name() == Some(OsStr::new("release")) {
        cargo.arg("--release");
    }
    let output = cargo.output()?;
    if !output.status.success() {
        bail!("{package} does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(folder.join(package))
}

/// A command that runs the program under another name (`outrigger-gateway`), as `up` does, or the operator. No `OUTRIGGER_*` variable
/// of the caller reaches it.
///
/// # Errors
/// When the program does not build.
pub fn command(name: &str) -> Result<Command> {
    let program = if name == "outrigger-operator" { operator()? } else { outrigger()?.to_owned() };
    let mut command = Command::new(program);
    command.arg0(name);
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("OUTRIGGER_") {
            command.env_remove(variable);
        }
    }
    Ok(command)
}

/// Runs a command to its end.
///
/// # Errors
/// When it can't be started.
pub fn run(mut command: Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))
}

/// A program under way, whose lines are read. Dropped, it is killed; what it started ends with it, which is a promise
/// that other tests prove.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    /// Starts a command and reads its standard output and standard error line by line.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let (sender, lines) = sync_channel(LINES);
        child.stdout.take().into_iter().for_each(|output| forward(output, sender.clone()));
        child.stderr.take().into_iter().for_each(|output| forward(output, sender.clone()));
        Ok(Self { child, lines, seen: Vec::new() })
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line, from now on, that `wanted` takes.
    ///
    /// # Errors
    /// When it does not come within `bound`, or the program ends first: with everything that was printed.
    pub fn line(&mut self, bound: Duration, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let until = Instant::now() + bound;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no {what} within {bound:?}:\n{}", self.seen.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("ended before {what}:\n{}", self.seen.join("\n"))
                }
            }
        }
    }

    /// Asks it to end, as Ctrl-C does.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn interrupt(&self) -> Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        Ok(rustix::process::kill_process(id.context("a process has an id")?, rustix::process::Signal::INT)?)
    }

    /// Asks it to end, and waits.
    ///
    /// # Errors
    /// When it has not ended within `bound`.
    pub fn stop(mut self, bound: Duration) -> Result<ExitStatus> {
        self.interrupt()?;
        self.wait(bound)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it has not ended within `bound`.
    pub fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + bound;
        // Both outputs are closed once it has ended, and with them the channel.
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("still running after {bound:?}:\n{}", self.seen.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(self.child.wait()?),
            }
        }
    }

    /// Everything that was printed and read so far.
    pub fn seen(&self) -> &[String] {
        &self.seen
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(output: impl Read + Send + 'static, sender: mpsc::SyncSender<String>) {
    std::thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        // Nobody listens any more once the test has failed.
        for line in lines {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
}
