//! An authority for tests, and what it signs.
#![allow(dead_code, reason = "each test program uses some of it")]

use outrigger_table::door::Issuing;
use outrigger_table::tls::{self, Holder};
use outrigger_table::{Authority, Door, Identity, Refused, Server};
use outrigger_wire::stream::{IdentityAnswer, IdentityRequest};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

/// The one name by which the servers of these tests are dialled.
pub(crate) const LOOPBACK: &str = "127.0.0.1";

pub(crate) struct Pki(CertifiedIssuer<'static, KeyPair>);

impl Pki {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        Arc::new(Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    fn sign(&self, name: SanType, usage: ExtendedKeyUsagePurpose) -> (String, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    /// What a client with this identity shows.
    pub(crate) fn holder(&self, identity: &Identity) -> Holder {
        let uri = SanType::URI(identity.uri().unwrap().try_into().unwrap());
        let (certificate, key) = self.sign(uri, ExtendedKeyUsagePurpose::ClientAuth);
        Holder { certificate, key }
    }

    /// How such a client dials.
    pub(crate) fn client(&self, identity: &Identity) -> Arc<ClientConfig> {
        Arc::new(tls::client_config(self.pem().as_bytes(), Some(&self.holder(identity))).unwrap())
    }

    /// How a client dials that shows nothing.
    pub(crate) fn nobody(&self) -> Arc<ClientConfig> {
        Arc::new(tls::client_config(self.pem().as_bytes(), None).unwrap())
    }

    /// How a server speaks whose certificate is for this name and use.
    pub(crate) fn server_for(
        &self,
        bundle: &str,
        name: &str,
        usage: ExtendedKeyUsagePurpose,
    ) -> Arc<ServerConfig> {
        let name = match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.try_into().unwrap()),
        };
        let (certificate, key) = self.sign(name, usage);
        let chain = tls::certificates(certificate.as_bytes()).unwrap();
        let key = tls::provider().key_provider.load_private_key(key).unwrap();
        let resolver = SingleCertAndKey::from(CertifiedKey::new(chain, key));
        Arc::new(tls::server_config(bundle.as_bytes(), Arc::new(resolver)).unwrap())
    }

    /// How the tests' servers speak.
    pub(crate) fn server(&self, bundle: &str) -> Arc<ServerConfig> {
        self.server_for(bundle, LOOPBACK, ExtendedKeyUsagePurpose::ServerAuth)
    }
}

/// Gives certificates for tokens such as `endpoint/x-0`.
pub(crate) struct Desk {
    pub(crate) pki: Mutex<Arc<Pki>>,
    pub(crate) lifetime: Duration,
    pub(crate) issued: AtomicU64,
    /// So often it can't tell yet.
    pub(crate) lags: AtomicU64,
}

impl Desk {
    pub(crate) fn new(pki: &Arc<Pki>, lifetime: Duration) -> Arc<Self> {
        let pki = Mutex::new(Arc::clone(pki));
        Arc::new(Self { pki, lifetime, issued: AtomicU64::new(0), lags: AtomicU64::new(0) })
    }
}

impl Authority for Desk {
    fn issue(&self, request: IdentityRequest) -> Issuing<'_> {
        Box::pin(async move {
            let lags = &self.lags;
            if lags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                return Err(Refused::Unavailable("try again soon".to_owned()));
            }
            let Some(identity) = Identity::from_uri(&format!("outrigger://{}", request.token)) else {
                return Err(Refused::Token("the token has expired".to_owned()));
            };
            let csr = CertificateSigningRequestParams::from_pem(&request.csr)
                .map_err(|error| Refused::Request(error.to_string()))?;
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::URI(identity.uri().unwrap().try_into().unwrap())];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let pki = self.pki.lock().unwrap().clone();
            let certificate = params.signed_by(&csr.public_key, &pki.0).unwrap().pem();
            self.issued.fetch_add(1, Ordering::Relaxed);
            Ok(IdentityAnswer { certificate, lifetime_seconds: self.lifetime.as_secs() })
        })
    }
}

/// A server with TLS: where it is, how it speaks (to be changed), and its task.
pub(crate) async fn serve_tls(
    server: &Server,
    tls: Arc<ServerConfig>,
    desk: &Arc<Desk>,
) -> (String, watch::Sender<Arc<ServerConfig>>, JoinHandle<()>) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, tls) = watch::channel(tls);
    let door = Door::new(tls, Arc::clone(desk) as Arc<dyn Authority>);
    let server = server.clone();
    (address, sender, tokio::spawn(async move { server.serve_tls(listener, door).await.unwrap() }))
}

/// Opens a connection by hand.
pub(crate) async fn dial(address: &str, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from(LOOPBACK).unwrap();
    tokio_rustls::TlsConnector::from(Arc::clone(config)).connect(name, socket).await
}

/// The status of an answer and what of it came with the first pieces; an error when the connection ended before.
pub(crate) async fn ask(
    socket: &mut TlsStream<TcpStream>,
    path: &str,
    value: &impl Serialize,
) -> std::io::Result<(u16, String)> {
    let json = serde_json::to_string(value).unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{json}", json.len());
    socket.write_all(head.as_bytes()).await?;
    let mut text = String::new();
    let mut piece = [0u8; 4096];
    loop {
        let read = tokio::time::timeout(Duration::from_secs(20), socket.read(&mut piece)).await;
        let n = read.expect("an answer in time")?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        text.push_str(std::str::from_utf8(&piece[..n]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let length =
            head.to_lowercase().split("content-length: ").nth(1).map(|rest| {
                rest.split("\r\n").next().and_then(|n| n.parse::<usize>().ok()).expect("a length")
            });
        if length.is_none_or(|length| body.len() >= length) {
            return Ok((status, body.to_owned()));
        }
    }
}
