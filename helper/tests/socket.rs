//! What the program makes of every kind of answer, over real sockets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A socket that answers every question with `answer` (`None`: never), and hands back the questions.
fn sidecar(answer: Option<&'static str>) -> (tempfile::TempDir, PathBuf, std::sync::mpsc::Receiver<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let (tell, told) = std::sync::mpsc::sync_channel(8);
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).unwrap(),
                None => silent.push(stream),
            }
            let _ = tell.send(line);
        }
    });
    (folder, path, told)
}

fn run(verb: &str, socket: &Path, more: &[&str]) -> bool {
    let socket = socket.as_os_str().to_owned();
    let mut args: Vec<OsString> = vec!["outrigger-helper".into(), verb.into(), "--socket".into(), socket];
    args.extend(more.iter().map(OsString::from));
    outrigger_helper::main_with(args.into_iter()) == ExitCode::SUCCESS
}

#[test]
fn live_fails_only_on_an_explicit_restart() {
    let (_folder, path, told) = sidecar(Some("restart 3 no progress for 45s\n"));
    assert!(!run("live", &path, &[]));
    assert_eq!(told.recv().unwrap(), "live\n");
    for answer in ["ok\n", "", "restarting soon\n", "\u{fffd}\n", "no\n"] {
        let (_folder, path, _told) = sidecar(Some(answer));
        assert!(run("live", &path, &[]), "{answer:?}");
    }
}

/// A sidecar that is dead, gone, stopped or silent restarts no engine.
#[test]
fn live_succeeds_without_a_sidecar() {
    let folder = tempfile::tempdir().unwrap();
    assert!(run("live", &folder.path().join("none"), &[]), "no socket");
    let path = folder.path().join("dead");
    drop(UnixListener::bind(&path).unwrap());
    assert!(run("live", &path, &[]), "a refused connection");
    let (_folder, path, _told) = sidecar(None);
    assert!(run("live", &path, &[]), "silence");
}

#[test]
fn drain_says_whether_it_began() {
    let (_folder, path, told) = sidecar(Some("ok\n"));
    assert!(run("drain", &path, &[]));
    assert_eq!(told.recv().unwrap(), "drain\n");
    assert!(!run("drain", &path.with_extension("none"), &[]));
}

#[test]
fn wait_drained_is_bounded_and_never_fails() {
    let (_folder, path, told) = sidecar(Some("ok\n"));
    assert!(run("wait-drained", &path, &[]));
    assert_eq!(told.recv().unwrap(), "wait-drained\n");
    let (_folder, path, _told) = sidecar(None);
    assert!(run("wait-drained", &path, &["--max", "50ms"]));
    assert!(run("wait-drained", &path.with_extension("none"), &[]));
}
