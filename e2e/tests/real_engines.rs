//! Real engines through gateway and sidecar, driven by their official clients. `cargo xtask test` sets up what they
//! need and runs these tests one at a time: two vLLMs fill a small machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use outrigger_e2e::program::{Running, command, root};
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A vLLM starts in a minute on two idle cores; a bound, not an expectation.
const STARTS: Duration = Duration::from_secs(300);
/// A step of ten seconds and what the analysis wants to see; a bound.
const SETTLES: Duration = Duration::from_secs(240);
/// Clients need seconds; a bound.
const ANSWERS: Duration = Duration::from_secs(120);
/// Longer than the examples' `maxDrain`.
const STOPS: Duration = Duration::from_secs(60);

/// What vLLM says when it listens, before the address.
const LISTENS: &str = "Starting vLLM server on ";

/// The folder of an environment's programs, or why there is none.
fn environment(name: &str) -> Result<PathBuf, String> {
    let script = root().join("e2e/engines/setup.sh");
    let output = Command::new("bash").arg(script).args(["path", name]).output().unwrap();
    if output.status.success() {
        return Ok(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()));
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// The environments of an engine and of the clients. Absent where they aren't set up: then the test is skipped and
/// says so, past the capture of a test's output; in CI that is a failure.
fn environments(engine: &str) -> Option<(PathBuf, PathBuf)> {
    match environment(engine).and_then(|engine| Ok((engine, environment("clients")?))) {
        Ok(both) => Some(both),
        Err(why) => {
            let ci = ["CI", "OUTRIGGER_CI"].iter().any(|name| std::env::var_os(name).is_some());
            assert!(!ci, "in CI nothing is skipped: {why}");
            // Not `println!`, which is captured and not shown where a test passes.
            let mut out = std::io::stdout();
            writeln!(out, "skipped: real {engine}: {why}").unwrap();
            None
        }
    }
}

/// `outrigger up` with an example.
struct Up {
    program: Running,
    file: PathBuf,
    folder: TempDir,
    gateway: String,
}

impl Up {
    /// Starts it and waits until the first revision serves.
    fn start(example: &str, programs: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(example);
        std::fs::copy(root().join("examples").join(example), &file).unwrap();
        let mut up = command("outrigger").unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut paths = vec![programs.to_owned()];
        paths.extend(std::env::split_paths(&path));
        up.arg("up").arg(&file).args(["--plain", "--listen", "127.0.0.1:0", "--state"]);
        up.arg(folder.path().join("state")).env("PATH", std::env::join_paths(paths).unwrap());
        let mut program = Running::start(up).unwrap();
        let line =
            program.line(STARTS, "gateway's address", |line| line.starts_with("gateway http://")).unwrap();
        let gateway = line.trim_start_matches("gateway ").to_owned();
        let up = Self { program, file, folder, gateway };
        up.until_available()
    }

    fn until_available(mut self) -> Self {
        let available = self.program.line(STARTS, "serving revision", |line| line.contains(" available "));
        if let Err(error) = available {
            panic!("{error:#}\n{}", self.logs());
        }
        self
    }

    /// What the children of that kind printed.
    fn log(&self, kind: &str) -> String {
        let logs = std::fs::read_dir(self.folder.path().join("state/logs")).unwrap();
        let logs = logs.map(|entry| entry.unwrap().path());
        let of_kind = logs.filter(|path| path.to_string_lossy().ends_with(&format!("-{kind}.log")));
        of_kind.map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()).collect()
    }

    /// For a failure's message: the last of what engines and sidecars said.
    fn logs(&self) -> String {
        let last = |text: String| {
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.iter().skip(lines.len().saturating_sub(30)).cloned().collect::<Vec<_>>().join("\n")
        };
        format!("engine:\n{}\nsidecar:\n{}", last(self.log("engine")), last(self.log("sidecar")))
    }

    /// Runs a client program to its end; it must be content.
    fn ask(&self, clients: &Path, args: &[OsString]) {
        let mut client = client(clients, args);
        let ended = client.wait(ANSWERS);
        let seen = client.seen().join("\n");
        match ended {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("{args:?}: {status}\n{seen}\n{}", self.logs()),
            Err(error) => panic!("{args:?}: {error:#}\n{}", self.logs()),
        }
    }

    fn stop(self) {
        let status = self.program.stop(STOPS).unwrap();
        assert!(status.success(), "{status}");
    }
}

/// A client program of `e2e/engines`.
fn client(clients: &Path, args: &[OsString]) -> Running {
    let mut client = Command::new(clients.join("python"));
    client.args(args).current_dir(root().join("e2e/engines")).stdin(Stdio::null());
    Running::start(client).unwrap()
}

fn args(all: &[&str]) -> Vec<OsString> {
    all.iter().map(OsString::from).collect()
}

/// The address behind `before` in a log.
fn address<'a>(log: &'a str, before: &str) -> &'a str {
    let (_, rest) = log.split_once(before).unwrap_or_else(|| panic!("no {before} in\n{log}"));
    rest.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).next().unwrap()
}

/// proves A.6
#[test]
fn vllm_answers_openai_clients_and_a_canary_of_it_is_promoted_under_traffic() {
    let Some((programs, clients)) = environments("vllm") else { return };
    let mut up = Up::start("vllm-cpu.yaml", &programs);
    let engine = format!("http://{}", address(&up.log("engine"), &format!("{LISTENS}http://")));
    up.ask(&clients, &args(&["vllm_client.py", "check", &up.gateway, &engine]));

    let mut traffic = client(&clients, &args(&["vllm_client.py", "traffic", &up.gateway]));
    traffic
        .line(ANSWERS, "answered chat", |line| line.starts_with("chats ") && !line.starts_with("chats 0 "))
        .unwrap();
    let spec = std::fs::read_to_string(&up.file).unwrap();
    let changed = spec.replace("--max-num-seqs=32", "--max-num-seqs=24");
    assert_ne!(spec, changed);
    std::fs::write(&up.file, changed).unwrap();
    let step = |line: &str| line.contains(" canary ") && line.contains("weight 50%");
    up.program.line(STARTS, "canary", step).unwrap_or_else(|e| panic!("{e:#}\n{}", up.logs()));
    let ends =
        |line: &str| [" promoted ", " rolled back ", " blocked"].iter().any(|word| line.contains(word));
    let end = up.program.line(STARTS + SETTLES, "end of the canary", ends);
    let end = end.unwrap_or_else(|e| panic!("{e:#}\n{:?}\n{}", traffic.seen().last(), up.logs()));
    assert!(end.contains(" promoted "), "{end}\n{}", up.program.seen().join("\n"));

    // Not one chat failed on the way, and the promoted one answers as the first did.
    let status = traffic.stop(ANSWERS).unwrap();
    assert!(status.success(), "chats failed: {status}");
    up.ask(&clients, &args(&["vllm_client.py", "check", &up.gateway, &promoted_engine(&up, &engine)]));
    up.stop();
}

/// The engine that listens elsewhere than the first one.
fn promoted_engine(up: &Up, first: &str) -> String {
    let log = up.log("engine");
    let addresses = log.split(LISTENS).skip(1).map(|rest| format!("http://{}", address(rest, "http://")));
    let second = addresses.into_iter().find(|address| address != first);
    second.unwrap_or_else(|| panic!("no second engine in\n{log}"))
}

/// proves B.5
#[test]
fn mlserver_answers_triton_clients_each_with_its_own_rows_out_of_batches() {
    let Some((programs, clients)) = environments("mlserver") else { return };
    let up = Up::start("mlserver-sklearn.yaml", &programs);
    up.ask(&clients, &args(&["mlserver_client.py", &up.gateway]));
    let metrics = get(address(&up.log("sidecar"), "\"admin\":\""), "/metrics");
    let counted = |name: &str| {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("no {name}:\n{metrics}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let (batches, requests) =
        (counted("outrigger_sidecar_batches_total"), counted("outrigger_sidecar_batched_requests_total"));
    assert!(batches > 0.0 && requests >= 2.0 * batches, "{requests} requests in {batches} batches");
    up.stop();
}

/// A page of an admin port.
fn get(address: &str, path: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(ANSWERS)).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    socket.read_to_string(&mut page).unwrap();
    page
}
