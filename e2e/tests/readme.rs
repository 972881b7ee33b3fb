//! What the README tells people to type, typed. Ports are free ones instead of the README's; nothing else differs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use outrigger_e2e::markdown::{Block, blocks};
use outrigger_e2e::program::{Running, command, outrigger, root, run};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

/// Longer than anything here takes on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A user who has read the README: a folder, the program in the PATH, and what of the README is different for them.
struct Reader {
    folder: TempDir,
    blocks: Vec<Block>,
    instead: Vec<(String, String)>,
}

impl Reader {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for name in ["outrigger", "outrigger-gateway", "outrigger-sidecar", "outrigger-engine-sim"] {
            symlink(outrigger().unwrap(), bin.join(name)).unwrap();
        }
        let readme = fs::read_to_string(root().join("README.md")).unwrap();
        Self { folder, blocks: blocks(&readme), instead: Vec::new() }
    }

    /// For this reader, `said` is `meant`.
    fn instead(mut self, said: &str, meant: &str) -> Self {
        self.instead.push((said.to_owned(), meant.to_owned()));
        self
    }

    /// The README's only block of this kind that contains `part`.
    fn block(&self, kind: &str, part: &str) -> String {
        let found: Vec<&Block> =
            self.blocks.iter().filter(|b| b.kind == kind && b.text.contains(part)).collect();
        assert_eq!(found.len(), 1, "one {kind} block with {part}");
        self.instead.iter().fold(found[0].text.clone(), |text, (said, meant)| text.replace(said, meant))
    }

    /// Saves the YAML block that contains `part` under the name that the README gives.
    fn save(&self, name: &str, part: &str) {
        let text = self.block("yaml", part);
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// The command of the `sh` block that contains `part`, with `more` behind it.
    fn shell(&self, part: &str, more: &str) -> Command {
        let path = format!("{}:{}", self.folder.path().join("bin").display(), std::env::var("PATH").unwrap());
        // The environment is clean of OUTRIGGER_* variables, as a user's is.
        let clean = command("outrigger").unwrap();
        let mut shell = Command::new("sh");
        for (name, value) in clean.get_envs() {
            assert!(value.is_none());
            shell.env_remove(name);
        }
        shell.arg("-c").arg(format!("exec {} {more}", self.block("sh", part).trim_end()));
        shell.current_dir(self.folder.path()).env("PATH", path);
        shell
    }
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn text(output: &Output) -> String {
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    printed.into_owned()
}

/// `http://127.0.0.1:1234` in a line → `127.0.0.1:1234`.
fn address_in(line: &str) -> String {
    let (_, rest) = line.split_once("http://").expect("the line names an address");
    rest.split([' ', '/', '"']).next().unwrap().to_owned()
}

#[test]
fn the_two_commands_are_the_ones_that_there_are() {
    let reader = Reader::new();
    assert_eq!(reader.block("sh", "cargo run"), "cargo run --release -- up\n");
    assert_eq!(reader.block("sh", "cargo xtask test"), "cargo xtask test\n");
    let help = text(
        &run(command("outrigger")
            .map(|mut c| {
                c.args(["up", "--help"]);
                c
            })
            .unwrap())
        .unwrap(),
    );
    for word in ["--bad", "errors", "latency", "hang", "crash", "--state"] {
        assert!(help.contains(word), "the README names {word}");
    }
}

#[test]
fn a_file_is_planned_served_asked_loaded_and_changed() {
    let reader = Reader::new();
    reader.save("chat.yaml", "kind: ModelDeployment");
    let planned = text(&run(reader.shell("outrigger plan", "")).unwrap());
    assert!(planned.contains("demo") || planned.contains("chat"), "{planned}");

    let mut up =
        Running::start(reader.shell("outrigger up chat.yaml", "--listen 127.0.0.1:0 --state state")).unwrap();
    let line = up.line(PATIENCE, "replica that serves", |line| line.contains(" available ")).unwrap();
    let reader = reader.instead("127.0.0.1:8080", &address_in(&line));
    let answer = text(&run(reader.shell("curl -s", "")).unwrap());
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{answer}"));
    assert_eq!(answer["object"], "chat.completion", "{answer}");

    let url = format!("--url http://{}", address_in(&line));
    let mut load = Running::start(reader.shell("outrigger load", &url)).unwrap();
    text(&run(reader.shell("sed -i", "")).unwrap());
    up.line(PATIENCE, "trial", |line| line.contains(" step 1/2 weight 10%")).unwrap();
    up.line(PATIENCE, "programmed weight", |line| line.contains("weights desired 10% programmed 10%"))
        .unwrap();
    load.interrupt().unwrap();
    let ended = load.wait(PATIENCE).unwrap();
    let told = load.seen().join("\n");
    assert!(ended.success(), "{told}");
    assert!(told.contains("failed       0\n"), "{told}");
    assert!(up.stop(PATIENCE).unwrap().success());
}

/// With the official client, which is set up together with the real engines.
#[cfg(feature = "real-engines")]
#[test]
fn the_python_of_the_readme_gets_its_stream() {
    let reader = Reader::new();
    reader.save("chat.yaml", "kind: ModelDeployment");
    let mut up = Running::start(reader.shell("outrigger up chat.yaml", "--listen 127.0.0.1:0")).unwrap();
    let line = up.line(PATIENCE, "replica that serves", |line| line.contains(" available ")).unwrap();
    let reader = reader.instead("127.0.0.1:8080", &address_in(&line));
    let mut path = Command::new("bash");
    path.arg(root().join("e2e/engines/setup.sh")).args(["path", "clients"]);
    let clients = text(&run(path).unwrap());
    let mut python = Command::new(Path::new(clients.trim()).join("python"));
    python.arg("-c").arg(reader.block("python", "openai"));
    assert!(!text(&run(python).unwrap()).trim().is_empty(), "the stream has text");
    assert!(up.stop(PATIENCE).unwrap().success());
}

/// A completion of this model, asked for at this address: its status and its body.
fn ask(address: &str, model: &str) -> (String, String) {
    let mut ask = Command::new("curl");
    ask.args(["--silent", "--write-out", "\n%{http_code}", "-H", "content-type: application/json", "-d"]);
    ask.arg(format!(r#"{{"model": "{model}", "prompt": "Hello"}}"#));
    ask.arg(format!("http://{address}/v1/completions"));
    let answer = text(&run(ask).unwrap());
    let (body, status) = answer.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

/// The gateway's metrics and the sidecar's, after a few requests went through both as plain programs.
fn parts_alone() -> [String; 2] {
    let (engine, sidecar, gateway) = (free_address(), free_address(), free_address());
    let admins = [free_address(), free_address()];
    let reader = Reader::new()
        .instead("127.0.0.1:8000", &engine)
        .instead("127.0.0.1:9000", &sidecar)
        .instead("127.0.0.1:8090", &gateway);
    reader.save("routes.yaml", "routes:");
    let admin = |at: usize| format!("--admin {}", admins[at]);
    let _gateway = Running::start(reader.shell("outrigger-gateway --config", &admin(0))).unwrap();
    let _sidecar = Running::start(reader.shell("outrigger-sidecar --engine", &admin(1))).unwrap();
    let retry = ["--retry", "60", "--retry-delay", "1", "--retry-all-errors", "--retry-max-time", "60"];
    let get = |url: String| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail"]).args(retry).arg(url);
        text(&run(curl).unwrap())
    };
    admins.iter().for_each(|admin| drop(get(format!("http://{admin}/livez"))));
    let (status, _) = ask(&sidecar, "demo");
    assert_eq!(status, "503", "before its engine is there, a sidecar says so");
    let mut sim = command("outrigger-engine-sim").unwrap();
    sim.args(["--port", engine.rsplit(':').next().unwrap(), "--model", "demo"]);
    let _engine = Running::start(sim).unwrap();
    admins.iter().for_each(|admin| drop(get(format!("http://{admin}/readyz"))));
    let (status, body) = ask(&gateway, "demo");
    assert!(status == "200" && body.contains("text_completion"), "{status} {body}");
    assert_eq!(ask(&gateway, "unheard-of").0, "404");
    for admin in &admins {
        serde_json::from_str::<serde_json::Value>(&get(format!("http://{admin}/status"))).unwrap();
    }
    admins.map(|admin| get(format!("http://{admin}/metrics")))
}

/// `name | type | what it says`, of each family of an OpenMetrics text.
fn families(metrics: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in metrics.lines() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let kind =
            metrics.lines().find_map(|l| l.strip_prefix(&format!("# TYPE {name} "))).unwrap_or("unknown");
        found.push(format!("| `{name}` | {kind} | {help} |"));
    }
    found
}

#[test]
fn the_parts_work_alone_and_docs_list_their_metrics() {
    let path = root().join("docs/metrics.md");
    let mut document = fs::read_to_string(&path).unwrap();
    for (metrics, title) in parts_alone().iter().zip(["## Gateway", "## Sidecar"]) {
        let found = families(metrics);
        assert!(found.len() >= 5, "{metrics}");
        if std::env::var_os("OUTRIGGER_UPDATE_DOCS").is_some() {
            let (before, rest) = document.split_once(title).unwrap();
            let after = rest.split_once("\n## ").map_or(String::new(), |(_, next)| format!("\n## {next}"));
            let table = format!("| name | type | what it says |\n|---|---|---|\n{}", found.join("\n"));
            document = format!("{before}{title}\n\n{table}\n{after}");
        }
        let (_, section) = document.split_once(title).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let listed: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(listed, found, "docs/metrics.md, {title}");
    }
    if std::env::var_os("OUTRIGGER_UPDATE_DOCS").is_some() {
        fs::write(path, document).unwrap();
    }
}

#[test]
fn every_example_is_planned_without_a_complaint() {
    let examples: Vec<_> =
        fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let yaml: Vec<_> = examples.iter().filter(|path| path.extension().is_some_and(|e| e == "yaml")).collect();
    assert!(!yaml.is_empty());
    for path in yaml {
        let text_of = fs::read_to_string(path).unwrap();
        assert!(text_of.starts_with("# "), "{} says at its head what it needs", path.display());
        let mut plan = command("outrigger").unwrap();
        plan.arg("plan").arg(path as &Path);
        text(&run(plan).unwrap());
    }
}
