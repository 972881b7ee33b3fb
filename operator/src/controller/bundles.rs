//! Which namespaces have the certificate authority's bundle: a pod's sidecar can't verify the operator without it, and a
//! kubelet that finds it missing looks again only a minute later. So it is there before a namespace's first pod.

use crate::apply::{self, Error};
use crate::names;
use crate::trust::{Trust, publish};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::DeleteParams;
use kube::{Api, Client};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The namespaces with deployments. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct Bundles {
    trust: Trust,
    client: Client,
    /// The installation's own namespace, where gateways need the bundle whatever there is.
    home: Arc<str>,
    namespaces: Arc<watch::Sender<BTreeSet<String>>>,
    /// Where a bundle is being put or taken away: thirty deployments of a new namespace ask once, and those of one where
    /// writing hangs hold up no others.
    busy: Arc<Mutex<BTreeSet<String>>>,
}

impl std::fmt::Debug for Bundles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundles").field("namespaces", &*self.namespaces.borrow()).finish_non_exhaustive()
    }
}

impl Bundles {
    /// None so far.
    pub fn new(trust: Trust, client: Client, home: &str) -> Self {
        Self { trust, client, home: home.into(), namespaces: Arc::default(), busy: Arc::default() }
    }

    /// All of them, now and whenever one is added: [`Trust::publish`] keeps the bundle in each.
    pub fn namespaces(&self) -> watch::Receiver<BTreeSet<String>> {
        self.namespaces.subscribe()
    }

    /// Sees to it that the bundle is in this namespace.
    ///
    /// # Errors
    /// What the API server says.
    pub(crate) async fn ensure(&self, namespace: &str) -> Result<(), Error> {
        let is_there = || self.namespaces.borrow().contains(namespace);
        if is_there() {
            return Ok(());
        }
        let _busy = self.busy(namespace).ok_or(Error::Underway)?;
        let bundle = Arc::clone(&self.trust.bundle().borrow());
        apply::bounded(publish::publish_bundle(&self.client, namespace, &bundle)).await?;
        self.namespaces.send_modify(|all| {
            all.insert(namespace.to_owned());
        });
        Ok(())
    }

    /// Nobody else is at work on this namespace's until what is returned is dropped.
    fn busy(&self, namespace: &str) -> Option<Busy> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = busy.insert(namespace.to_owned());
        begun.then(|| Busy { all: Arc::clone(&self.busy), namespace: namespace.to_owned() })
    }

    /// Takes the bundle out of a namespace that has no deployments any more. One that stays behind, because nobody led
    /// at that moment or the request failed, does no harm: it is what every pod of the cluster may know.
    pub(crate) async fn forget(&self, namespace: &str) {
        if *self.home == *namespace || !self.namespaces.send_if_modified(|all| all.remove(namespace)) {
            return;
        }
        // Somebody has begun to put it there again.
        let Some(_busy) = self.busy(namespace) else { return };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        match apply::bounded(api.delete(names::CA_OBJECT, &DeleteParams::default())).await {
            Err(error) if !error.is_gone() => tracing::debug!(namespace, %error, "a bundle stays behind"),
            _ => {}
        }
    }
}

struct Busy {
    all: Arc<Mutex<BTreeSet<String>>>,
    namespace: String,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.namespace);
    }
}
