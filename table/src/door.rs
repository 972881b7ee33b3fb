//! The server's end with TLS: who may come in, and as whom.

use crate::identity::Identity;
use crate::server::{MOST_CONNECTIONS, REQUEST_TIME, Server, Speaker, accept};
use hyper_util::rt::TokioIo;
use outrigger_wire::stream::{IdentityAnswer, IdentityRequest};
use rustls::ServerConfig;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

/// How long a handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// How long a connection without a certificate lasts: as long as one needs to ask for it.
const VISIT: Duration = Duration::from_secs(30);
/// The most connections that have not said who they are. When there are more, the oldest goes: whoever opens many
/// and says nothing hinders himself.
const MOST_UNKNOWN: usize = 512;
/// The most connections of one identity: a proxy holds two, and some more while the server has not seen their end.
const MOST_OF_ONE: u32 = 16;
/// The most certificates that one connection asks for.
const MOST_ASKED: u32 = 4;
/// The most tokens that are checked at the same time; each is a request to the API server.
const MOST_CHECKED: usize = 32;

/// Who decides to whom a certificate is given. It knows what a token is; the table doesn't.
pub trait Authority: Send + Sync {
    /// Gives the token's holder a certificate.
    fn issue(&self, request: IdentityRequest) -> Issuing<'_>;
}

/// A certificate under way.
pub type Issuing<'a> = Pin<Box<dyn Future<Output = Result<IdentityAnswer, Refused>> + Send + 'a>>;

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The token is none, has expired, is another audience's or bound to no pod.
    #[error("{0}")]
    Token(String),
    /// The request for a certificate can't be read.
    #[error("{0}")]
    Request(String),
    /// It can't be told now: who asks again soon may be answered otherwise.
    #[error("{0}")]
    Unavailable(String),
}

/// What a server with TLS shows, and whom it asks about tokens. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    tls: watch::Receiver<Arc<ServerConfig>>,
    authority: Arc<dyn Authority>,
    checking: Arc<Semaphore>,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

impl Door {
    /// A door with this TLS, looked at anew for each connection (see [`crate::tls::server_config`]), for
    /// certificates and authorities rotate.
    pub fn new(tls: watch::Receiver<Arc<ServerConfig>>, authority: Arc<dyn Authority>) -> Self {
        Self { tls, authority, checking: Arc::new(Semaphore::new(MOST_CHECKED)) }
    }
}

/// Somebody without a certificate.
pub(crate) struct Visitor {
    door: Door,
    asked: AtomicU32,
}

impl Visitor {
    /// Asks for a certificate.
    pub(crate) async fn issue(&self, request: IdentityRequest) -> Result<IdentityAnswer, Refused> {
        if self.asked.fetch_add(1, Ordering::Relaxed) >= MOST_ASKED {
            let message = format!("too many requests on one connection; allowed: {MOST_ASKED}");
            return Err(Refused::Token(message));
        }
        let issue = async {
            let Ok(_turn) = self.door.checking.acquire().await else {
                return Err(Refused::Unavailable("the server ends".to_owned()));
            };
            self.door.authority.issue(request).await
        };
        let issued = timeout(REQUEST_TIME, issue).await;
        issued.unwrap_or_else(|_| Err(Refused::Unavailable("the token was not checked in time".to_owned())))
    }
}

/// Connections by what is known of them.
#[derive(Debug, Default)]
struct Guests {
    count: u64,
    unknown: BTreeMap<u64, AbortHandle>,
    known: HashMap<Identity, u32>,
}

type Book = Arc<Mutex<Guests>>;

fn guests(book: &Book) -> std::sync::MutexGuard<'_, Guests> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An unknown guest, until it is dropped.
struct Unknown(Book, u64);

impl Drop for Unknown {
    fn drop(&mut self) {
        guests(&self.0).unknown.remove(&self.1);
    }
}

/// A known guest, until it is dropped.
struct Known(Book, Identity);

impl Known {
    fn new(book: &Book, identity: &Identity) -> Option<Self> {
        let mut guests = guests(book);
        let count = guests.known.entry(identity.clone()).or_default();
        if *count >= MOST_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Self(Arc::clone(book), identity.clone()))
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        let mut guests = guests(&self.0);
        if let Some(count) = guests.known.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                guests.known.remove(&self.1);
            }
        }
    }
}

impl Server {
    /// Serves with TLS until the future is dropped; its connections end with it. A stream and reports need a
    /// certificate, which says as whom; without one there is `POST /v1/identity` alone.
    ///
    /// # Errors
    /// None at present: errors of accepting are waited out.
    pub async fn serve_tls(&self, listener: TcpListener, door: Door) -> io::Result<()> {
        let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let book = Book::default();
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
            let Some(socket) = accept(&listener).await else { continue };
            let (server, door, book_too) = (self.clone(), door.clone(), Arc::clone(&book));
            // Within the lock: the connection strikes itself out only after it was entered.
            let mut guests = guests(&book);
            guests.count += 1;
            let number = guests.count;
            let handle = connections.spawn(async move {
                server.guest(socket, door, Unknown(book_too, number)).await;
                drop(slot);
            });
            guests.unknown.insert(number, handle);
            if guests.unknown.len() > MOST_UNKNOWN
                && let Some((_, oldest)) = guests.unknown.pop_first()
            {
                oldest.abort();
            }
        }
    }

    async fn guest(&self, socket: TcpStream, door: Door, unknown: Unknown) {
        socket.set_nodelay(true).ok();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&door.tls.borrow()));
        let socket = match timeout(HANDSHAKE_TIME, acceptor.accept(socket)).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
            Err(_) => return tracing::debug!("a handshake took too long"),
        };
        let certificate = socket.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let identity = certificate.map(Identity::of_certificate);
        match identity {
            None => {
                let visitor = Speaker::Visitor(Visitor { door, asked: AtomicU32::new(0) });
                timeout(VISIT, self.connection(TokioIo::new(socket), visitor)).await.ok();
            }
            Some(None) => tracing::warn!("a certificate of ours names nobody"),
            Some(Some(identity)) => match Known::new(&unknown.0, &identity) {
                None => tracing::warn!(%identity, "refused: it has {MOST_OF_ONE} connections"),
                Some(_known) => {
                    drop(unknown);
                    self.connection(TokioIo::new(socket), Speaker::Known(identity)).await;
                }
            },
        }
    }
}
