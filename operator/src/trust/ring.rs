//! What a replica holds in memory: the authorities, its own certificates from them, and the TLS that shows them.
//! All of it changes under open connections: each handshake takes what holds then.

use super::authority::{Authorities, Signed, Subject, requested_key};
use super::rotation::{Times, after};
use arc_swap::ArcSwap;
use jiff::Timestamp;
use outrigger_table::tls::{self, Holder};
use outrigger_table::{Identity, Refused};
use outrigger_wire::stream::IdentityAnswer;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// As whom a replica speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// The Service's name.
    pub service: String,
    /// The installation's namespace.
    pub namespace: String,
    /// This pod's name.
    pub pod: String,
    /// Its address, by which other replicas dial it.
    pub address: Option<IpAddr>,
}

impl Me {
    fn server(&self) -> Subject {
        let (service, namespace) = (&self.service, &self.namespace);
        let names = vec![
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
            format!("{service}.{namespace}"),
            service.clone(),
        ];
        Subject::Server { names, address: self.address }
    }
}

/// The certificate that servers show; it changes under them.
#[derive(Debug)]
struct Serving(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// See the module's head. All times are arguments.
#[derive(Debug)]
pub struct Ring {
    me: Me,
    times: Times,
    held: Mutex<Held>,
    serving: Arc<Serving>,
    bundle: watch::Sender<Arc<str>>,
    table: watch::Sender<Arc<ServerConfig>>,
    dialling: watch::Sender<Arc<ClientConfig>>,
}

#[derive(Debug)]
struct Held {
    authorities: Arc<Authorities>,
    /// When this replica's own certificates are renewed.
    renew: Timestamp,
}

/// A replica's own certificates.
struct Own {
    serving: CertifiedKey,
    client: Holder,
    renew: Timestamp,
}

impl Own {
    fn make(me: &Me, authorities: &Authorities, times: &Times, now: Timestamp) -> Result<Self, String> {
        let sign = |subject: &Subject| {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
                .map_err(|error| format!("a key pair can't be made: {error}"))?;
            let signed = authorities.current.sign(subject, &key, now, times.serving)?;
            let key: PrivateKeyDer<'static> = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
            Ok::<(Signed, _), String>((signed, key))
        };
        let (signed, key) = sign(&me.server())?;
        let chain = tls::certificates(signed.certificate.as_bytes())?;
        let key = tls::provider().key_provider.load_private_key(key).map_err(|error| error.to_string())?;
        let serving = CertifiedKey::new(chain, key);
        let (client, key) = sign(&Subject::Client(Identity::Operator(me.pod.clone())))?;
        let life = Duration::try_from(now.duration_until(signed.expires.min(client.expires)));
        let renew = after(now, life.unwrap_or_default() * 2 / 3);
        Ok(Self { serving, client: Holder { certificate: client.certificate, key }, renew })
    }
}

impl Ring {
    /// A ring with these authorities.
    ///
    /// # Errors
    /// In words, when nothing can be signed by them.
    pub fn new(me: Me, times: Times, authorities: Authorities, now: Timestamp) -> Result<Self, String> {
        let own = Own::make(&me, &authorities, &times, now)?;
        let bundle = authorities.bundle();
        let serving = Arc::new(Serving(ArcSwap::from_pointee(own.serving)));
        let table =
            tls::server_config(bundle.as_bytes(), Arc::clone(&serving) as Arc<dyn ResolvesServerCert>)?;
        let dialling = tls::client_config(bundle.as_bytes(), Some(&own.client))?;
        Ok(Self {
            me,
            times,
            held: Mutex::new(Held { authorities: Arc::new(authorities), renew: own.renew }),
            serving,
            bundle: watch::Sender::new(bundle.into()),
            table: watch::Sender::new(Arc::new(table)),
            dialling: watch::Sender::new(Arc::new(dialling)),
        })
    }

    /// Takes over what the Secret holds now, and renews this replica's own certificates when they are due or
    /// another authority signs. Says when it is to be called again at the latest.
    ///
    /// # Errors
    /// In words, when nothing can be signed; then what was held before stays.
    pub fn take(&self, authorities: Authorities, now: Timestamp) -> Result<Timestamp, String> {
        let mut held = self.held();
        let bundle = authorities.bundle();
        let renews = now >= held.renew || held.authorities.current != authorities.current;
        let is_new = **self.bundle.borrow() != *bundle;
        if !renews && !is_new {
            held.authorities = Arc::new(authorities);
            return Ok(held.renew);
        }
        let own = Own::make(&self.me, &authorities, &self.times, now)?;
        let resolver = Arc::clone(&self.serving) as Arc<dyn ResolvesServerCert>;
        let table = tls::server_config(bundle.as_bytes(), resolver)?;
        let dialling = tls::client_config(bundle.as_bytes(), Some(&own.client))?;
        // All that could fail has not.
        self.serving.0.store(Arc::new(own.serving));
        self.table.send_replace(Arc::new(table));
        self.dialling.send_replace(Arc::new(dialling));
        self.bundle.send_if_modified(|before| {
            if is_new {
                *before = bundle.into();
            }
            is_new
        });
        *held = Held { authorities: Arc::new(authorities), renew: own.renew };
        Ok(held.renew)
    }

    /// The authorities.
    pub fn authorities(&self) -> Arc<Authorities> {
        Arc::clone(&self.held().authorities)
    }

    /// How long things last.
    pub fn times(&self) -> &Times {
        &self.times
    }

    /// What clients are told, PEM.
    pub fn bundle(&self) -> watch::Receiver<Arc<str>> {
        self.bundle.subscribe()
    }

    /// How the table's server speaks.
    pub fn table(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.table.subscribe()
    }

    /// How this replica dials others.
    pub fn dialling(&self) -> watch::Receiver<Arc<ClientConfig>> {
        self.dialling.subscribe()
    }

    /// How a server for anybody speaks (the webhook's): the same certificate, none asked of clients.
    ///
    /// # Errors
    /// In words; when the provider lacks what TLS needs.
    pub fn serving(&self) -> Result<Arc<ServerConfig>, String> {
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.serving) as Arc<dyn ResolvesServerCert>);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Gives somebody a certificate.
    ///
    /// # Errors
    /// The request can't be read, or the name can't be signed.
    pub fn issue(&self, identity: Identity, csr: &str, now: Timestamp) -> Result<IdentityAnswer, Refused> {
        let key = requested_key(csr).map_err(Refused::Request)?;
        let authorities = self.authorities();
        let life = self.times.certificate;
        let signed = authorities.current.sign(&Subject::Client(identity), &key, now, life);
        let signed = signed.map_err(Refused::Token)?;
        let left = now.duration_until(signed.expires).as_secs();
        Ok(IdentityAnswer {
            certificate: signed.certificate,
            lifetime_seconds: u64::try_from(left).unwrap_or(0).max(1),
        })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
