//! A real cluster, for tests: the one that `cargo xtask cluster up` made, `kind`'s, or the one that `KUBECONFIG` names.
//!
//! A test takes [`Cluster::get`], makes a [`Namespace`] of its own, applies objects, and waits for conditions with
//! [`Cluster::wait_until`], which shows what the cluster looked like when a condition does not come. Pods and Services
//! of a native cluster are reached from the test by their addresses. Faults ([`Cluster::kill`], [`Cluster::unplug`])
//! need a native cluster; what they broke is mended when the guard that they return is dropped.

mod description;
mod faults;
mod namespace;
mod pods;
mod report;
mod wait;

pub use description::{Description, Node};
pub use faults::{Broken, Cable};
pub use namespace::Namespace;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// One question to the API server takes at most this long.
const ANSWERS: &str = "--request-timeout=30s";

/// A cluster that is up.
#[derive(Debug)]
pub struct Cluster {
    description: Description,
    file: PathBuf,
}

impl Cluster {
    /// The cluster, brought up unless it is. `OUTRIGGER_CLUSTER_JSON` names the description that `cargo xtask test`
    /// made; else `cargo xtask cluster up` is run.
    ///
    /// # Errors
    /// When it can't be brought up: with what the machine lacks.
    pub fn get() -> Result<&'static Self> {
        static FOUND: OnceLock<Result<Cluster, String>> = OnceLock::new();
        match FOUND.get_or_init(|| Self::find().map_err(|error| format!("{error:#}"))) {
            Ok(cluster) => Ok(cluster),
            Err(error) => bail!("{error}"),
        }
    }

    /// The cluster, where the test may break its parts. Where the cluster is somebody else's, the test is skipped:
    /// `None`, said in a way that `cargo xtask test` counts; in CI that is a failure.
    ///
    /// # Errors
    /// When it can't be brought up, or may not be skipped.
    pub fn owned() -> Result<Option<&'static Self>> {
        let cluster = Self::get()?;
        if cluster.description.native() {
            return Ok(Some(cluster));
        }
        let why = "this cluster is not made of this machine's processes, so its parts are not broken";
        if in_ci() {
            bail!("in CI nothing is skipped: {why}");
        }
        // Not `println!`, which is captured and not shown where a test passes.
        writeln!(std::io::stdout(), "skipped: real cluster: {why}")?;
        Ok(None)
    }

    fn find() -> Result<Self> {
        let file = match std::env::var_os("OUTRIGGER_CLUSTER_JSON") {
            Some(file) => PathBuf::from(file),
            None => {
                xtask(&["cluster", "up"])?;
                Description::file()?
            }
        };
        Ok(Self { description: Description::read(&file)?, file })
    }

    /// What it consists of, as it was when this test began.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// What it consists of now.
    ///
    /// # Errors
    /// When its description can't be read.
    pub fn now(&self) -> Result<Description> {
        Description::read(&self.file)
    }

    /// A command that runs one of its programs (`kubectl`, `helm`, `ctr`, `prometheus`, ...) against this cluster.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn command<S: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = S>) -> Result<Command> {
        let program = self.description.programs.get(name).with_context(|| format!("no program `{name}`"))?;
        let mut command = Command::new(program);
        command.env("KUBECONFIG", &self.description.kubeconfig).args(args).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs kubectl to its end, whatever it says.
    ///
    /// # Errors
    /// When it can't be run.
    pub fn try_kubectl(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.command("kubectl", args)?;
        // Commands that follow (`logs -f`, `wait`) have bounds of their own, which callers give.
        if !args.iter().any(|arg| arg.starts_with("--request-timeout") || *arg == "wait" || *arg == "exec") {
            command.arg(ANSWERS);
        }
        command.output().context("running kubectl")
    }

    /// Runs kubectl and returns what it prints.
    ///
    /// # Errors
    /// When it fails: with what it says.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        said(&self.try_kubectl(args)?, &format!("kubectl {}", args.join(" ")))
    }

    /// An object or a list: `json(&["get", "pods", "-n", name])`.
    ///
    /// # Errors
    /// When kubectl fails or does not print JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        Ok(serde_json::from_str(&self.kubectl(&args)?)?)
    }

    /// Applies objects (YAML or JSON), in a namespace unless they name one, and returns what kubectl says.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn apply(&self, namespace: &str, objects: &str) -> Result<String> {
        self.feed(&["apply", "-n", namespace, "-f", "-"], objects)
    }

    /// Runs kubectl with a standard input.
    ///
    /// # Errors
    /// When it fails: with what it says.
    pub fn feed(&self, args: &[&str], input: &str) -> Result<String> {
        said(&self.try_feed(args, input)?, &format!("kubectl {}", args.join(" ")))
    }

    /// Runs kubectl with a standard input, whatever it says.
    ///
    /// # Errors
    /// When it can't be run.
    pub fn try_feed(&self, args: &[&str], input: &str) -> Result<Output> {
        let mut command = self.command("kubectl", args)?;
        command.arg(ANSWERS).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("running kubectl")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        Ok(child.wait_with_output()?)
    }

    /// Runs helm and returns what it prints.
    ///
    /// # Errors
    /// When it fails: with what it says.
    pub fn helm(&self, args: &[&str]) -> Result<String> {
        said(&self.try_helm(args)?, &format!("helm {}", args.join(" ")))
    }

    /// Runs helm to its end, whatever it says. Its own files lie in a folder of this process.
    ///
    /// # Errors
    /// When it can't be run.
    pub fn try_helm(&self, args: &[&str]) -> Result<Output> {
        let home = std::env::temp_dir().join(format!("outrigger-helm-{}", std::process::id()));
        let mut command = self.command("helm", args)?;
        for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(name, home.join(name));
        }
        command.output().context("running helm")
    }

    /// A namespace of this test's own, with a name that begins with `prefix`; deleted when dropped.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn namespace(&'static self, prefix: &str) -> Result<Namespace> {
        Namespace::make(self, prefix, &[])
    }

    /// A namespace that enforces the *restricted* Pod Security level.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn restricted_namespace(&'static self, prefix: &str) -> Result<Namespace> {
        Namespace::make(self, prefix, &[("pod-security.kubernetes.io/enforce", "restricted")])
    }

    /// What a container has printed. `args` say which: `&["-l", "app=x", "-c", "engine"]`.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn logs(&self, namespace: &str, args: &[&str]) -> Result<String> {
        let args: Vec<&str> = ["logs", "-n", namespace, "--tail=-1"].iter().chain(args).copied().collect();
        self.kubectl(&args)
    }

    /// Runs a program of a container in it.
    ///
    /// # Errors
    /// When it can't be run or fails.
    pub fn exec(&self, namespace: &str, pod: &str, container: &str, program: &[&str]) -> Result<String> {
        let args: Vec<&str> =
            ["exec", "-n", namespace, pod, "-c", container, "--"].iter().chain(program).copied().collect();
        self.kubectl(&args)
    }

    /// What the audit log says of requests of one user since `begin` (a length of the log, from [`Self::audit_end`]).
    ///
    /// # Errors
    /// When this cluster has no audit log that a test may read.
    pub fn audit(&self, user: &str, begin: u64) -> Result<Vec<Value>> {
        use std::io::{Read as _, Seek as _};
        let mut file = std::fs::File::open(&self.description.audit_log).context("opening the audit log")?;
        file.seek(std::io::SeekFrom::Start(begin))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Ok(events
            .filter(|event| event.pointer("/user/username").and_then(Value::as_str) == Some(user))
            .collect())
    }

    /// Where the audit log ends now.
    ///
    /// # Errors
    /// When this cluster has no audit log that a test may read.
    pub fn audit_end(&self) -> Result<u64> {
        Ok(self.description.audit_log.metadata().context("looking at the audit log")?.len())
    }
}

/// A program that tests run (`helm`, `kubectl`, `kubeconform`), built when it is missing; needs no cluster.
///
/// # Errors
/// When it can't be built.
pub fn program(name: &str) -> Result<PathBuf> {
    let printed = xtask(&["programs", name])?;
    let path = printed.lines().last().map(PathBuf::from).filter(|path| path.is_file());
    path.with_context(|| format!("xtask names no `{name}`: {printed}"))
}

/// Whether a skip is a failure; by the same rule as in `xtask`, which counts the skips.
fn in_ci() -> bool {
    ["CI", "OUTRIGGER_CI"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "false"))
}

/// What a program printed, or that it failed.
fn said(output: &Output, what: &str) -> Result<String> {
    if !output.status.success() {
        let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        bail!("{what}: {}: {}", output.status, String::from_utf8_lossy(&text).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `cargo xtask` of this checkout.
///
/// # Errors
/// When it fails: with what it prints.
pub fn xtask(args: &[&str]) -> Result<String> {
    let mut command = match std::env::var_os("OUTRIGGER_XTASK") {
        // Set by `cargo xtask test`: no cargo between, which would wait for the build that runs this test.
        Some(program) => Command::new(program),
        None => {
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.arg("xtask");
            cargo
        }
    };
    command.args(args).current_dir(crate::program::root()).stdin(Stdio::null());
    said(&command.output().context("running xtask")?, &format!("cargo xtask {}", args.join(" ")))
}

/// Whether a path exists and is not empty.
fn named(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}
