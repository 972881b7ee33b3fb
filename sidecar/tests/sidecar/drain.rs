//! Going away without cutting anything, and the helper's socket.

use crate::client::{ask, receive, request, send, until};
use crate::world::{World, plain};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

fn helper(world: &World, verb: &str, more: &[&str]) -> ExitCode {
    let mut args = vec!["outrigger-helper", verb, "--socket", world.socket.to_str().unwrap()];
    args.extend(more);
    outrigger_helper::main_with(args.into_iter().map(std::ffi::OsString::from))
}

#[test]
fn a_drain_refuses_what_is_new_and_finishes_the_rest() {
    let world = World::start(plain());
    world.engine.close();
    let mut stream = send(world.sidecar.address(), &request("POST", "/stream", &[], "{}"));
    world.until_inside(1);
    assert_eq!(helper(&world, "drain", &[]), ExitCode::SUCCESS);
    let ready = ask(world.sidecar.admin(), "GET", "/readyz", &[], "");
    assert_eq!((ready.status, ready.body.trim()), (503, "draining"));
    // Whom a node still sends here for a moment is served; such a request waits for the engine, and isn't refused.
    let mut late = send(world.sidecar.address(), &request("POST", "/stream", &[], "{}"));
    world.until_inside(2);
    until("nothing new is taken", || world.status()["refusing"] == true);
    let refused = world.post("/v2/models/m/infer", "{}");
    assert_eq!((refused.status, refused.headers["connection"].as_str()), (503, "close"));
    let socket = world.socket.clone();
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let waiting = std::thread::spawn(move || {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(b"wait-drained\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        tell.send(line).unwrap();
    });
    assert!(told.try_recv().is_err(), "the stream has not ended");
    world.engine.open();
    for stream in [&mut stream, &mut late] {
        assert_eq!(receive(stream).body, "data: one\n\ndata: two\n\n", "nothing was cut");
    }
    waiting.join().unwrap();
    assert_eq!(told.recv().unwrap(), "ok\n");
    assert_eq!(helper(&world, "wait-drained", &["--max", "20s"]), ExitCode::SUCCESS);
}

#[test]
fn the_socket_survives_nonsense_and_what_a_predecessor_left() {
    let world = World::start(plain());
    let say = |text: &[u8]| {
        let mut stream = UnixStream::connect(&world.socket).unwrap();
        stream.write_all(text).unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut line = String::new();
        let _ = BufReader::new(stream).read_line(&mut line);
        line
    };
    assert!(say(b"stop\n").starts_with("what?"));
    assert!(say(b"").starts_with("what?"));
    say(&[0xff; 10_000]);
    assert_eq!(say(b"live\n"), "ok\n");
    assert_eq!(world.status()["draining"], false);

    // The socket of a sidecar that was killed is replaced, that of a living one is not.
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    let config = |socket: &std::path::Path| {
        let mut config = crate::world::config(world.engine.address, plain());
        config.socket = Some(socket.to_owned());
        config
    };
    let second = outrigger_sidecar::Sidecar::start(config(&left)).unwrap();
    let error = outrigger_sidecar::Sidecar::start(config(&left)).unwrap_err();
    assert!(format!("{error:#}").contains("--socket"), "{error:#}");
    drop(second);
    assert!(!left.exists(), "it cleans up after itself");
}

/// A stopped sidecar's port is free again, and its engine is left alone.
#[test]
fn a_stop_ends_everything() {
    let world = World::start(plain());
    let address = world.sidecar.address();
    let World { sidecar, engine, .. } = world;
    drop(sidecar);
    assert!(std::net::TcpStream::connect(address).is_err());
    assert!(std::net::TcpStream::connect(engine.address).is_ok());
}
