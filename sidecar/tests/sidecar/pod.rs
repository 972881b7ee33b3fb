//! The program as it runs in a pod: the helper is put in place, SIGTERM finishes what is in flight, and the next one
//! takes over beside the same engine.

use crate::client::{self, PATIENCE, receive, request, send, until};
use crate::fake::Fake;
use crate::table::Planner;
use crate::world::plain;
use outrigger_wire::Period;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// The image's folder, and the volume that both containers share.
struct Pod {
    folder: tempfile::TempDir,
    engine: Fake,
}

/// A running sidecar. Dropping it kills it.
struct Program {
    child: Child,
    data: SocketAddr,
    admin: SocketAddr,
}

fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Pod {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["image", "volume", "state"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::copy(env!("CARGO_BIN_EXE_outrigger-sidecar"), folder.path().join("image/outrigger-sidecar"))
            .unwrap();
        Self { folder, engine: Fake::start() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Another program stands for the helper: what it does is tested elsewhere.
    fn with_helper(&self, program: &str) {
        let to = self.path("image/outrigger-helper");
        let _ = std::fs::remove_file(&to);
        std::fs::copy(program, to).unwrap();
    }

    fn command(&self, data: SocketAddr, admin: SocketAddr) -> Command {
        let mut command = Command::new(self.path("image/outrigger-sidecar"));
        command
            .env("OUTRIGGER_LISTEN", format!(":{}", data.port()))
            .env("OUTRIGGER_ADMIN", format!(":{}", admin.port()))
            .env("OUTRIGGER_ENGINE", self.engine.address.to_string())
            .env("OUTRIGGER_MODEL", "m")
            .env("OUTRIGGER_ENDPOINT", "e")
            .env("OUTRIGGER_SOCKET", self.path("volume/sidecar.sock"))
            .env("OUTRIGGER_HELPER", self.path("volume/helper"))
            .env("OUTRIGGER_STATE_DIR", self.path("state"))
            .stderr(Stdio::piped());
        command
    }

    fn start(&self, change: impl FnOnce(&mut Command)) -> Program {
        let (data, admin) = (free(), free());
        let mut command = self.command(data, admin);
        command.stderr(Stdio::null());
        change(&mut command);
        let program = Program { child: command.spawn().unwrap(), data, admin };
        until("the engine is ready", || program.status().is_some_and(|s| s["engine"]["state"] == "ready"));
        program
    }

    /// What the engine's container is told.
    fn live(&self) -> bool {
        let socket = self.path("volume/sidecar.sock");
        let args = ["outrigger-helper", "live", "--socket", socket.to_str().unwrap()];
        let code = outrigger_helper::main_with(args.into_iter().map(std::ffi::OsString::from));
        code == std::process::ExitCode::SUCCESS
    }
}

impl Program {
    fn status(&self) -> Option<serde_json::Value> {
        std::net::TcpStream::connect(self.admin).ok()?;
        Some(client::ask(self.admin, "GET", "/status", &[], "").json())
    }

    fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    fn ended(&mut self) -> bool {
        let mut ended = None;
        until("it ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap().success()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// proves H.5
#[test]
fn one_sidecar_follows_another_and_the_engine_notices_nothing() {
    let pod = Pod::new();
    pod.with_helper("/bin/sleep");
    let mut first = pod.start(|_| {});
    let (helper, socket) = (pod.path("volume/helper"), pod.path("volume/sidecar.sock"));
    assert_eq!(mode(&helper), 0o755);
    // The kubelet runs it at this moment.
    let mut probe = Command::new(&helper).arg("60").spawn().unwrap();
    pod.engine.close();
    let mut stream = send(first.data, &request("POST", "/stream", &[], "{}"));
    until("it is in the engine", || pod.engine.inside() == 1);
    assert!(pod.live());
    first.terminate();
    until("it takes nothing new", || first.status().is_none_or(|status| status["draining"] == true));
    assert!(pod.live(), "one that drains is no reason to restart an engine");
    assert!(first.child.try_wait().unwrap().is_none(), "the stream goes on");
    pod.engine.open();
    assert_eq!(receive(&mut stream).body, "data: one\n\ndata: two\n\n", "nothing was cut");
    assert!(first.ended());
    assert!(!socket.exists() && pod.live(), "silence is success");
    pod.with_helper("/bin/true");
    let began = Instant::now();
    let second = pod.start(|_| {});
    assert!(began.elapsed().as_secs() < 2, "warmed again after {:?}", began.elapsed());
    assert!(socket.exists() && pod.live());
    assert!(Command::new(&helper).status().unwrap().success(), "it is the new one's");
    assert!(probe.try_wait().unwrap().is_none());
    assert_eq!(second.status().unwrap()["engine"]["restartsOrdered"], 0);
    probe.kill().unwrap();
    probe.wait().unwrap();
}

#[test]
fn a_sidecar_that_was_killed_is_followed_as_well() {
    let pod = Pod::new();
    pod.with_helper("/bin/true");
    let mut first = pod.start(|_| {});
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert!(pod.path("volume/sidecar.sock").exists() && pod.live(), "what it left refuses: success");
    drop(pod.start(|_| {}));
}

#[test]
fn a_missing_helper_is_named_before_anything_begins() {
    let pod = Pod::new();
    let output = pod.command(free(), free()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--helper") && said.contains("has to lie beside this program"), "{said}");
    assert!(!pod.path("volume/sidecar.sock").exists());
}

/// How long a drain may take is what the table said last.
#[test]
fn the_longest_drain_is_hot() {
    let (pod, planner) = (Pod::new(), Planner::start());
    pod.with_helper("/bin/true");
    planner.publish(1, plain());
    let mut sidecar = pod.start(|command| {
        command.env("OUTRIGGER_TABLE", planner.address.to_string());
    });
    let mut serving = plain();
    serving.max_drain = outrigger_wire::serving::MaxDrain(Period::millis(200));
    planner.publish(2, serving);
    until("it has arrived", || sidecar.status().is_some_and(|status| status["serial"] == 2));
    pod.engine.close();
    let _stream = send(sidecar.data, &request("POST", "/stream", &[], "{}"));
    until("it is in the engine", || pod.engine.inside() == 1);
    let began = Instant::now();
    sidecar.terminate();
    sidecar.ended();
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
}

/// Nothing that comes over the network begins a drain or a restart.
#[test]
fn the_network_cannot_begin_a_drain() {
    let pod = Pod::new();
    pod.with_helper("/bin/true");
    let sidecar = pod.start(|_| {});
    for to in [sidecar.data, sidecar.admin] {
        for path in ["/drain", "/quitquitquit", "/stop", "/shutdown", "/-/quit", "/restart", "/wait-drained"]
        {
            for method in ["GET", "POST", "PUT", "DELETE"] {
                client::ask(to, method, path, &[], "drain\n");
            }
        }
        use std::io::Write;
        let mut raw = std::net::TcpStream::connect(to).unwrap();
        raw.write_all(b"drain\n").unwrap();
    }
    let status = sidecar.status().unwrap();
    assert_eq!((&status["draining"], &status["engine"]["restart"]), (&false.into(), &().into()), "{status}");
}
