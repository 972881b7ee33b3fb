//! The engine's health, through real sockets.

use crate::client::{ask, until};
use crate::fake::{Close, Fake, Mode};
use crate::world::{World, plain, v2};
use outrigger_wire::{Period, Serving};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

const INFER: &str = "/v2/models/m/infer";

/// A bound of so many seconds. The shortest that is allowed where something has to be found out; longer where
/// something must not be, so that a busy machine isn't taken for a stuck engine.
fn bound(seconds: u64) -> Serving {
    let mut serving = plain();
    serving.health.stall_after = Period::secs(seconds);
    serving
}

/// Calls again and again until two bounds have passed.
fn for_two_bounds(serving: &Serving, mut again: impl FnMut()) {
    let began = std::time::Instant::now();
    until("two bounds have passed", || {
        again();
        began.elapsed() > 2 * serving.health.stall_after.get()
    });
}

fn live(world: &World) -> String {
    let mut stream = UnixStream::connect(&world.socket).unwrap();
    stream.write_all(b"live\n").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// proves H.4
#[test]
fn ready_means_that_an_inference_was_answered() {
    let engine = Fake::start_at("127.0.0.1:0".parse().unwrap(), false);
    let world = World::start_with(engine, plain(), |_| {});
    until("the warm-up is in the engine", || world.engine.warm_ups() == 1);
    assert_eq!(world.state(), "warming");
    let ready = ask(world.sidecar.admin(), "GET", "/readyz", &[], "");
    assert_eq!(ready.status, 503);
    let reply = world.post(INFER, &v2(&[1], None));
    assert_eq!((reply.status, reply.reason()), (503, "engine_warming"));
    world.engine.open();
    world.until_state("ready");
    assert_eq!(ask(world.sidecar.admin(), "GET", "/readyz", &[], "").status, 200);
    assert_eq!(world.status()["engine"]["warmedBy"], "an inference of zeros");
    assert_eq!(world.post(INFER, &v2(&[1], None)).status, 200);
}

/// proves H.2, H.4
#[test]
fn a_crash_is_noticed_at_once_and_a_new_run_is_warmed_up_anew() {
    let mut world = World::start(plain());
    let address = world.engine.address;
    // The old engine's listener and connections close here.
    world.engine = {
        let placeholder = Fake::start();
        drop(std::mem::replace(&mut world.engine, placeholder));
        let reply = world.post(INFER, &v2(&[1], None));
        assert_eq!(reply.status, 503);
        assert!(["engine_gone", "connect_refused"].contains(&reply.reason()), "{}", reply.reason());
        world.until_state("gone");
        assert_eq!(world.post(INFER, &v2(&[1], None)).reason(), "engine_gone");
        Fake::start_at(address, false)
    };
    until("the new run is warmed up", || world.engine.warm_ups() == 1);
    assert_eq!(
        (world.state().as_str(), world.status()["engine"]["incarnation"].as_u64()),
        ("warming", Some(2))
    );
    world.engine.open();
    world.until_state("ready");
    assert_eq!(world.post(INFER, &v2(&[1], None)).status, 200);
}

fn incarnation(world: &World) -> Option<u64> {
    world.status()["engine"]["incarnation"].as_u64()
}

/// proves H.1
#[test]
fn an_engine_that_closes_idle_connections_is_held_by_fresh_ones() {
    let world = World::start(plain());
    let served = || {
        let reply = world.post(INFER, &v2(&[1], None));
        assert_eq!((reply.status, reply.reason(), world.state().as_str()), (200, "", "ready"));
    };
    let before = world.engine.warm_ups();
    world.engine.close_connections(Close::Silent);
    until("the engine is asked for an inference", || {
        served();
        world.engine.closed() == 1 && world.engine.warm_ups() == before + 1
    });
    // The next end is known for what it is.
    world.engine.close_connections(Close::Silent);
    until("the fresh connection is closed too", || {
        served();
        world.engine.closed() == 2
    });
    served();
    // Any time as anything but ready would have begun another run.
    assert_eq!((world.state().as_str(), incarnation(&world)), ("ready", Some(1)));
}

/// proves H.4
#[test]
fn a_crash_under_load_is_a_new_run_though_the_listener_never_left() {
    let world = World::start(plain());
    let inside = world.occupy();
    world.engine.close_connections(Close::All);
    let reply = inside.join().unwrap();
    assert!(matches!(reply.status, 502 | 503), "{}", reply.status);
    world.until_state("warming");
    assert_eq!(incarnation(&world), Some(2));
    assert_eq!(world.post(INFER, &v2(&[1], None)).reason(), "engine_warming");
    world.engine.open();
    world.until_state("ready");
    assert_eq!(world.post(INFER, &v2(&[1], None)).status, 200);
}

/// proves H.2
#[test]
fn a_hung_engine_is_found_out_and_its_probe_is_told() {
    let world = World::start(bound(1));
    assert_eq!(live(&world), "ok");
    world.engine.mode(Mode::Hang);
    let stuck = world.later(INFER, &v2(&[1], None));
    world.until_state("stalled");
    let reply = stuck.join().unwrap();
    assert_eq!((reply.status, reply.reason()), (504, "engine_stalled"));
    let reply = world.post(INFER, &v2(&[1], None));
    assert_eq!((reply.status, reply.reason()), (503, "engine_stalled"));
    assert_eq!(ask(world.sidecar.admin(), "GET", "/readyz", &[], "").status, 503);
    until("a restart is ordered", || live(&world).starts_with("restart 1 no progress"));
    let args = ["outrigger-helper", "live", "--socket", world.socket.to_str().unwrap()];
    let code = outrigger_helper::main_with(args.iter().map(std::ffi::OsString::from));
    assert_eq!(code, std::process::ExitCode::FAILURE);
    // It comes back by itself: nobody restarts it.
    world.engine.mode(Mode::Echo);
    world.until_state("ready");
    assert_eq!(live(&world), "ok");
}

/// proves H.1
#[test]
fn an_engine_whose_counters_advance_is_busy_and_not_dead() {
    let serving = bound(3);
    let world = World::start(serving.clone());
    world.engine.close();
    let replies: Vec<_> = (0..2).map(|_| world.later(INFER, &v2(&[1], None))).collect();
    world.until_inside(2);
    // Every slot is taken and not even the small inference is answered, but tokens come.
    let mut tokens = 0;
    for_two_bounds(&serving, || {
        tokens += 1;
        *world.engine.told.counter.lock().unwrap() = Some(tokens);
        assert_eq!(world.state(), "ready");
    });
    assert_eq!(live(&world), "ok");
    world.engine.open();
    for reply in replies {
        assert_eq!(reply.join().unwrap().status, 200);
    }
}

/// proves H.1
#[test]
fn lost_metrics_are_no_stall() {
    let serving = bound(3);
    let world = World::start(serving.clone());
    // Nothing shows `/metrics`, and one answer takes long; the engine answers other things meanwhile.
    world.engine.close();
    world.engine.told.probes_pass.store(true, std::sync::atomic::Ordering::Relaxed);
    let slow = world.later(INFER, &v2(&[1], None));
    world.until_inside(1);
    let before = world.engine.warm_ups();
    for_two_bounds(&serving, || {
        assert_eq!(world.state(), "ready");
    });
    assert!(world.engine.warm_ups() > before, "the engine was asked");
    world.engine.open();
    assert_eq!(slow.join().unwrap().status, 200);
}

/// Failing is the breaker's affair, not the ladder's.
#[test]
fn an_engine_that_fails_is_not_restarted() {
    let serving = bound(3);
    let world = World::start(serving.clone());
    world.engine.mode(Mode::Fail);
    for_two_bounds(&serving, || {
        assert_eq!(world.post(INFER, &v2(&[1], None)).status, 500);
    });
    assert_eq!((world.state().as_str(), live(&world).as_str()), ("ready", "ok"));
}
