//! Bounds, refusals, and callers that leave.

use crate::client::{ask, later, receive, request, send, until};
use crate::fake::Mode;
use crate::world::{World, plain, v2};
use outrigger_wire::Period;
use std::io::Read;

const CHAT: &str = "/v1/chat/completions";
const PROMPT: &str = r#"{"inputs":[{"name":"x","datatype":"INT64","shape":[1,1],"data":[1]}]}"#;

/// proves A.1, A.2
#[test]
fn what_is_too_much_is_refused_with_a_time_to_come_again() {
    let world = World::start(plain());
    world.engine.close();
    let mut accepted: Vec<_> = (0..2).map(|_| world.later(CHAT, PROMPT)).collect();
    world.until_inside(2);
    for n in 1..=4 {
        accepted.push(world.later(CHAT, PROMPT));
        world.until_waiting(n);
    }
    for (path, body_of_error) in [(CHAT, "/error/message"), ("/v2/models/m/infer", "/error")] {
        let reply = world.post(path, PROMPT);
        assert_eq!((reply.status, reply.reason()), (429, "queue_full"));
        assert!((1..=30).contains(&reply.headers["retry-after"].parse::<u64>().unwrap()));
        assert!(reply.json().pointer(body_of_error).unwrap().is_string(), "{}", reply.body);
    }
    // Nothing of a body is waited for: the head is enough to refuse it.
    for length in ["100", "1000000"] {
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        let reply = receive(&mut send(world.sidecar.address(), head.as_bytes()));
        assert_eq!((reply.status, reply.reason()), (429, "queue_full"));
    }
    let metrics = ask(world.sidecar.admin(), "GET", "/metrics", &[], "").body;
    assert!(metrics.contains("outrigger_sidecar_refused_total{reason=\"queue_full\"} 4"), "{metrics}");
    world.engine.open();
    for reply in accepted {
        assert_eq!(reply.join().unwrap().status, 200);
    }
    until("every counter is back", || {
        let status = world.status();
        status["inFlight"] == 0 && status["queued"] == 0
    });
}

/// proves A.2
#[test]
fn a_wait_that_is_too_long_is_shed_and_a_deadline_is_a_504() {
    let mut serving = plain();
    serving.admission.concurrency = Some(1);
    serving.admission.max_queue_delay = Period::millis(50);
    let world = World::start(serving.clone());
    let first = world.occupy();
    let reply = world.post(CHAT, PROMPT);
    assert_eq!((reply.status, reply.reason()), (429, "queue_delay"));
    serving.admission.max_queue_delay = Period::secs(60);
    serving.timeouts.first_byte = Period::millis(60);
    world.sidecar.set_serving(serving);
    until("the new bound is there", || world.status()["serving"]["timeouts"]["firstByte"] == "60ms");
    let reply = world.post(CHAT, PROMPT);
    assert_eq!((reply.status, reply.reason()), (504, "deadline"));
    assert_eq!(world.engine.calls().len(), 1, "neither reached the engine");
    world.engine.open();
    first.join().unwrap();
}

/// proves A.3
#[test]
fn who_came_first_goes_first() {
    let mut serving = plain();
    serving.admission.concurrency = Some(1);
    serving.admission.max_queue = 16;
    let world = World::start(serving);
    let first = world.occupy();
    let mut replies = Vec::new();
    for i in 1..=8u64 {
        replies.push(later(world.sidecar.address(), CHAT, &[("x-order", &i.to_string())], PROMPT));
        world.until_waiting(i);
    }
    world.engine.open();
    first.join().unwrap();
    for reply in replies {
        assert_eq!(reply.join().unwrap().status, 200);
    }
    let order: Vec<String> = world.engine.calls()[1..]
        .iter()
        .map(|call| call.headers["x-order"].to_str().unwrap().to_owned())
        .collect();
    assert_eq!(order, ["1", "2", "3", "4", "5", "6", "7", "8"]);
}

/// proves A.6, B.7
#[test]
fn a_caller_that_leaves_is_gone_from_the_queue_and_from_the_engine() {
    let mut serving = plain();
    serving.admission.concurrency = Some(1);
    let world = World::start(serving);
    let to = world.sidecar.address();
    world.engine.close();
    let working = send(to, &request("POST", CHAT, &[], PROMPT));
    world.until_inside(1);
    let waiting = send(to, &request("POST", CHAT, &[("x-order", "waits")], PROMPT));
    world.until_waiting(1);
    drop(waiting);
    world.until_waiting(0);
    drop(working);
    until("the engine is left alone", || world.engine.cancelled() == 1);
    world.engine.open();
    assert_eq!(world.post(CHAT, PROMPT).status, 200);
    assert!(!world.engine.calls().iter().any(|c| c.headers.contains_key("x-order")));
}

/// proves A.6
#[test]
fn a_stream_whose_reader_leaves_ends_in_the_engine() {
    let world = World::start(plain());
    world.engine.close();
    let mut stream = send(world.sidecar.address(), &request("POST", "/stream", &[], "{}"));
    let mut seen = Vec::new();
    while !seen.ends_with(b"data: one\n\n\r\n") {
        let mut byte = [0u8; 1];
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
    assert_eq!(world.status()["inFlight"], 1);
    drop(stream);
    until("the engine's stream ends", || (world.engine.inside(), world.engine.cancelled()) == (0, 1));
    until("the place is free", || world.status()["inFlight"] == 0);
}

/// proves A.7
#[test]
fn a_stream_that_stops_ends_with_an_event_of_its_protocol() {
    let mut serving = plain();
    serving.timeouts.idle = Period::millis(50);
    let world = World::start(serving);
    world.engine.close();
    let reply = world.post("/stream", "{}");
    assert_eq!((reply.status, reply.headers["content-type"].as_str()), (200, "text/event-stream"));
    let event = reply.body.strip_prefix("data: one\n\ndata: ").unwrap().trim();
    let error: serde_json::Value = serde_json::from_str(event).unwrap();
    assert_eq!(error["error"]["code"], "idle_timeout");
    assert_eq!(world.state(), "ready");
}

#[test]
fn everything_else_is_streamed_through_both_ways() {
    let world = World::start(plain());
    let reply = world.post("/stream", "{}");
    assert_eq!(reply.body, "data: one\n\ndata: two\n\n");
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(3 << 20));
    let reply = world.post("/anything?a=%20b", &large);
    assert_eq!((reply.status, reply.body.as_str()), (400, r#"{"error":"no inputs"}"#));
    let seen = world.engine.calls().pop().unwrap();
    assert_eq!((seen.path.as_str(), seen.body.len()), ("/anything?a=%20b", large.len()));
    let reply = ask(world.sidecar.address(), "GET", "/v2/models/m", &[], "");
    assert_eq!((reply.status, reply.json()["name"].as_str()), (200, Some("m")));
    assert!(reply.headers.contains_key("endpoint-load-metrics"));
}

/// proves H.3
#[test]
fn an_engine_that_is_busy_is_not_failing() {
    let world = World::start(plain());
    world.engine.mode(Mode::Busy);
    for _ in 0..20 {
        let reply = world.post(CHAT, PROMPT);
        assert_eq!((reply.status, reply.headers["retry-after"].as_str(), reply.reason()), (429, "7", ""));
    }
    assert_eq!(world.state(), "ready");
}

/// A place is given back on every path, so that after a storm every counter is at zero.
#[test]
fn no_counter_drifts() {
    let mut serving = plain();
    serving.timeouts.first_byte = Period::millis(200);
    let world = World::start(serving);
    let to = world.sidecar.address();
    let storm: Vec<_> = (0..60)
        .map(|i| {
            let bytes = request("POST", ["/stream", CHAT, "/v2/models/m/infer"][i % 3], &[], &v2(&[1], None));
            std::thread::spawn(move || {
                let mut stream = send(to, &bytes);
                if i % 4 != 0 {
                    receive(&mut stream);
                }
            })
        })
        .collect();
    for thread in storm {
        thread.join().unwrap();
    }
    until("every counter is back", || {
        let status = world.status();
        status["inFlight"] == 0 && status["queued"] == 0
    });
    world.engine.open();
    assert_eq!(world.post(CHAT, PROMPT).status, 200);
}

/// proves A.2
#[test]
fn a_body_that_is_too_large_is_refused_in_the_protocols_shape() {
    let world = World::start_with(crate::fake::Fake::start(), plain(), |config| config.max_body = 100);
    world.until_state("ready");
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(100));
    for (path, of_error) in [(CHAT, "/error/message"), ("/v2/models/m/infer", "/error")] {
        let reply = world.post(path, &large);
        assert_eq!((reply.status, reply.reason()), (413, "body_too_large"));
        assert!(reply.json().pointer(of_error).unwrap().is_string(), "{}", reply.body);
    }
    // One without a length is measured on its way.
    let piece = format!("40\r\n{}\r\n", "z".repeat(64));
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    let reply =
        receive(&mut send(world.sidecar.address(), format!("{head}{piece}{piece}0\r\n\r\n").as_bytes()));
    assert_eq!((reply.status, reply.reason()), (413, "body_too_large"));
    assert_eq!(world.post(CHAT, PROMPT).status, 200);
    assert_eq!(world.state(), "ready", "that is no fault of the engine's");
}

#[test]
fn refused_heads_are_counted_by_reason() {
    let world = World::start(plain());
    let fields: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    for (head, status) in [
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"), 431),
    ] {
        let reply = receive(&mut send(world.sidecar.address(), head.as_bytes()));
        assert_eq!(reply.status, status);
        let metrics = ask(world.sidecar.admin(), "GET", "/metrics", &[], "").body;
        let line = format!("outrigger_sidecar_refused_total{{reason=\"{}\"}} 1", reply.reason());
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}
