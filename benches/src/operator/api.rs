//! The API server's HTTPS, by hand: many small requests over as many connections as the operator uses, and nothing
//! between.
//!
//! `kubectl create -f` sends one object after the other, and `kubectl proxy` would take a part of the machine that the
//! API server is measured on; either would make the raw rate look low and the operator good.

use anyhow::{Context as _, Result, bail, ensure};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use outrigger_e2e::cluster::Cluster;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// As many requests at once as the operator has workers.
pub(crate) const AT_ONCE: usize = 32;
/// The longest answer: a list of a thousand objects is 5 MB.
const MOST: usize = 64 << 20;
/// How long one answer may take.
const ANSWERS: Duration = Duration::from_secs(30);
/// Objects are answered as the operator asks for them: their metadata alone.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// The API server, and who asks it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    address: String,
    tls: Arc<rustls::ClientConfig>,
    token: String,
}

/// One request that writes.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    method: Method,
    path: String,
    media: &'static str,
    body: Bytes,
}

impl Write {
    /// Makes an object: a POST to the collection at `path`.
    pub(crate) fn create(path: &str, object: &Value) -> Self {
        let media = "application/json";
        Self { method: Method::POST, path: path.to_owned(), media, body: object.to_string().into() }
    }

    /// Applies an object at `path` as the operator does: server-side, with a field manager.
    pub(crate) fn apply(path: &str, object: &Value) -> Self {
        let path = format!("{path}?fieldManager=bench");
        let media = "application/apply-patch+yaml";
        Self { method: Method::PATCH, path, media, body: object.to_string().into() }
    }
}

/// What a run of writes gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wrote {
    /// How many.
    pub(crate) count: usize,
    /// In how long.
    pub(crate) took: Duration,
}

impl Wrote {
    /// Per second.
    pub(crate) fn rate(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64()
    }
}

impl Server {
    /// The server of this cluster, asked with this token.
    pub(crate) fn of(cluster: &Cluster, token: &str) -> Result<Self> {
        let config: Value =
            serde_json::from_str(&cluster.kubectl(&["config", "view", "--raw", "-o", "json"])?)?;
        let text = |path: &str| config.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let server = text("/clusters/0/cluster/server").context("the kubeconfig names no server")?;
        let address = server.strip_prefix("https://").context("the API server has no https:// address")?;
        let authority = text("/clusters/0/cluster/certificate-authority");
        let authority = authority.context("the kubeconfig names no file of a certificate authority")?;
        Ok(Self {
            address: address.trim_end_matches('/').to_owned(),
            tls: Arc::new(verifying(Path::new(&authority))?),
            token: token.to_owned(),
        })
    }

    /// Reads an object or a list.
    pub(crate) async fn get(&self, path: &str, metadata_alone: bool) -> Result<Value> {
        let mut connection = Connection::open(self).await?;
        let accept = if metadata_alone {
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        } else {
            "application/json"
        };
        let (status, body) =
            connection.ask(&Method::GET, path, accept, "application/json", Bytes::new()).await?;
        ensure!(status.is_success(), "GET {path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(serde_json::from_slice(&body)?)
    }

    /// Sends `count` writes over [`AT_ONCE`] connections, each as soon as the one before it is answered.
    ///
    /// # Errors
    /// When one is refused.
    pub(crate) async fn write(
        &self,
        count: usize,
        write: impl Fn(usize) -> Write + Send + Sync + 'static,
    ) -> Result<Wrote> {
        let mut connections = Vec::new();
        for _ in 0..AT_ONCE {
            connections.push(Connection::open(self).await?);
        }
        let (next, write) = (Arc::new(AtomicUsize::new(0)), Arc::new(write));
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for mut connection in connections {
            let (next, write) = (Arc::clone(&next), Arc::clone(&write));
            tasks.spawn(async move {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return anyhow::Ok(());
                    }
                    connection.write(write(at)).await?;
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(Wrote { count, took: began.elapsed() })
    }
}

/// Trusts this authority alone.
fn verifying(authority: &Path) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    authorization: String,
}

impl Connection {
    async fn open(server: &Server) -> Result<Self> {
        let stream = TcpStream::connect(&server.address).await.context("reaching the API server")?;
        stream.set_nodelay(true)?;
        let host = server.address.rsplit_once(':').map_or(server.address.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.to_owned())?;
        let stream = TlsConnector::from(Arc::clone(&server.tls)).connect(name, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with its sender; what breaks it shows there.
        tokio::spawn(connection);
        let authorization = format!("Bearer {}", server.token);
        Ok(Self { sender, host: server.address.clone(), authorization })
    }

    async fn write(&mut self, write: Write) -> Result<()> {
        let Write { method, path, media, body } = write;
        let (status, body) = self.ask(&method, &path, METADATA, media, body).await?;
        if !status.is_success() {
            bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(())
    }

    async fn ask(
        &mut self,
        method: &Method,
        path: &str,
        accept: &str,
        media: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes)> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::ACCEPT, accept)
            .header(header::CONTENT_TYPE, media)
            .body(Full::new(body))?;
        let answer = async {
            self.sender.ready().await?;
            let response = self.sender.send_request(request).await?;
            let status = response.status();
            #[allow(clippy::disallowed_methods, reason = "bounded by MOST")]
            let body = Limited::new(response.into_body(), MOST).collect().await;
            let body = body.map_err(anyhow::Error::from_boxed)?;
            anyhow::Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(ANSWERS, answer).await.with_context(|| format!("{method} {path}: no answer"))?
    }
}
