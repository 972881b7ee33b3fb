//! Starting and stopping: one instance per port, streams that finish, clients that are told to leave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use http::Response;
use outrigger_dataplane::body::Body;
use outrigger_dataplane::serve::{Connection, Request, ServeOptions, Service};
use outrigger_dataplane::signals::{Drained, Signals};
use outrigger_dataplane::threads::{Bound, DataThreads};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;
use support::{BOUND, Client, GET, STREAM, Upstream, chunk, proxy, until};
use tokio::time::timeout;

/// Answers with the index of its thread.
struct Which(usize);

impl Service for Which {
    type Hooks = ();

    async fn call(self: Rc<Self>, _: Request, _: Rc<Connection>) -> Response<Body> {
        Response::new(Body::full(self.0.to_string()))
    }
}

fn which(bound: Bound, threads: usize) -> DataThreads {
    DataThreads::start(bound, threads, ServeOptions::default(), |thread| Rc::new(Which(thread.index)))
        .unwrap()
}

#[tokio::test]
async fn a_second_instance_on_the_same_port_fails() {
    let bound = Bound::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = bound.address();
    assert_eq!(Bound::bind(address).unwrap_err().kind(), ErrorKind::AddrInUse, "before threads are started");
    let data = which(bound, 3);
    assert_eq!(
        Bound::bind(address).unwrap_err().kind(),
        ErrorKind::AddrInUse,
        "while three threads share it"
    );
    data.abort();
    timeout(BOUND, data.ended()).await.unwrap();
    drop(which(Bound::bind(address).expect("the port is free again"), 2));
}

/// Of instances that start together one gets the port, whatever the order of their steps.
#[test]
fn of_instances_that_start_together_one_wins() {
    for _ in 0..20 {
        let address = Bound::bind(([127, 0, 0, 1], 0).into()).unwrap().address();
        let racers: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(move || {
                    let bound = Bound::bind(address).ok()?;
                    // It shares the port among its threads at once: the moment at which another could slip in.
                    Some(which(bound, 2))
                })
            })
            .collect();
        let winners: Vec<DataThreads> =
            racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect();
        assert!(winners.len() <= 1, "{} instances share a port", winners.len());
    }
}

#[tokio::test]
async fn every_thread_takes_connections_from_the_one_port() {
    let data = which(Bound::bind(([127, 0, 0, 1], 0).into()).unwrap(), 3);
    let mut seen = BTreeSet::new();
    // The kernel spreads by a hash of the client's port.
    for _ in 0..300 {
        let mut client = Client::to(data.address()).await;
        client.send(GET).await;
        seen.insert(client.response().await.1);
        if seen.len() == 3 {
            return;
        }
    }
    panic!("only {seen:?} of three threads");
}

#[tokio::test]
async fn a_drain_finishes_streams_and_takes_nothing_new() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let address = proxy.data.address();
    let mut idle = proxy.connect().await;
    let mut waiting = proxy.connect().await;
    waiting.send(GET).await;
    let mut slow = upstream.accept().await;
    slow.until("\r\n\r\n").await;
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut peer = upstream.accept().await;
    peer.until("\r\n\r\n").await;
    peer.send(format!("{STREAM}{}", chunk("data: 1\n\n"))).await;
    client.until("data: 1\n\n").await;
    proxy.data.drain();
    // Nothing new.
    let end = tokio::time::Instant::now() + BOUND;
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        assert!(tokio::time::Instant::now() < end, "connections are still taken");
    }
    // A request that was on its way is answered, and told to go elsewhere.
    idle.send(GET).await;
    let mut third = upstream.accept().await;
    assert!(third.serve_one().await);
    let (head, _) = idle.response().await;
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(idle.rest().await, "");
    // An answer that had not begun says so too.
    slow.send(support::HELLO).await;
    let (head, _) = waiting.response().await;
    assert!(head.contains("connection: close"), "{head}");
    // The stream goes on for as long as it takes.
    assert!(timeout(Duration::from_millis(700), proxy.data.ended()).await.is_err(), "it did not wait");
    peer.send(format!("{}0\r\n\r\n", chunk("data: 2\n\n"))).await;
    client.until("data: 2\n\n\r\n0\r\n\r\n").await;
    assert_eq!(client.rest().await, "");
    timeout(BOUND, proxy.data.ended()).await.expect("a drained process ends");
}

#[tokio::test]
async fn idle_clients_are_let_go() {
    let upstream = Upstream::new().await.answer();
    let proxy = proxy(upstream);
    let mut client = proxy.connect().await;
    client.send(GET).await;
    client.response().await;
    let mut silent = proxy.connect().await;
    until("both are open", || proxy.data.connections() == 2).await;
    proxy.data.drain();
    assert_eq!(client.rest().await, "");
    assert_eq!(silent.rest().await, "");
    timeout(BOUND, proxy.data.ended()).await.unwrap();
}

#[tokio::test]
async fn the_second_signal_aborts() {
    use rustix::process::{Signal, getpid, kill_process};
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let mut signals = Signals::new().unwrap();
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut peer = upstream.accept().await;
    peer.until("\r\n\r\n").await;
    kill_process(getpid(), Signal::TERM).unwrap();
    assert_eq!(timeout(BOUND, signals.next()).await.unwrap(), "SIGTERM");
    let second = async {
        // The drain has begun when the port is closed; the answer is still out.
        let address = proxy.data.address();
        while tokio::net::TcpStream::connect(address).await.is_ok() {}
        kill_process(getpid(), Signal::INT).unwrap();
    };
    let (how, ()) = tokio::join!(timeout(BOUND, signals.drain(&proxy.data, BOUND)), second);
    assert_eq!(how.unwrap(), Drained::Aborted);
    assert_eq!(client.rest().await, "");
    assert_eq!(peer.rest().await, "");
}

#[tokio::test]
async fn a_drain_is_bounded() {
    let upstream = Upstream::new().await;
    let proxy = proxy(upstream.address());
    let mut signals = Signals::new().unwrap();
    let mut client = proxy.connect().await;
    client.send(GET).await;
    let mut peer = upstream.accept().await;
    peer.until("\r\n\r\n").await;
    let how = timeout(BOUND, signals.drain(&proxy.data, Duration::from_millis(50))).await.unwrap();
    assert_eq!(how, Drained::TimedOut);
    assert_eq!(peer.rest().await, "");
}
