//! Ten thousand connections that ask nothing. A file of its own: memory is the process's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use outrigger_dataplane::serve::ServeOptions;
use outrigger_dataplane::upstream::Timeouts;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use support::{Client, GET, Upstream, proxy_with, until};

const CONNECTIONS: usize = 10_000;

/// Tells a second run of this program to be the clients: one process may not have enough descriptors for both
/// ends.
const CLIENTS_OF: &str = "IDLE_TEST_CLIENTS_OF";

/// Resident memory in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// Memory is bounded (at most 8 KiB of ours per connection), and others are
/// served meanwhile.
///
/// proves G.9
#[tokio::test]
async fn ten_thousand_idle_connections_disturb_nobody() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = CONNECTIONS as u64 + 200;
    assert!(limit.maximum.is_none_or(|maximum| maximum >= wanted), "allow {wanted} open files: ulimit -Hn");
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).unwrap();
    if let Ok(address) = std::env::var(CLIENTS_OF) {
        return be_clients(address.parse().unwrap()).await;
    }
    let upstream = Upstream::new().await.answer();
    let options = ServeOptions { max_connections: 2 * CONNECTIONS, ..ServeOptions::default() };
    let proxy = proxy_with(upstream, options, Timeouts::default());
    let before = resident();
    let clients = clients(proxy.data.address());
    until("all are open", || proxy.data.connections() >= CONNECTIONS).await;
    let mut other = proxy.connect().await;
    other.send(GET).await;
    assert_eq!(other.response().await.1, "hello");
    let grown = resident().saturating_sub(before);
    assert!(grown < CONNECTIONS * 8, "{grown} KiB more for {CONNECTIONS} connections");
    drop(clients);
    until("all are closed", || proxy.data.connections() <= 1).await;
}

/// Ends with its standard input, so never outlives this test.
struct Clients(Child);

impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

fn clients(of: std::net::SocketAddr) -> Clients {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(CLIENTS_OF, of.to_string()).stdin(Stdio::piped()).stdout(Stdio::null());
    Clients(command.spawn().unwrap())
}

/// Opens the connections: some ask once, some begin to, the others are silent. Holds them until told to end.
async fn be_clients(address: std::net::SocketAddr) {
    let mut idle = Vec::with_capacity(CONNECTIONS);
    for i in 0..CONNECTIONS {
        let mut client = Client::to(address).await;
        match i % 10 {
            0 => {
                client.send(GET).await;
                client.response().await;
            }
            1 => client.send("GET / HTTP/1.1\r\nhost: ").await,
            _ => {}
        }
        idle.push(client);
    }
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
