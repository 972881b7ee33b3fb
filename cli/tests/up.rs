//! `outrigger up` with a file, as a whole: real processes, real sockets.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod running;

use running::{Up, deployment, kill, wait_until};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A directory with a deployment's file and its state.
struct Place {
    dir: tempfile::TempDir,
    marker: String,
}

impl Place {
    fn new(name: &str) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            marker: format!("outrigger-test-{name}-{}", std::process::id()),
        }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("demo.yaml")
    }

    fn declare(&self, engine: &str, more: &str) {
        deployment(&self.file(), engine, more);
    }

    fn up(&self, more: &[&str]) -> Up {
        let (file, state) = (self.file(), self.dir.path().join("state"));
        let mut args =
            vec![file.to_str().unwrap(), "--listen", "127.0.0.1:0", "--state", state.to_str().unwrap()];
        args.extend(more);
        Up::start(&self.marker, &args)
    }

    fn state(&self) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.dir.path().join("state/state.json")).unwrap()).unwrap()
    }
}

/// The simulated engine, with these further arguments.
fn engine(args: &str) -> String {
    format!(
        "{{kind: vLLM, process: {{command: outrigger-engine-sim, args: [--port, \"{{httpPort}}\", --model, demo]}}, \
         args: [{args}]}}"
    )
}

const ONE: &str = "  serving: {maxDrain: 5s}\n";
const TWO: &str = "  scale: {replicas: 2}\n  serving: {maxDrain: 5s}\n";

/// The address in `available REVISION at http://ADDRESS`.
fn address(line: &str) -> String {
    line.rsplit_once("http://").unwrap().1.trim().to_owned()
}

fn revision(line: &str) -> String {
    line.split(" at ").next().unwrap().rsplit_once(' ').unwrap().1.to_owned()
}

/// Sends a chat completion and returns the open connection.
fn ask(address: &str, tokens: u32) -> TcpStream {
    let body = format!(
        r#"{{"model":"demo","stream":true,"max_tokens":{tokens},"messages":[{{"role":"user","content":"hello"}}]}}"#
    );
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(running::PATIENCE)).unwrap();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream
}

fn whole(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // What was received before a reset counts.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn answers(address: &str) -> bool {
    let answer = whole(ask(address, 2));
    let well = answer.starts_with("HTTP/1.1 200") && answer.contains("data: [DONE]");
    if !well {
        println!("{answer}");
    }
    well
}

/// What the gateway's admin port says of it.
fn status(admin: &str) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(running::PATIENCE)).unwrap();
    write!(stream, "GET /status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    whole(stream)
}

#[test]
fn kill_of_up_leaves_no_process_behind() {
    let place = Place::new("kill");
    // An engine that is a shell whose child has left its session, and that has a worker of its own besides.
    let script =
        format!("setsid sleep 801 & exec {} sim --port {{httpPort}} --model demo --worker", running::BIN);
    place.declare(&format!("{{kind: vLLM, process: {{command: sh, args: [-c, \"{script}\"]}}}}"), ONE);
    let mut up = place.up(&[]);
    let line = up.line(&["available"]);
    assert!(answers(&address(&line)));
    // up, three keepers, gateway, sidecar, engine, its worker, the sleeping one.
    assert!(running::processes(&up.marker).len() >= 9, "{:?}", running::processes(&up.marker));
    up.kill();
}

#[test]
fn a_killed_keeper_takes_its_engine_along_and_both_are_back() {
    let place = Place::new("keeper");
    place.declare(&engine("--worker"), ONE);
    let mut up = place.up(&[]);
    let line = up.line(&["available"]);
    let parents = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).to_owned();
        fields.split_ascii_whitespace().nth(1).and_then(|ppid| ppid.parse::<i32>().ok()).unwrap_or(0)
    };
    let keepers = up.processes("outrigger-keeper");
    let engines = up.processes("engine-sim");
    let keeper = engines.iter().map(|pid| parents(*pid)).find(|parent| keepers.contains(parent)).unwrap();
    kill(keeper);
    up.line(&["EngineEnded", "together with its keeper"]);
    wait_until("the old engine and its worker are gone", || up.processes("engine-sim").is_disjoint(&engines));
    wait_until("it answers", || answers(&address(&line)));
    assert_eq!(up.terminate().code(), Some(0), "{}", up.said());
    up.gone();
}

/// proves H.2
#[test]
fn a_killed_sidecar_and_a_killed_engine_are_back_and_requests_go_on() {
    let place = Place::new("back");
    place.declare(&engine(""), TWO);
    let mut up = place.up(&["--load", "20"]);
    let at = address(&up.line(&["available"]));
    up.ever(&["2/2 replicas ready"]);
    let admin = address(&up.ever(&["metrics http://"])).replace("/metrics", "");
    // Ready is what `up` knows; the gateway hears of it a moment later.
    wait_until("the gateway knows both", || status(&admin).matches("\"address\"").count() >= 2);
    let engines = up.processes("engine-sim");
    let sidecars = up.processes("outrigger-sidecar");
    // From the moment that it is gone, and before anybody has noticed: no request that it had not begun to read
    // fails, as it was never sent.
    // (A dying process loses its memory first and its sockets last: it is gone when it has been reaped.)
    let gone = |pid: i32| wait_until("it is gone", || !Path::new(&format!("/proc/{pid}")).exists());
    let sidecar = *sidecars.iter().next().unwrap();
    kill(sidecar);
    gone(sidecar);
    assert!((0..40).all(|_| answers(&at)), "{}", up.said());
    up.line(&["2/2 replicas ready"]);
    up.ever(&["SidecarEnded"]);
    // A sidecar's death restarts no engine.
    assert_eq!(up.processes("engine-sim"), engines);
    let engine = *engines.iter().next().unwrap();
    kill(engine);
    gone(engine);
    assert!((0..40).all(|_| answers(&at)), "{}", up.said());
    up.line(&["2/2 replicas ready"]);
    up.ever(&["EngineEnded"]);
    assert_eq!(up.terminate().code(), Some(0), "{}", up.said());
    up.gone();
}

#[test]
fn a_second_one_with_the_same_state_is_refused() {
    let place = Place::new("second");
    place.declare(&engine(""), ONE);
    let mut up = place.up(&[]);
    up.line(&["available"]);
    let mut second = place.up(&[]);
    assert_eq!(second.end().code(), Some(64));
    let said = second.said();
    assert!(said.contains("another `outrigger up` uses the state"), "{said}");
    assert_eq!(up.terminate().code(), Some(0));
}

#[test]
fn bad_files_are_refused_with_path_and_line() {
    let place = Place::new("bad");
    let good = "apiVersion: outrigger.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: demo}\nspec:\n  \
                model: {name: demo}\n  engine: {process: {command: sh}}\n";
    let falling = format!(
        "{good}  rollout:\n    steps:\n      - {{weight: 10, hold: 1s}}\n      - {{weight: 5, hold: 1s}}\n"
    );
    let nested = "[".repeat(1 << 20);
    for (text, expected) in [
        (good.replace("command: sh", "command: 7"), vec!["spec.engine.process.command (line 6)"]),
        (
            good.replace("process: {command: sh}", "image: x"),
            vec!["spec.engine.process (line 6)", "required to run on this machine"],
        ),
        (format!("{good}  scale: {{replicas: 2}}\n  scale: {{replicas: 3}}\n"), vec!["line 8"]),
        (format!("{good}  scael: {{replicas: 2}}\n"), vec!["spec.scael (line 7)"]),
        (falling, vec!["spec.rollout.steps[1].weight (line 10)", "10"]),
        (format!("{good}  serving: {{maxDrain: 5 parsecs}}\n"), vec!["spec.serving.maxDrain (line 7)"]),
        (nested, vec!["line 1"]),
        ("this: is: no: YAML\n".to_owned(), vec!["line 1"]),
        (String::new(), vec!["demo.yaml"]),
    ] {
        std::fs::write(place.file(), &text).unwrap();
        let mut up = place.up(&[]);
        assert_eq!(up.end().code(), Some(64), "{:.200}", text);
        let said = up.said();
        for words in expected {
            assert!(said.contains(words), "{words} in {said}");
        }
        assert!(said.len() < 2_000, "{said}");
    }
}

#[test]
fn a_port_that_is_taken_is_named_at_once() {
    let place = Place::new("port");
    place.declare(&engine(""), ONE);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let state = place.dir.path().join("state");
    let file = place.file();
    let args = [file.to_str().unwrap(), "--listen", &address, "--state", state.to_str().unwrap()];
    let mut up = Up::start(&place.marker, &args);
    assert_eq!(up.end().code(), Some(64));
    let said = up.said();
    assert!(said.contains(&format!("can't listen on {address}")) && said.contains("--listen"), "{said}");
    up.gone();
}

#[test]
fn a_program_that_is_not_there_blocks() {
    let place = Place::new("program");
    place.declare("{process: {command: no-such-engine}}", "  rollout: {progressDeadline: 1s}\n");
    let mut up = place.up(&["--exit-when-settled"]);
    up.line(&["blocked", "no-such-engine"]);
    assert_eq!(up.end().code(), Some(4));
    up.gone();
}

#[test]
fn a_first_revision_that_crashes_for_ever_settles_as_blocked() {
    for (name, engine, words) in [
        ("false", "{process: {command: \"false\"}}", "exited with code 1"),
        (
            "taken",
            "{process: {command: sh, args: [-c, \"echo address already in use; exit 3\"]}}",
            "address already in use",
        ),
    ] {
        let place = Place::new(name);
        place.declare(engine, "  rollout: {progressDeadline: 2s}\n");
        let mut up = place.up(&["--exit-when-settled"]);
        up.line(&["blocked", "became ready within 2s", words]);
        assert_eq!(up.end().code(), Some(4), "{}", up.said());
        up.gone();
    }
}

/// A gateway that is stopped as soon as it runs never gets routes: nothing serves, and that is no success.
#[test]
fn without_a_working_gateway_it_does_not_settle_as_serving() {
    let place = Place::new("gateway");
    // The engine starts late enough for the gateway to be stopped before there is anything to serve.
    let stopped = place.dir.path().join("stopped");
    let script = format!(
        "while ! test -e {}; do sleep 0.05; done; exec {} sim --port {{httpPort}} --model demo",
        stopped.display(),
        running::BIN
    );
    let engine = format!("{{kind: vLLM, process: {{command: sh, args: [-c, \"{script}\"]}}}}");
    place.declare(&engine, &format!("{ONE}  rollout: {{progressDeadline: 3s}}\n"));
    let mut up = place.up(&["--exit-when-settled"]);
    wait_until("the gateway runs", || !up.processes("outrigger-gateway").is_empty());
    let stop = |pid: i32| Command::new("kill").args(["-STOP", &pid.to_string()]).status().unwrap();
    assert!(up.processes("outrigger-gateway").into_iter().map(stop).all(|status| status.success()));
    std::fs::write(&stopped, "").unwrap();
    up.line(&["blocked", "no gateway has the present routes"]);
    up.processes("outrigger-gateway").into_iter().for_each(kill);
    assert_eq!(up.end().code(), Some(4), "{}", up.said());
    up.gone();
}

/// A broken edit changes nothing, a hot one restarts nothing, and one of the engine is tried, then promoted by a
/// swap of names.
///
/// proves R.6
#[test]
fn edits_are_taken_as_what_they_are() {
    let place = Place::new("edits");
    // What is shown here is how it goes on when the analysis agrees, so that is made easy for it.
    let rollout = "  rollout:\n    steps: [{weight: 50, hold: 1s}]\n    \
                   analysis: {errorsMargin: 50%, firstTokenMargin: 1000%}\n";
    place.declare(&engine("--seed=1"), &format!("{ONE}{rollout}"));
    let mut up = place.up(&["--load", "150"]);
    let line = up.line(&["available"]);
    let (first, at) = (revision(&line), address(&line));
    let engines = up.processes("engine-sim");

    std::fs::write(place.file(), "kind: ModelDeployment\nspce: {}\n").unwrap();
    up.line(&["FileMistaken", "spce (line 2)"]);
    up.line(&["FileMistaken", "what it said before stays"]);
    assert!(answers(&at));

    place.declare(&engine("--seed=1"), &format!("  serving: {{maxDrain: 6s}}\n{rollout}"));
    up.line(&["Edited", "hot fields"]);
    assert_eq!(up.processes("engine-sim"), engines);
    wait_until("it is stored", || place.state()["generation"] == 2);

    // The reference, by which a first token is slow, needs a hundred of stable's.
    place.declare(&engine("--seed=2"), &format!("{ONE}{rollout}"));
    let line = up.line(&["step 1/1 weight 50%"]);
    assert!(!line.contains(&first));
    up.line(&["weights desired 50% programmed 50%"]);
    let tried = up.processes("engine-sim").difference(&engines).copied().collect();
    up.line(&["promoted"]);
    wait_until("the first revision is gone", || up.processes("engine-sim").is_disjoint(&engines));
    assert_eq!(up.processes("engine-sim"), tried, "the promoted revision's engine was not restarted");
    assert!(answers(&at));
    assert_eq!(up.terminate().code(), Some(0), "{}", up.said());
    let said = up.said();
    assert!(said.contains("failed 0"), "no caller noticed:\n{said}");
}

/// One crash of a canary's engine is nobody's fault: it gets its weight back and is judged on, by its errors. That
/// these were few shows soon or, on a busy machine, late: it is promoted or held, never rolled back.
///
/// proves R.17
#[test]
fn one_crash_is_not_blamed_on_the_canary() {
    let place = Place::new("blame");
    // Only errors are to be judged here; latencies on a busy machine are another matter.
    let more = format!(
        "{ONE}  rollout:\n    steps: [{{weight: 50, hold: 15s, maxHold: 30s}}]\n    \
         analysis: {{firstTokenMargin: 1000%}}\n"
    );
    place.declare(&engine("--seed=1"), &more);
    let mut up = place.up(&["--exit-when-settled"]);
    // The first revision serves, which settles it: on with the second from the same state.
    assert_eq!(up.end().code(), Some(0), "{}", up.said());
    place.declare(&engine("--seed=2"), &more);
    let mut up = place.up(&["--load", "60", "--exit-when-settled"]);
    up.line(&["verdict errors Pass"]);
    let of_canary =
        |pid: &&i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().contains("--seed=2");
    kill(*up.processes("engine-sim").iter().find(of_canary).unwrap());
    up.line(&["restarted, 1 time"]);
    up.line(&["weights desired 50% programmed 50%"]);
    let over = up.either(&["promoted", "still undecided after 30s", "rolled back"]);
    assert!(!over.contains("rolled back"), "{}", up.said());
    up.ever(&["EngineEnded"]);
}

/// proves R.7, R.8
#[test]
fn a_rollout_resumes_after_kill_9() {
    let place = Place::new("resume");
    let more = format!("{ONE}  rollout:\n    steps: [{{weight: 20, hold: 1s}}, {{weight: 50, hold: 1s}}]\n");
    place.declare(&engine("--seed=1"), &more);
    let mut up = place.up(&[]);
    let stable = revision(&up.line(&["available"]));
    place.declare(&engine("--seed=2"), &more);
    up.line(&["step 1/2 weight 20%"]);
    up.line(&["weights desired 20% programmed 20%"]);
    up.kill();
    let before = place.state();
    let canary = before["status"]["canary"]["revision"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        let mut up = place.up(&[]);
        // At the same step, its weight following the replicas that have to start again.
        up.line(&[&canary, "step 1/2 weight 20%"]);
        up.line(&["weights desired 20% programmed 20%"]);
        up.kill();
        let after = place.state();
        assert_eq!(after["status"]["stable"], stable.as_str());
        assert_eq!(after["status"]["canary"]["step"], 0, "without traffic no step advances");
        assert_eq!(after["status"]["canary"]["started"], before["status"]["canary"]["started"]);
        assert_eq!(after["generation"], before["generation"]);
        assert!(after["status"]["serial"].as_u64() > before["status"]["serial"].as_u64());
    }
}

/// proves R.16
#[test]
fn the_first_signal_drains() {
    let place = Place::new("drain");
    place.declare(&engine("--iteration=40ms"), "  serving: {maxDrain: 20s}\n");
    let mut up = place.up(&[]);
    let at = address(&up.line(&["available"]));
    // About two seconds of tokens.
    let stream = ask(&at, 50);
    let mut first = [0; 1];
    stream.peek(&mut first).unwrap();
    assert_eq!(up.terminate().code(), Some(0));
    let answer = whole(stream);
    assert!(answer.contains("data: [DONE]"), "{answer}");
    up.gone();
}

#[test]
fn the_second_signal_ends_at_once() {
    let place = Place::new("abort");
    place.declare(&engine("--iteration=100ms"), "  serving: {maxDrain: 1h}\n");
    let mut up = place.up(&[]);
    let at = address(&up.line(&["available"]));
    // Minutes of tokens.
    let stream = ask(&at, 5_000);
    stream.peek(&mut [0; 1]).unwrap();
    let pid = up.child.id().to_string();
    let signal = || assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    signal();
    up.line_within(&["stopping"], Duration::from_secs(20));
    signal();
    assert_eq!(up.end().code(), Some(130));
    up.gone();
}
