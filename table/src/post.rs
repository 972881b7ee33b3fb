//! Requests to the server: one connection at a time, each wait bounded.

use crate::wallet::Wallet;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use outrigger_wire::stream::{REPORTS_PATH, Report};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long a connection may take to open, with a certificate got first.
pub(crate) const DIAL_TIME: Duration = Duration::from_secs(10);
/// How long a report may take to be accepted.
const POST_TIME: Duration = Duration::from_secs(2);
/// The rest after a report that was not accepted, drawn between half and the whole.
const REST: Duration = Duration::from_millis(500);
/// The most of a refusal's words that is shown, in characters.
const LONGEST_WORDS: usize = 300;

/// A connection and the task that drives it; both end together.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// By what it was opened.
    tls: Option<Arc<ClientConfig>>,
    _driver: JoinSet<()>,
}

/// Opens a connection; with TLS, the server must prove the name by which it is called.
pub(crate) async fn connect(server: &str, tls: Option<Arc<ClientConfig>>) -> Result<Connection, String> {
    let socket = TcpStream::connect(server).await.map_err(|error| error.to_string())?;
    socket.set_nodelay(true).ok();
    let Some(tls) = tls else { return drive(TokioIo::new(socket), None).await };
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|_| format!("`{server}` has no name that TLS knows"))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&tls));
    let socket = connector.connect(name, socket).await.map_err(|error| format!("TLS: {error}"))?;
    drive(TokioIo::new(socket), Some(tls)).await
}

async fn drive<S: Read + Write + Send + Unpin + 'static>(
    socket: S,
    tls: Option<Arc<ClientConfig>>,
) -> Result<Connection, String> {
    let (sender, connection) = http1::handshake(socket).await.map_err(|error| error.to_string())?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        connection.await.ok();
    });
    Ok(Connection { sender, tls, _driver: driver })
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

/// The whole of a body of at most this many bytes.
pub(crate) async fn read(answer: Response<Incoming>, most: usize) -> Result<Bytes, String> {
    #[allow(clippy::disallowed_methods, reason = "bounded by `most`")]
    let body = Limited::new(answer.into_body(), most).collect().await;
    Ok(body.map_err(|error| error.to_string())?.to_bytes())
}

/// A refusal in words.
pub(crate) fn refusal(what: &str, status: StatusCode, body: &[u8]) -> String {
    let words: String = String::from_utf8_lossy(body).trim().chars().take(LONGEST_WORDS).collect();
    format!("{what}: status {}: {words}", status.as_u16())
}

/// A connection that is kept from one report to the next.
#[derive(Default)]
pub(crate) struct Line {
    held: Option<(String, Connection)>,
}

impl Line {
    /// Brings a report to this server.
    pub(crate) async fn deliver(
        &mut self,
        wallet: &Wallet,
        server: &str,
        report: &Report,
    ) -> Result<(), String> {
        let mut connection = match self.held.take() {
            Some((to, held))
                if to == server && !held.sender.is_closed() && wallet.is_current(held.tls.as_ref()).await =>
            {
                held
            }
            _ => {
                let dialled = timeout(DIAL_TIME, wallet.connect(server)).await;
                dialled.map_err(|_| "no connection in time".to_owned())??
            }
        };
        let sent = async {
            let answer = send(&mut connection, server, REPORTS_PATH, report).await?;
            let status = answer.status();
            Ok::<_, String>((status, read(answer, 1 << 16).await?))
        };
        let answered = timeout(POST_TIME, sent).await;
        let (status, body) = answered.map_err(|_| "a report was not answered in time".to_owned())??;
        if is_about_identity(status) {
            wallet.refused().await;
        }
        if !status.is_success() {
            return Err(refusal("a report was refused", status, &body));
        }
        self.held = Some((server.to_owned(), connection));
        Ok(())
    }
}

/// Whether another certificate may help.
pub(crate) fn is_about_identity(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// Posts the newest report to the server that answers the stream, until the client is dropped.
pub(crate) async fn post(
    wallet: Arc<Wallet>,
    mut newest: watch::Receiver<Option<Report>>,
    mut at: watch::Receiver<Option<String>>,
) {
    let mut line = Line::default();
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
        let delivered = line.deliver(&wallet, &server, &report).await;
        unsent = delivered.is_err();
        if let Err(why) = delivered {
            tracing::debug!(server, why, "a report was not accepted");
            sleep(REST.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }
}
