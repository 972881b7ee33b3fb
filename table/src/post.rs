//! Requests to the server: one connection at a time, each wait bounded.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use outrigger_wire::stream::{REPORTS_PATH, Report};
use serde::Serialize;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long a report may take to be accepted.
const POST_TIME: Duration = Duration::from_secs(2);
/// The rest after a report that was not accepted, drawn between half and the whole.
const REST: Duration = Duration::from_millis(500);

/// A connection and the task that drives it; both end together.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

/// Opens a connection.
pub(crate) async fn connect(server: &str) -> Result<Connection, String> {
    let socket = TcpStream::connect(server).await.map_err(|error| error.to_string())?;
    socket.set_nodelay(true).ok();
    let (sender, connection) =
        http1::handshake(TokioIo::new(socket)).await.map_err(|error| error.to_string())?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        connection.await.ok();
    });
    Ok(Connection { sender, _driver: driver })
}

/// Sends `value` as JSON.
pub(crate) async fn send<T: Serialize>(
    connection: &mut Connection,
    server: &str,
    path: &str,
    value: &T,
) -> Result<Response<Incoming>, String> {
    let json = serde_json::to_vec(value).map_err(|error| error.to_string())?;
    let request = Request::post(path)
        .header(hyper::header::HOST, server)
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .body(Full::from(json))
        .map_err(|error| error.to_string())?;
    connection.sender.ready().await.map_err(|error| error.to_string())?;
    connection.sender.send_request(request).await.map_err(|error| error.to_string())
}

/// Posts the newest report to the server that answers the stream, until the client is dropped.
pub(crate) async fn post(
    mut newest: watch::Receiver<Option<Report>>,
    mut at: watch::Receiver<Option<String>>,
) {
    let mut held: Option<(String, Connection)> = None;
    let mut unsent = false;
    loop {
        if !unsent && newest.changed().await.is_err() {
            return;
        }
        let Ok(server) = at.wait_for(Option::is_some).await.map(|at| at.clone().unwrap_or_default()) else {
            return;
        };
        let report = newest.borrow_and_update().clone();
        let Some(report) = report else { continue };
        held = held.filter(|(to, connection)| *to == server && !connection.sender.is_closed());
        match timeout(POST_TIME, deliver(held.take(), &server, &report)).await {
            Ok(Ok(connection)) => {
                held = Some((server, connection));
                unsent = false;
            }
            failed => {
                tracing::debug!(server, why = ?failed.map(|r| r.err()), "a report was not accepted");
                unsent = true;
                sleep(REST.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            }
        }
    }
}

async fn deliver(
    held: Option<(String, Connection)>,
    server: &str,
    report: &Report,
) -> Result<Connection, String> {
    let mut connection = match held {
        Some((_, connection)) => connection,
        None => connect(server).await?,
    };
    let answer = send(&mut connection, server, REPORTS_PATH, report).await?;
    match answer.status().is_success() {
        true => Ok(connection),
        false => Err(format!("status {}", answer.status())),
    }
}
