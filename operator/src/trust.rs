//! By what operator and proxies know each other: an authority of our own, made by whichever replica is first, kept
//! in a Secret and followed in time; certificates from it for the operator's servers and, for their tokens, for
//! proxies.
//!
//! ```text
//! Secret outrigger-ca ──► Ring ──► table, webhook (serving certificate)
//!                           ├────► proxies (token ─ TokenReview ─► certificate)
//!                           └────► ConfigMaps outrigger-ca, caBundle (what clients trust)
//! ```

pub mod authority;
pub mod publish;
pub mod replicas;
pub mod review;
pub mod ring;
pub mod rotation;
mod store;

use crate::names;
use authority::Authorities;
use jiff::Timestamp;
use kube::Client;
use outrigger_table::{Authority, Door, Identity, Refused};
use outrigger_wire::EndpointId;
use outrigger_wire::stream::IdentityRequest;
use review::{Reviewer, TokenReviews};
use ring::{Me, Ring};
use rotation::Times;
use rustls::{ClientConfig, ServerConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

/// How long one request to the API server may take.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// The rest after a failure, drawn between half and the whole; doubled up to the second.
const REST: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How soon a change of the Secret is looked at, drawn between nothing and this: replicas hear of it together.
const HEARD: Duration = Duration::from_millis(300);
/// How often bundles are put back in place though nothing has changed: somebody may have edited or deleted one.
const AGAIN: Duration = Duration::from_secs(300);

/// What trust is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// As whom this replica speaks.
    pub me: Me,
    /// The gateway's service account, in the installation's namespace.
    pub gateway: String,
    /// The name of the webhook configurations whose `caBundle` is kept.
    pub webhook: Option<String>,
    /// How long things last.
    pub times: Times,
}

/// Why the authority can't be had.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The API server's word.
    #[error("Secret {name}: {0}", name = names::CA_OBJECT)]
    Api(#[from] kube::Error),
    /// No answer.
    #[error("Secret {}: the API server did not answer in {} s", names::CA_OBJECT, REQUEST_TIME.as_secs())]
    Silence,
    /// What the Secret holds is no authority.
    #[error("Secret {name} is damaged: {0}; delete it and a new authority is made", name = names::CA_OBJECT)]
    Damaged(String),
    /// Nothing can be signed.
    #[error("{0}")]
    Signing(String),
    /// Others wrote it again and again.
    #[error("Secret {} is written by others all the time", names::CA_OBJECT)]
    Conflict,
}

/// The trust of one replica. Cheap to clone.
#[derive(Clone)]
pub struct Trust {
    client: Client,
    settings: Arc<Settings>,
    ring: Arc<Ring>,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Trust {
    /// Reads the authority or makes the first one; waits until the API server lets it.
    pub async fn start(client: Client, settings: Settings) -> Self {
        let mut rest = REST.0;
        loop {
            match Self::try_start(&client, &settings).await {
                Ok(ring) => {
                    return Self { client, settings: Arc::new(settings), ring: Arc::new(ring) };
                }
                Err(error) => tracing::warn!(%error, "there is no authority yet"),
            }
            sleep(rest.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            rest = (rest * 2).min(REST.1);
        }
    }

    async fn try_start(client: &Client, settings: &Settings) -> Result<Ring, TrustError> {
        let store = Store::new(client, settings);
        let (authorities, _) =
            store.keep(&settings.times, None, |authorities, _| authorities.clone()).await?;
        Ring::new(settings.me.clone(), settings.times, authorities, Timestamp::now())
            .map_err(TrustError::Signing)
    }

    /// For [`outrigger_table::Server::serve_tls`]; sidecars are let in for pods that `is_replica` knows.
    pub fn door(&self, is_replica: IsReplica) -> Door {
        let reviews =
            TokenReviews::new(self.client.clone(), &self.settings.me.namespace, &self.settings.gateway);
        let registrar = Registrar::new(Arc::clone(&self.ring), Arc::new(reviews), is_replica);
        Door::new(self.ring.table(), Arc::new(registrar))
    }

    /// For the webhook's server.
    ///
    /// # Errors
    /// In words; when the provider lacks what TLS needs.
    pub fn serving(&self) -> Result<Arc<ServerConfig>, String> {
        self.ring.serving()
    }

    /// For [`outrigger_table::Forwarder`].
    pub fn dialling(&self) -> watch::Receiver<Arc<ClientConfig>> {
        self.ring.dialling()
    }

    /// What clients trust, PEM.
    pub fn bundle(&self) -> watch::Receiver<Arc<str>> {
        self.ring.bundle()
    }

    /// Looks at the Secret, takes the steps that are due, renews this replica's certificates; on each replica,
    /// until the future is dropped.
    pub async fn run(&self) {
        let store = Store::new(&self.client, &self.settings);
        let changed = Notify::new();
        tokio::join!(store.follow(&changed), self.keep(&store, &changed));
    }

    async fn keep(&self, store: &Store, changed: &Notify) {
        let times = *self.ring.times();
        let mut wait = times.look;
        loop {
            tokio::select! {
                () = sleep(wait.mul_f64(0.75 + fastrand::f64() / 4.0)) => {}
                () = changed.notified() => sleep(HEARD.mul_f64(fastrand::f64())).await,
            }
            let held = self.ring.authorities();
            let kept = store.keep(&times, Some(&held), |authorities, _| authorities.clone()).await;
            let taken = kept.and_then(|(authorities, until)| {
                let renew = self.ring.take(authorities, Timestamp::now()).map_err(TrustError::Signing)?;
                Ok(until.min(renew))
            });
            wait = match taken {
                Ok(until) => {
                    let left = Duration::try_from(Timestamp::now().duration_until(until)).unwrap_or_default();
                    left.clamp(REST.0.min(times.look), times.look)
                }
                Err(error) => {
                    tracing::warn!(%error, "the authority was not looked at; what is held holds on");
                    self.renew_alone();
                    REST.1.min(times.look)
                }
            };
        }
    }

    /// Without the API server: this replica's own certificates are renewed all the same.
    fn renew_alone(&self) {
        let authorities = Authorities::clone(&self.ring.authorities());
        if let Err(error) = self.ring.take(authorities, Timestamp::now()) {
            tracing::warn!(error, "certificates were not renewed");
        }
    }

    /// Tells clients: the ConfigMap in the installation's namespace and in these, and the webhooks' `caBundle`, at
    /// once when something changes and now and then anyway. When all of them have it, a new authority may sign
    /// after the overlap. For the replica that leads, until the future is dropped.
    pub async fn publish(&self, mut namespaces: watch::Receiver<BTreeSet<String>>) {
        let mut bundle = self.ring.bundle();
        let mut rest = REST.0;
        let mut told: BTreeMap<String, Arc<str>> = BTreeMap::new();
        loop {
            let now = Arc::clone(&bundle.borrow_and_update());
            let mut wanted = namespaces.borrow_and_update().clone();
            wanted.insert(self.settings.me.namespace.clone());
            let whole = self.publish_once(&now, &wanted, &mut told).await;
            let wait = match &whole {
                Ok(()) => {
                    rest = REST.0;
                    AGAIN
                }
                Err(error) => {
                    tracing::warn!(%error, "not everybody was told of the authorities");
                    rest = (rest * 2).min(REST.1);
                    rest
                }
            };
            tokio::select! {
                () = sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)) => if whole.is_ok() { told.clear() },
                Ok(()) = bundle.changed() => {}
                Ok(()) = namespaces.changed() => {}
            }
        }
    }

    async fn publish_once(
        &self,
        bundle: &Arc<str>,
        namespaces: &BTreeSet<String>,
        told: &mut BTreeMap<String, Arc<str>>,
    ) -> Result<(), TrustError> {
        told.retain(|namespace, _| namespaces.contains(namespace));
        if let Some(name) = &self.settings.webhook {
            within(publish::keep_ca_bundle(&self.client, name, bundle)).await?;
        }
        let mut failed = Ok(());
        for namespace in namespaces {
            if told.get(namespace).is_some_and(|has| has == bundle) {
                continue;
            }
            // One namespace that can't be written to keeps nothing from the others.
            match within(publish::publish_bundle(&self.client, namespace, bundle)).await {
                Ok(_) => {
                    told.insert(namespace.clone(), Arc::clone(bundle));
                }
                Err(error) => failed = Err(error),
            }
        }
        failed?;
        self.mark_published(bundle).await
    }

    /// Everybody has this bundle: where it holds the next authority, the time begins after which that one signs.
    async fn mark_published(&self, bundle: &str) -> Result<(), TrustError> {
        if !matches!(self.ring.authorities().next, Some((_, None))) {
            return Ok(());
        }
        let store = Store::new(&self.client, &self.settings);
        let mark = |authorities: &Authorities, now| match authorities.bundle() == bundle {
            true => authorities.published(now),
            // Another replica has been faster: what was told is not all that there is.
            false => authorities.clone(),
        };
        let held = self.ring.authorities();
        let (authorities, _) = store.keep(self.ring.times(), Some(&held), mark).await?;
        self.ring.take(authorities, Timestamp::now()).map(drop).map_err(TrustError::Signing)
    }
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, TrustError> {
    Ok(timeout(REQUEST_TIME, request).await.map_err(|_| TrustError::Silence)??)
}

/// Whether a pod, by its uid, is a replica of a ModelDeployment, as far as has been heard.
pub type IsReplica = Arc<dyn Fn(&EndpointId) -> bool + Send + Sync>;

/// Gives certificates to whom the reviewer names: to gateways, and to sidecars of replicas. Any pod may have a token
/// for this audience; of one that is nobody's replica there is nothing to hear and nothing to tell.
pub struct Registrar {
    ring: Arc<Ring>,
    reviewer: Arc<dyn Reviewer>,
    is_replica: IsReplica,
}

impl Registrar {
    /// One that signs with this ring.
    pub fn new(ring: Arc<Ring>, reviewer: Arc<dyn Reviewer>, is_replica: IsReplica) -> Self {
        Self { ring, reviewer, is_replica }
    }
}

impl std::fmt::Debug for Registrar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registrar").finish_non_exhaustive()
    }
}

impl Authority for Registrar {
    fn issue(&self, request: IdentityRequest) -> outrigger_table::door::Issuing<'_> {
        Box::pin(async move {
            let identity = self.reviewer.review(request.token).await?;
            if let Identity::Endpoint(uid) = &identity
                && !(self.is_replica)(uid)
            {
                // It may be new: a sidecar asks as soon as it starts, and what is watched comes moments later.
                let why = "the pod is not known as a replica of a ModelDeployment; try again soon";
                tracing::debug!(%identity, why, "gave no certificate");
                return Err(Refused::Unavailable(why.to_owned()));
            }
            let issued = self.ring.issue(identity.clone(), &request.csr, Timestamp::now());
            match &issued {
                Ok(_) => tracing::info!(%identity, "gave a certificate"),
                Err(why) => tracing::warn!(%identity, %why, "gave no certificate"),
            }
            issued
        })
    }
}
