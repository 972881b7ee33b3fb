//! The planner's end.

use crate::bounds::{self, Room};
use crate::door::{Refused, Visitor};
use crate::identity::Identity;
use crate::inbox::Kept;
use crate::lines::LineBody;
use crate::state::{Sent, State, line};
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_wire::stream::{
    Change, HEARTBEAT, IDENTITY_PATH, IdentityAnswer, REPORTS_PATH, Report, STREAM_PATH, Subscribe,
};
use outrigger_wire::{DeploymentKey, EndpointConfig, GatewayId, Routes, Subscription};
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{sleep, sleep_until, timeout};

/// The most connections at once: a sidecar and a gateway hold two each, and a cluster of two thousand replicas
/// is beyond what one operator serves.
pub(crate) const MOST_CONNECTIONS: usize = 8_192;
/// How long a request's head and body may take.
pub(crate) const REQUEST_TIME: Duration = Duration::from_secs(10);
/// A subscriber that takes no line for this long is cut off; it will dial again.
const SLOWEST_READER: Duration = Duration::from_secs(30);
/// Lines are sent together up to this many bytes.
const PIECE: usize = 64 << 10;
/// A connection with a certificate takes requests for this long; the next one shows a certificate anew. A stream
/// that runs is not cut: it is one request.
const CONNECTION_TIME: Duration = Duration::from_secs(600);
/// For how long a deployment that a new subscriber has and this server does not know is not called gone: another
/// server may have heard of it a moment earlier. Longer than a cache lags behind on a busy machine.
const DOUBT: Duration = Duration::from_secs(5);
/// How long accepting rests after an error such as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(100);

type Answer = Response<Either<LineBody, Full<Bytes>>>;

/// Who speaks on a connection.
pub(crate) enum Speaker {
    /// Whoever reaches the port: no TLS, on one machine.
    Anybody,
    /// Whom the certificate names.
    Known(Identity),
    /// Nobody yet.
    Visitor(Visitor),
}

/// Serves the table. Cheap to clone: all clones are one server.
#[derive(Clone, Debug)]
pub struct Server {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Counts the changes: each subscriber looks at the state when it moves.
    changed: watch::Sender<u64>,
    reported: Notify,
    room: Room,
}

impl Shared {
    /// Nothing panics while it is held; were something to, the state is still whole after every statement.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reports that proxies send: of each sender only the newest, for they are cumulative.
#[derive(Debug)]
pub struct Reports {
    shared: Arc<Shared>,
}

impl Reports {
    /// The next report; waits for one. Cancel safe.
    pub async fn recv(&mut self) -> Option<Report> {
        loop {
            let reported = self.shared.reported.notified();
            if let Some(report) = self.shared.state().inbox.take() {
                return Some(report);
            }
            reported.await;
        }
    }
}

impl Server {
    /// A server with an empty table, and the reports that proxies send to it.
    pub fn new() -> (Self, Reports) {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::channel(0).0,
            reported: Notify::new(),
            room: Room::default(),
        });
        (Self { shared: Arc::clone(&shared) }, Reports { shared })
    }

    /// Serves until the future is dropped; its connections end with it.
    ///
    /// # Errors
    /// None at present: errors of accepting are waited out.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut connections = tokio::task::JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
            let Some(socket) = accept(&listener).await else { continue };
            socket.set_nodelay(true).ok();
            let server = self.clone();
            connections.spawn(async move {
                server.connection(TokioIo::new(socket), Speaker::Anybody).await;
                drop(slot);
            });
        }
    }

    /// One deployment's routes, and the configurations of its sidecars, are now these: what differs is pushed at
    /// once, a weight and the endpoints that it needs together.
    #[allow(clippy::needless_pass_by_value, reason = "the caller has made them for this")]
    pub fn put(&self, routes: Routes, endpoints: Vec<EndpointConfig>) {
        let differs = self.shared.state().put(&routes, &endpoints);
        self.push_if(differs);
    }

    /// The deployment is gone, and with it its sidecars' configurations.
    pub fn remove(&self, deployment: &DeploymentKey) {
        let differs = self.shared.state().remove(deployment);
        self.push_if(differs);
    }

    /// What was put is all that there is. Until then subscribers wait: a server that has just started must not
    /// say that everything is gone.
    pub fn complete(&self) {
        let differs = self.shared.state().complete();
        self.push_if(differs);
    }

    /// The routes of all deployments are now these, and complete.
    #[allow(clippy::needless_pass_by_value, reason = "the caller has made them for this")]
    pub fn publish(&self, routes: Vec<Routes>) {
        let differs = self.shared.state().set_routes(&routes);
        self.push_if(differs);
    }

    /// The configurations of all sidecars are now these, and complete.
    #[allow(clippy::needless_pass_by_value, reason = "the caller has made them for this")]
    pub fn publish_endpoints(&self, endpoints: Vec<EndpointConfig>) {
        let differs = self.shared.state().set_endpoints(&endpoints);
        self.push_if(differs);
    }

    /// Takes in a report that came by way of another server; whether there was room. It counts as heard: a
    /// gateway whose stream is there and whose reports arrive here is live.
    pub fn accept(&self, report: Report) -> bool {
        if let Report::Gateway(report) = &report {
            self.shared.state().heard_elsewhere(&report.gateway);
        }
        self.keep(report)
    }

    /// Gateways whose stream lives, here or, as far as their reports tell, at another server.
    pub fn live_gateways(&self) -> Vec<GatewayId> {
        self.shared.state().live()
    }

    fn push_if(&self, differs: bool) {
        if differs {
            self.shared.changed.send_modify(|epoch| *epoch += 1);
        }
    }

    /// Answers the requests of one connection.
    pub(crate) async fn connection<S: Read + Write + Unpin>(&self, socket: S, speaker: Speaker) {
        let speaker = &speaker;
        let service =
            service_fn(|request| async move { Ok::<_, Infallible>(self.answer(request, speaker).await) });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIME.saturating_mul(6))
            .max_buf_size(bounds::buffer(speaker))
            .serve_connection(socket, service);
        let mut served = std::pin::pin!(served);
        let ended = match speaker {
            Speaker::Anybody | Speaker::Visitor(_) => served.await,
            Speaker::Known(_) => match timeout(CONNECTION_TIME, served.as_mut()).await {
                Ok(ended) => ended,
                Err(_) => {
                    served.as_mut().graceful_shutdown();
                    served.await
                }
            },
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a table connection ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>, speaker: &Speaker) -> Answer {
        if request.method() != Method::POST {
            return refusal(StatusCode::METHOD_NOT_ALLOWED, "POST only");
        }
        let answered = match (request.uri().path(), speaker) {
            (IDENTITY_PATH, Speaker::Visitor(visitor)) => match self.read(request, speaker).await {
                Ok(request) => Ok(issued(visitor.issue(request).await)),
                Err(refusal) => Err(refusal),
            },
            (STREAM_PATH | REPORTS_PATH, Speaker::Visitor(_)) => {
                Ok(refusal(StatusCode::UNAUTHORIZED, "a certificate is needed; POST /v1/identity gives one"))
            }
            (STREAM_PATH, _) => self.read(request, speaker).await.map(|s| self.subscribe(s, speaker)),
            (REPORTS_PATH, _) => self.read(request, speaker).await.map(|r| self.reported(r, speaker)),
            _ => Ok(refusal(
                StatusCode::NOT_FOUND,
                "there are /v1/stream, /v1/reports and, with TLS, /v1/identity",
            )),
        };
        answered.unwrap_or_else(|refusal| *refusal)
    }

    /// Reads what this speaker sends, once there is room for it among all that is being read.
    async fn read<T: DeserializeOwned>(
        &self,
        request: Request<Incoming>,
        speaker: &Speaker,
    ) -> Result<T, Box<Answer>> {
        let refused = |status, words: &str| Err(Box::new(refusal(status, words)));
        let most = bounds::largest(speaker);
        let announced = request.body().size_hint().upper().map(usize::try_from);
        let size = announced.map_or(most, |size| size.unwrap_or(usize::MAX));
        let too_large = format!("too large or broken off; allowed: {most} bytes");
        if size > most {
            return refused(StatusCode::PAYLOAD_TOO_LARGE, &too_large);
        }
        let read = async {
            let room = self.shared.room.take(size).await;
            #[allow(clippy::disallowed_methods, reason = "bounded by `most`")]
            let body = Limited::new(request.into_body(), most).collect().await;
            (body, room)
        };
        // The room is kept until the body has become what it says.
        let (body, _room) = match timeout(REQUEST_TIME, read).await {
            Ok((Ok(body), room)) => (body.to_bytes(), room),
            Ok((Err(_), _)) => return refused(StatusCode::PAYLOAD_TOO_LARGE, &too_large),
            Err(_) => return refused(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
        };
        serde_json::from_slice(&body).or_else(|error| refused(StatusCode::BAD_REQUEST, &error.to_string()))
    }

    fn reported(&self, report: Report, speaker: &Speaker) -> Answer {
        let taken = match speaker {
            Speaker::Known(Identity::Operator(_)) => self.accept(report),
            Speaker::Known(identity) if !identity.may_report(&report) => {
                return refusal(StatusCode::FORBIDDEN, &format!("{identity} may report as itself alone"));
            }
            _ => {
                if let Report::Gateway(report) = &report {
                    self.shared.state().heard(&report.gateway);
                }
                self.keep(report)
            }
        };
        if !taken {
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "too many senders");
        }
        let mut answer = Response::new(Either::Right(Full::default()));
        *answer.status_mut() = StatusCode::NO_CONTENT;
        answer
    }

    /// Keeps a report until it is taken; whether there was room.
    fn keep(&self, report: Report) -> bool {
        let kept = self.shared.state().inbox.keep(report);
        if kept == Kept::Yes {
            self.shared.reported.notify_one();
        }
        kept != Kept::NoRoom
    }

    fn subscribe(&self, subscribe: Subscribe, speaker: &Speaker) -> Answer {
        if let Speaker::Known(identity) = speaker
            && !identity.may_subscribe(&subscribe.subscription)
        {
            return refusal(StatusCode::FORBIDDEN, &format!("{identity} may subscribe as itself alone"));
        }
        let subscribe = match bounds::asked(subscribe) {
            Ok(subscribe) => subscribe,
            Err(why) => return refusal(StatusCode::BAD_REQUEST, &why),
        };
        // One line at a time: what a subscriber has not read is not formed yet.
        let (lines, body) = mpsc::channel(1);
        let server = self.clone();
        tokio::spawn(async move { server.feed(subscribe, lines).await });
        let mut answer = Response::new(Either::Left(LineBody(body)));
        answer.headers_mut().insert(
            hyper::header::CONTENT_TYPE,
            hyper::header::HeaderValue::from_static("application/x-ndjson"),
        );
        answer
    }

    /// Sends what the subscriber lacks, now and at every change, until it leaves.
    async fn feed(&self, subscribe: Subscribe, lines: mpsc::Sender<Bytes>) {
        let _open = Open::new(&self.shared, &subscribe.subscription);
        let mut sent = Sent::new(subscribe.have);
        let mut changed = self.shared.changed.subscribe();
        let mut synced = false;
        let settled = tokio::time::Instant::now() + DOUBT;
        loop {
            changed.mark_unchanged();
            let behind = self.shared.state().behind(&subscribe.subscription, &mut sent);
            if let Some(mut behind) = behind {
                if !synced {
                    behind.extend(line(&Change::Synced));
                    synced = true;
                }
                for line in pieces(behind) {
                    if !matches!(timeout(SLOWEST_READER, lines.send(line)).await, Ok(Ok(()))) {
                        return;
                    }
                }
            }
            let next = tokio::select! {
                moved = changed.changed() => if moved.is_err() { return } else { Vec::new() },
                () = sleep(HEARTBEAT) => line(&Change::Alive).into_iter().collect(),
                () = sleep_until(settled), if sent.doubts => self.shared.state().settle(&mut sent),
                () = lines.closed() => return,
            };
            for line in next {
                if !matches!(timeout(SLOWEST_READER, lines.send(line)).await, Ok(Ok(()))) {
                    return;
                }
            }
        }
    }
}

/// Lines as pieces of a body: small ones together, for a thousand deployments are a thousand lines.
fn pieces(lines: Vec<Bytes>) -> impl Iterator<Item = Bytes> {
    let mut lines = lines.into_iter().peekable();
    std::iter::from_fn(move || {
        let first = lines.next()?;
        let fits = |next: &Bytes, room: usize| next.len() <= room;
        if !lines.peek().is_some_and(|next| fits(next, PIECE.saturating_sub(first.len()))) {
            return Some(first);
        }
        let mut piece = bytes::BytesMut::from(&*first);
        while let Some(next) = lines.next_if(|next| fits(next, PIECE.saturating_sub(piece.len()))) {
            piece.extend_from_slice(&next);
        }
        Some(piece.freeze())
    })
}

/// While it lives, the gateway's stream counts as open.
struct Open<'a>(&'a Shared, Option<GatewayId>);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared, who: &Subscription) -> Self {
        let gateway = match who {
            Subscription::Gateway(id) => Some(id.clone()),
            Subscription::Endpoint(_) => None,
        };
        if let Some(id) = &gateway {
            shared.state().opened(id);
        }
        Self(shared, gateway)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(id) = &self.1 {
            self.0.state().closed(id);
        }
    }
}

/// The next connection; `None` after an error, which was waited out.
pub(crate) async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((socket, _)) => Some(socket),
        Err(error) => {
            tracing::warn!(%error, "the table's listener can't accept");
            sleep(ACCEPT_REST).await;
            None
        }
    }
}

fn issued(issued: Result<IdentityAnswer, Refused>) -> Answer {
    let (status, why) = match issued.map(|answer| serde_json::to_vec(&answer)) {
        Ok(Ok(json)) => return Response::new(Either::Right(Full::new(json.into()))),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(Refused::Token(why)) => (StatusCode::UNAUTHORIZED, why),
        Err(Refused::Request(why)) => (StatusCode::BAD_REQUEST, why),
        Err(Refused::Unavailable(why)) => (StatusCode::SERVICE_UNAVAILABLE, why),
    };
    refusal(status, &why)
}

fn refusal(status: StatusCode, words: &str) -> Answer {
    let mut answer = Response::new(Either::Right(Full::new(Bytes::from(format!("{words}\n")))));
    *answer.status_mut() = status;
    answer
}
