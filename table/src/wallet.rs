//! A proxy's certificate: got for its token, renewed in time, and the bundle by which it knows servers.

use crate::post::{self, Connection};
use crate::tls::{self, Holder};
use hyper::StatusCode;
use outrigger_wire::Mistake;
use outrigger_wire::stream::{IDENTITY_PATH, IdentityAnswer, IdentityRequest};
use rustls::ClientConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

/// The largest file that is read, and the largest answer, in bytes.
const LARGEST: u64 = 256 << 10;
/// The rest after a renewal that failed, drawn between half and the whole; the certificate holds on meanwhile.
const RENEWAL_REST: Duration = Duration::from_secs(20);
/// A certificate that was refused is given up, but not sooner after it was got than this: a server that refuses
/// all of them must not be asked for another at each dial.
const YOUNGEST_REFUSED: Duration = Duration::from_secs(10);
/// How often a server that can't tell yet is asked once more on one connection, and the rest before, drawn between half
/// and the whole: a sidecar asks as soon as it starts, and the server hears of its pod within moments of that.
const AGAIN: (u32, Duration) = (3, Duration::from_millis(300));
/// The shortest and longest lifetimes that are believed, in seconds.
const LIFETIMES: (u64, u64) = (1, 366 * 24 * 3600);

/// Where a proxy finds what it needs to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// The bundle of authorities, PEM; read anew at each dial, for it rotates.
    pub ca: PathBuf,
    /// The token of its service account; read anew whenever a certificate is asked for, for it is short-lived.
    pub token: PathBuf,
}

impl ClientTls {
    /// What the flags `--table-ca` and `--table-token` mean: both files, or none of them, and none without servers.
    ///
    /// # Errors
    /// The flag that is missing or too much.
    pub fn given(
        servers: bool,
        ca: Option<PathBuf>,
        token: Option<PathBuf>,
    ) -> Result<Option<Self>, Mistake> {
        let missing = "it is missing; allowed: both --table-ca and --table-token, or none";
        let too_much = "there are no servers; allowed: with --table alone";
        match (servers, ca, token) {
            (_, None, None) => Ok(None),
            (true, Some(ca), Some(token)) => Ok(Some(Self { ca, token })),
            (true, Some(_), None) => Err(Mistake::new("--table-token", missing)),
            (true, None, Some(_)) => Err(Mistake::new("--table-ca", missing)),
            (false, Some(_), _) => Err(Mistake::new("--table-ca", too_much)),
            (false, None, Some(_)) => Err(Mistake::new("--table-token", too_much)),
        }
    }
}

/// By what connections are opened.
#[derive(Debug)]
pub(crate) enum Wallet {
    /// Nothing: no TLS, for servers on the same machine.
    Empty,
    /// A certificate that is got for a token.
    Files(ClientTls, Mutex<Option<Box<Held>>>),
    /// Whatever is given now.
    Given(watch::Receiver<Arc<ClientConfig>>),
}

/// A certificate that was got.
#[derive(Debug)]
pub(crate) struct Held {
    holder: Holder,
    bundle: Vec<u8>,
    config: Arc<ClientConfig>,
    got: Instant,
    /// Drawn between 60 and 70 % of its life, so that not all of them renew in step.
    renew: Instant,
    expires: Instant,
}

impl Wallet {
    /// A client's.
    pub(crate) fn new(tls: Option<ClientTls>) -> Self {
        tls.map_or(Self::Empty, |files| Self::Files(files, Mutex::new(None)))
    }

    /// Opens a connection to a server, and gets a certificate first where one is needed or due.
    pub(crate) async fn connect(&self, server: &str) -> Result<Connection, String> {
        let config = match self {
            Self::Empty => return post::connect(server, None).await,
            Self::Given(config) => Arc::clone(&config.borrow()),
            Self::Files(files, held) => config(files, &mut *held.lock().await, server).await?,
        };
        let connected = post::connect(server, Some(config)).await;
        if connected.is_err() {
            self.refused().await;
        }
        connected
    }

    /// Whether a connection that was opened by `tls` may be kept: it would not be opened otherwise today.
    pub(crate) async fn is_current(&self, tls: Option<&Arc<ClientConfig>>) -> bool {
        let is = |now: &Arc<ClientConfig>| tls.is_some_and(|tls| Arc::ptr_eq(tls, now));
        match self {
            Self::Empty => true,
            Self::Given(config) => is(&config.borrow()),
            Self::Files(_, held) => {
                held.lock().await.as_ref().is_some_and(|held| is(&held.config) && Instant::now() < held.renew)
            }
        }
    }

    /// The server did not take the certificate, as far as can be told: another is got at the next dial.
    pub(crate) async fn refused(&self) {
        if let Self::Files(_, held) = self {
            let mut held = held.lock().await;
            if held.as_ref().is_some_and(|held| held.got.elapsed() >= YOUNGEST_REFUSED) {
                *held = None;
            }
        }
    }
}

/// How to speak to a server now.
async fn config(
    files: &ClientTls,
    held: &mut Option<Box<Held>>,
    server: &str,
) -> Result<Arc<ClientConfig>, String> {
    let bundle = read(&files.ca, "the CA bundle").await?;
    let now = Instant::now();
    if held.as_ref().is_some_and(|held| now >= held.expires) {
        *held = None;
    }
    if held.as_ref().is_none_or(|held| now >= held.renew) {
        match exchange(files, &bundle, server).await {
            Ok(fresh) => *held = Some(Box::new(fresh)),
            Err(why) => match held {
                None => return Err(why),
                Some(held) => {
                    tracing::warn!(server, why, "the certificate was not renewed; it holds on");
                    held.renew = now + RENEWAL_REST.mul_f64(0.5 + fastrand::f64() / 2.0);
                }
            },
        }
    }
    let Some(held) = held else { return Err("there is no certificate".to_owned()) };
    if held.bundle != bundle {
        held.config = Arc::new(in_words(files, tls::client_config(&bundle, Some(&held.holder)))?);
        held.bundle = bundle;
    }
    Ok(Arc::clone(&held.config))
}

/// Exchanges the token for a certificate.
async fn exchange(files: &ClientTls, bundle: &[u8], server: &str) -> Result<Held, String> {
    let token = read(&files.token, "the token").await?;
    let token =
        String::from_utf8(token).map_err(|_| format!("the token {} is no text", files.token.display()))?;
    let anonymous = Arc::new(in_words(files, tls::client_config(bundle, None))?);
    let (key, csr) = key_and_request()?;
    let mut connection = post::connect(server, Some(anonymous)).await?;
    let request = IdentityRequest { token: token.trim().to_owned(), csr };
    let mut again = 0;
    let body = loop {
        let answer = post::send(&mut connection, server, IDENTITY_PATH, &request).await?;
        let status = answer.status();
        let body = post::read(answer, LARGEST as usize).await?;
        match status {
            _ if status.is_success() => break body,
            StatusCode::SERVICE_UNAVAILABLE if again < AGAIN.0 => again += 1,
            _ => return Err(post::refusal("no certificate for the token", status, &body)),
        }
        sleep(AGAIN.1.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    };
    let answer: IdentityAnswer =
        serde_json::from_slice(&body).map_err(|error| format!("not a certificate: {error}"))?;
    let lifetime = Duration::from_secs(answer.lifetime_seconds.clamp(LIFETIMES.0, LIFETIMES.1));
    let holder = Holder { certificate: answer.certificate, key };
    let config = Arc::new(tls::client_config(bundle, Some(&holder))?);
    let got = Instant::now();
    let renew = got + lifetime.mul_f64(0.6 + fastrand::f64() / 10.0);
    Ok(Held { holder, bundle: bundle.to_vec(), config, got, renew, expires: got + lifetime })
}

fn key_and_request() -> Result<(PrivateKeyDer<'static>, String), String> {
    let made = || {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        // Nameless: the token says who it is.
        let request = rcgen::CertificateParams::default().serialize_request(&key)?.pem()?;
        Ok::<_, rcgen::Error>((PrivatePkcs8KeyDer::from(key.serialize_der()).into(), request))
    };
    made().map_err(|error| format!("a key pair can't be made: {error}"))
}

fn in_words<T>(files: &ClientTls, result: Result<T, String>) -> Result<T, String> {
    result.map_err(|why| format!("the CA bundle {} can't be used: {why}", files.ca.display()))
}

async fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, String> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&path).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes));
        match read {
            Ok(0) => Err(format!("{what} {} is empty", path.display())),
            Ok(_) => Ok(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(format!("{what} {} is not there yet", path.display()))
            }
            Err(error) => Err(format!("{what} {} can't be read: {error}", path.display())),
        }
    });
    read.await.map_err(|_| "the program ends".to_owned())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_or_none_and_none_without_servers() {
        let given = |servers, ca: bool, token: bool| {
            let file = |is: bool| is.then(|| PathBuf::from("f"));
            ClientTls::given(servers, file(ca), file(token)).map(|tls| tls.is_some()).map_err(|m| m.path)
        };
        assert_eq!(given(true, true, true), Ok(true));
        assert_eq!(given(true, false, false), Ok(false));
        assert_eq!(given(false, false, false), Ok(false));
        assert_eq!(given(true, true, false), Err("--table-token".to_owned()));
        assert_eq!(given(true, false, true), Err("--table-ca".to_owned()));
        assert_eq!(given(false, true, true), Err("--table-ca".to_owned()));
        assert_eq!(given(false, false, true), Err("--table-token".to_owned()));
    }

    #[tokio::test]
    async fn what_is_missing_is_said_in_words() {
        let files = ClientTls { ca: "/nowhere/ca.crt".into(), token: "/nowhere/token".into() };
        let wallet = Wallet::new(Some(files));
        let why = wallet.connect("127.0.0.1:1").await.map(drop).unwrap_err();
        assert_eq!(why, "the CA bundle /nowhere/ca.crt is not there yet");
    }
}
