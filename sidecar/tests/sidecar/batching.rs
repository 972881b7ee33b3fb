//! Requests that are merged, and those that aren't.

use crate::client::{later, request, send, until};
use crate::fake::Mode;
use crate::world::{World, batched, rows, v2};

const V2: &str = "/v2/models/m/infer";

/// proves B.3
#[test]
fn a_lone_request_goes_at_once_and_untouched() {
    let world = World::start(batched(1));
    let body = v2(&[1, 2], Some("mine"));
    // The window is ten seconds, and the reader's patience shorter than two of them.
    for _ in 0..3 {
        let reply = world.post(V2, &body);
        assert_eq!((reply.status, reply.headers["x-engine"].as_str()), (200, "fake"));
    }
    let calls = world.engine.calls();
    assert_eq!(calls.len(), 3);
    assert_eq!(calls[0].body, body, "byte for byte");
}

/// proves B.5, B.6
#[test]
fn everybody_gets_its_own_rows_id_and_digits() {
    let world = World::start(batched(1));
    let first = world.occupy();
    let sent: [(&[i64], Option<&str>); 3] =
        [(&[9_007_199_254_740_993], Some("a")), (&[2, 3], None), (&[-4, 5, 6], Some("c"))];
    let replies: Vec<_> = sent
        .iter()
        .enumerate()
        .map(|(i, (data, id))| {
            let reply = world.later(V2, &v2(data, *id));
            world.until_waiting(i as u64 + 1);
            reply
        })
        .collect();
    world.engine.open();
    assert_eq!(rows(&first.join().unwrap()), [0]);
    for (reply, (data, id)) in replies.into_iter().zip(sent) {
        let reply = reply.join().unwrap();
        assert_eq!((reply.status, rows(&reply)), (200, data.to_vec()));
        assert_eq!(reply.json()["id"], id.unwrap_or("engine"));
        assert_eq!(reply.json()["model_name"], "m");
        assert_eq!(reply.headers["content-type"], "application/json");
        assert_eq!(reply.headers["x-engine"], "fake", "the engine's headers survive");
        assert!(reply.headers["endpoint-load-metrics"].starts_with("TEXT application_utilization="));
    }
    let calls = world.engine.calls();
    assert_eq!(calls.len(), 2, "three requests in one call");
    assert_eq!(calls[1].body, v2(&[9_007_199_254_740_993, 2, 3, -4, 5, 6], None));
}

/// proves B.5, B.6
#[test]
fn v1_is_merged_too() {
    let world = World::start(batched(1));
    let first = world.occupy();
    let one = world.later("/v1/models/m:predict", r#"{"instances":[[9007199254740993],"a"]}"#);
    world.until_waiting(1);
    let two = world.later("/v1/models/m:predict", r#"{"instances":[{"b":1.5}]}"#);
    world.until_waiting(2);
    world.engine.open();
    first.join().unwrap();
    assert_eq!(one.join().unwrap().body, r#"{"model_version":"3","predictions":[[9007199254740993],"a"]}"#);
    assert_eq!(two.join().unwrap().body, r#"{"model_version":"3","predictions":[{"b":1.5}]}"#);
    assert_eq!(world.engine.calls().len(), 2);
}

/// proves B.1
#[test]
fn what_differs_goes_in_calls_of_its_own() {
    let world = World::start(batched(1));
    let first = world.occupy();
    let to = world.sidecar.address();
    let plain = v2(&[1], None);
    let typed = plain.replace("INT64", "INT32");
    let with = plain.replace("]}]}", "]}],\"parameters\":{\"p\":1}}");
    type Headers = &'static [(&'static str, &'static str)];
    let requests: [(&str, Headers, &str); 8] = [
        (V2, &[], &plain),
        ("/v2/models/other/infer", &[], &plain),
        ("/v2/models/m/versions/2/infer", &[], &plain),
        ("/v2/models/m/infer?x=1", &[], &plain),
        (V2, &[("authorization", "Bearer a")], &plain),
        (V2, &[("authorization", "Bearer b")], &plain),
        (V2, &[], &typed),
        (V2, &[], &with),
    ];
    let mut replies = Vec::new();
    for (i, (path, headers, body)) in requests.iter().enumerate() {
        replies.push(later(to, path, headers, body));
        world.until_waiting(i as u64 + 1);
    }
    // Who differs only in who carried it is welcome.
    replies.push(later(to, V2, &[("traceparent", "00-1-2-01"), ("x-request-id", "9")], &plain));
    world.until_waiting(9);
    world.engine.open();
    first.join().unwrap();
    for reply in replies {
        let reply = reply.join().unwrap();
        assert_eq!((reply.status, rows(&reply)), (200, vec![1]));
    }
    let calls = world.engine.calls();
    assert_eq!(calls.len(), 1 + 8);
    let a = calls.iter().find(|c| c.headers.get("authorization").is_some_and(|v| v == "Bearer a")).unwrap();
    assert_eq!(a.body, plain, "alone, so untouched");
}

/// proves B.2
#[test]
fn a_batch_never_holds_more_rows_than_allowed() {
    let world = World::start(batched(1));
    let first = world.occupy();
    let mut replies = Vec::new();
    for (i, n) in [5usize, 3, 1, 7, 9, 2].into_iter().enumerate() {
        replies.push((n, world.later(V2, &v2(&vec![i as i64; n], None))));
        world.until_waiting(i as u64 + 1);
    }
    world.engine.open();
    first.join().unwrap();
    for (i, (n, reply)) in replies.into_iter().enumerate() {
        assert_eq!(rows(&reply.join().unwrap()), vec![i as i64; n]);
    }
    let mut sizes: Vec<i64> = world.engine.calls()[1..]
        .iter()
        .map(|c| {
            serde_json::from_str::<serde_json::Value>(&c.body).unwrap()["inputs"][0]["shape"][0]
                .as_i64()
                .unwrap()
        })
        .collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [2, 8, 8, 9], "nine go alone, unsplit");
}

/// proves B.4
#[test]
fn several_batches_are_in_the_engine_at_once() {
    let world = World::start(batched(3));
    let first = world.occupy();
    let full = vec![1i64; 8];
    let more: Vec<_> = (0..2).map(|_| world.later(V2, &v2(&full, None))).collect();
    world.until_inside(3);
    let fourth = world.later(V2, &v2(&full, None));
    world.until_waiting(1);
    assert_eq!(world.engine.inside(), 3, "as many as the engine takes");
    world.engine.open();
    for reply in more.into_iter().chain([first, fourth]) {
        assert_eq!(reply.join().unwrap().status, 200);
    }
}

/// proves B.5
#[test]
fn a_bad_row_fails_the_one_who_sent_it() {
    let world = World::start(batched(1));
    world.engine.mode(Mode::Picky);
    let first = world.occupy();
    let replies: Vec<_> = [1, 666, 3]
        .into_iter()
        .enumerate()
        .map(|(i, n)| {
            let reply = world.later(V2, &v2(&[n], None));
            world.until_waiting(i as u64 + 1);
            reply
        })
        .collect();
    world.engine.open();
    first.join().unwrap();
    let replies: Vec<_> = replies.into_iter().map(|r| r.join().unwrap()).collect();
    assert_eq!(replies.iter().map(|r| r.status).collect::<Vec<_>>(), [200, 400, 200]);
    assert_eq!(replies[1].body, r#"{"error":"beast"}"#);
    assert_eq!((rows(&replies[0]), rows(&replies[2])), (vec![1], vec![3]));
    assert_eq!(world.engine.calls().len(), 1 + 1 + 3, "the batch, then each once more");
}

/// proves B.5
#[test]
fn an_error_of_the_engine_stays_one() {
    for (mode, status, calls) in [(Mode::Fail, 500, 4), (Mode::Busy, 429, 2)] {
        let world = World::start(batched(1));
        let first = world.occupy();
        let one = world.later(V2, &v2(&[1], None));
        world.until_waiting(1);
        let two = world.later(V2, &v2(&[2], None));
        world.until_waiting(2);
        world.engine.mode(mode);
        world.engine.open();
        for reply in [first, one, two] {
            let reply = reply.join().unwrap();
            assert_eq!((reply.status, reply.reason()), (status, ""), "{mode:?}");
            assert_eq!(reply.headers.contains_key("retry-after"), mode == Mode::Busy);
        }
        assert_eq!(world.engine.calls().len(), calls, "{mode:?}");
    }
}

/// proves B.5
#[test]
fn a_wrong_count_is_a_502_that_names_both() {
    let world = World::start(batched(1));
    let first = world.occupy();
    let one = world.later(V2, &v2(&[1], None));
    world.until_waiting(1);
    let two = world.later(V2, &v2(&[2, 3], None));
    world.until_waiting(2);
    world.engine.mode(Mode::Short);
    world.engine.open();
    first.join().unwrap();
    for reply in [one, two] {
        let reply = reply.join().unwrap();
        assert_eq!((reply.status, reply.reason()), (502, "row_count_mismatch"));
        let message = reply.json()["error"].as_str().unwrap().to_owned();
        assert!(message.contains("3 rows") && message.contains('2'), "{message}");
    }
}

#[test]
fn an_answer_that_is_no_inference_is_asked_for_singly() {
    let world = World::start(batched(1));
    let first = world.occupy();
    let one = world.later(V2, &v2(&[1], None));
    world.until_waiting(1);
    let two = world.later(V2, &v2(&[2], None));
    world.until_waiting(2);
    world.engine.mode(Mode::Odd);
    world.engine.open();
    for reply in [first, one, two] {
        assert_eq!(reply.join().unwrap().body, r#"{"result":"odd"}"#);
    }
    assert_eq!(world.engine.calls().len(), 4);
}

/// proves B.7
#[test]
fn who_leaves_is_dropped_and_the_others_are_served() {
    let world = World::start(batched(1));
    let first = world.occupy();
    let leaves = send(world.sidecar.address(), &request("POST", V2, &[], &v2(&[13], None)));
    world.until_waiting(1);
    let stays = world.later(V2, &v2(&[2], None));
    world.until_waiting(2);
    drop(leaves);
    world.until_waiting(1);
    world.engine.open();
    first.join().unwrap();
    assert_eq!(rows(&stays.join().unwrap()), [2]);
    assert!(!world.engine.calls().iter().any(|c| c.body.contains("13")), "it never reached the engine");
}

/// proves B.7
#[test]
fn who_leaves_a_batch_in_flight_gives_its_rows_up() {
    let world = World::start(batched(1));
    let first = world.occupy();
    let leaves = send(world.sidecar.address(), &request("POST", V2, &[], &v2(&[13], None)));
    world.until_waiting(1);
    let stays = world.later(V2, &v2(&[2], None));
    world.until_waiting(2);
    world.engine.let_through();
    first.join().unwrap();
    world.until_inside(1);
    drop(leaves);
    world.engine.let_through();
    assert_eq!(rows(&stays.join().unwrap()), [2]);
    assert_eq!((world.engine.calls().len(), world.engine.cancelled()), (2, 0));
}

/// proves A.6
#[test]
fn a_batch_that_everybody_left_is_taken_back_from_the_engine() {
    let world = World::start(batched(1));
    let first = world.occupy();
    let one = send(world.sidecar.address(), &request("POST", V2, &[], &v2(&[13], None)));
    world.until_waiting(1);
    let two = send(world.sidecar.address(), &request("POST", V2, &[], &v2(&[14], None)));
    world.until_waiting(2);
    world.engine.let_through();
    first.join().unwrap();
    world.until_inside(1);
    drop(one);
    drop(two);
    until("the engine is left alone", || (world.engine.inside(), world.engine.cancelled()) == (0, 1));
    until("its place is free", || world.status()["inFlight"] == 0);
}

/// proves B.10
#[test]
fn any_path_and_any_bytes_pass() {
    let world = World::start(batched(1));
    let deep = format!("{{\"instances\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    for path in ["/v1/models/my%20model:predict", "/v1/models/%F0%9F:predict", "/v2/models/a%2Fb/infer", V2] {
        for body in ["", "{", "[]", "\u{1}", deep.as_str(), r#"{"instances":[]}"#, r#"{"inputs":[{}]}"#] {
            world.post(path, body);
            let seen = world.engine.calls().pop().unwrap();
            assert_eq!((seen.path.as_str(), seen.body.as_str()), (path, body));
        }
    }
    let reply = world.post("/v1/models/my%20model:predict", r#"{"instances":[1]}"#);
    assert_eq!(reply.status, 200);
    assert_eq!(world.state(), "ready");
}

/// A changed size holds for the next batch, without a restart.
#[test]
fn a_hot_change_of_the_size_applies() {
    let world = World::start(batched(1));
    let mut serving = batched(1);
    serving.batching.as_mut().unwrap().max_size = 2;
    world.sidecar.set_serving(serving);
    until("the new size is there", || world.status()["serving"]["batching"]["maxSize"] == 2);
    let first = world.occupy();
    let replies: Vec<_> = (1..=4)
        .map(|i| {
            let reply = world.later(V2, &v2(&[i], None));
            world.until_waiting(i as u64);
            reply
        })
        .collect();
    world.engine.open();
    first.join().unwrap();
    for reply in replies {
        assert_eq!(reply.join().unwrap().status, 200);
    }
    assert_eq!(world.engine.calls().len(), 1 + 2);
    assert_eq!(world.status()["engine"]["incarnation"], 1);
}
