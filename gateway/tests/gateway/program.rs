//! The program by itself: a file in, requests served, a signal, the end.

use crate::client::Client;
use crate::set_up::{AT_MOST, eventually, soon};
use crate::upstream::Upstream;
use http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger-gateway"));
    command.env_clear().kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The address under this name in the line that says that it serves.
async fn addresses(child: &mut Child) -> (std::net::SocketAddr, std::net::SocketAddr) {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = soon("the line that says where it serves", async {
        loop {
            let line = lines.next_line().await.unwrap().expect("it goes on");
            let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
            if said["message"] == "serving" {
                return said;
            }
        }
    })
    .await;
    // Whatever else it says is read, so that it never waits for a reader.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let of = |name: &str| said[name].as_str().unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    (of("listen"), of("admin"))
}

/// A file says where requests go; nothing else runs.
#[tokio::test]
async fn it_serves_alone_and_ends_on_a_signal() {
    let upstream = Upstream::new("a").await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("routes.yaml");
    let yaml = format!(
        "routes:\n- deployment: default/chat\n  model: m\n  stable:\n    revision: v1\n    endpoints:\n    - {{id: a, address: \"{}\"}}\n",
        upstream.address
    );
    std::fs::write(&file, yaml).unwrap();
    let mut child = program()
        .args(["--listen", "127.0.0.1:0", "--threads", "2", "--config"])
        .arg(&file)
        .env("OUTRIGGER_ADMIN", "127.0.0.1:0")
        .spawn()
        .unwrap();
    let (listen, admin) = addresses(&mut child).await;
    eventually("readyz", async || {
        (Client::connect(admin).await.get("/readyz").await.status == StatusCode::OK).then_some(())
    })
    .await;
    let mut client = Client::connect(listen).await;
    assert_eq!(client.chat(&[]).await.by(), "a");

    // A stream that runs when the signal comes is finished.
    let events = upstream.streams();
    let running = client.begin(crate::client::chat(&[])).await;
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    eventually("unready", async || {
        (Client::connect(admin).await.get("/readyz").await.status == StatusCode::SERVICE_UNAVAILABLE)
            .then_some(())
    })
    .await;
    events.send(Ok("data: last\n\n".into())).await.unwrap();
    drop(events);
    #[allow(clippy::disallowed_methods, reason = "one event")]
    let rest = soon("the stream's end", http_body_util::BodyExt::collect(running.into_body())).await.unwrap();
    assert_eq!(rest.to_bytes(), "data: last\n\n");
    drop(client);
    assert!(soon("the end", child.wait()).await.unwrap().success());
}

/// All mistakes at once, each naming what is allowed, and the status that says that it was called wrongly.
#[tokio::test]
async fn a_wrong_call_is_told_what_is_wrong() {
    let output = program().args(["--listen", "here"]).env("OUTRIGGER_LISTN", "x").output();
    let output = tokio::time::timeout(AT_MOST, output).await.unwrap().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{said}");
    for word in ["OUTRIGGER_LISTN", "--listen", "--config"] {
        assert!(
            said.lines().any(|line| line.contains(word) && line.contains("allowed: ")),
            "{word} in {said}"
        );
    }
    let output = program().arg("--colour").output().await.unwrap();
    assert_eq!(output.status.code(), Some(64));
    let output = program().arg("--help").output().await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("routes:"));
}
