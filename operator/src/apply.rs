//! Writing objects: server-side apply with one field manager, only when something differs, each request bounded.

use crate::names;
use crate::watch::index::{Held, Seen};
use crate::watch::kept;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use outrigger_crds::{ModelDeployment, ObjectMeta};
use outrigger_wire::Mistake;
use outrigger_wire::stream::Version;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// How long one request may take: an API server that hangs must not hold a worker.
const REQUEST: Duration = Duration::from_secs(10);
/// For how long an object that was applied may be missing from its watch before it counts as deleted by hand.
const ECHO: Duration = Duration::from_secs(5);

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no, or could not be reached.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// It did not answer in time.
    #[error("the API server did not answer within {} s", REQUEST.as_secs())]
    Slow,
    /// An object of this name is somebody else's.
    #[error("{kind} {name} exists already and is not this ModelDeployment's; rename one of them")]
    Foreign {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// What the user wrote can't be made into objects.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Mistaken(Vec<Mistake>),
    /// This replica is no longer the leader.
    #[error("another replica leads")]
    Deposed,
}

impl Error {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// The object has changed meanwhile: plan again.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// The object, or its namespace, is gone.
    pub fn is_gone(&self) -> bool {
        self.code() == Some(404)
    }

    /// The API server understood and will not have it: invalid, or forbidden by an admission policy. In words.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Api(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 413 | 422) => {
                Some(status.message.clone())
            }
            Self::Foreign { .. } | Self::Mistaken(_) => Some(self.to_string()),
            _ => None,
        }
    }
}

/// What was applied, and which version of the object that made.
#[derive(Clone, Debug)]
pub struct Applied {
    /// A digest of what was applied.
    digest: u64,
    version: u64,
    seen: Seen,
    at: Instant,
}

/// Whether an object has to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It is as it was applied.
    Nothing,
    /// It differs, or was changed or deleted by somebody else.
    Apply,
    /// It was applied a moment ago and the watch has not shown it yet: look again then.
    LookAgain(Instant),
}

/// A digest of what is to be applied.
pub fn digest(object: &impl Serialize) -> u64 {
    // What can't be serialised can't be applied either, and says so there.
    Version::of(0, &serde_json::to_vec(object).unwrap_or_default()).content
}

/// Whether an object with this digest has to be applied, where `held` is what the watch shows of it.
pub fn need(applied: Option<&Applied>, digest: u64, held: Option<&Held<Seen>>, now: Instant) -> Need {
    let Some(applied) = applied.filter(|applied| applied.digest == digest) else { return Need::Apply };
    match held {
        // The watch lags behind our own write.
        Some(held) if held.version < applied.version => Need::Nothing,
        Some(held) if held.value == applied.seen => Need::Nothing,
        Some(_) => Need::Apply,
        None if now < applied.at + ECHO => Need::LookAgain(applied.at + ECHO),
        None => Need::Apply,
    }
}

/// Runs a request for no longer than it may take.
///
/// # Errors
/// The request's own, or that it took too long.
pub async fn bounded<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(REQUEST, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::Slow),
    }
}

/// Applies an object: the fields that it names are the operator's, all others are left alone. Fields that somebody
/// else has set are taken back when the object is the same owner's, and never taken from an object that is not.
/// `digest` is the object's, which the caller has from asking whether there is need.
///
/// # Errors
/// What the API server says, or that the object is somebody else's.
pub async fn apply<K>(client: &Client, object: &K, digest: u64) -> Result<Applied, Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug,
{
    let meta = object.meta();
    let api: Api<K> = Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let name = meta.name.as_deref().unwrap_or_default();
    let gentle = PatchParams::apply(names::FIELD_MANAGER);
    let body = Patch::Apply(object);
    // Only a conflict is worth asking whose it is: one request instead of two for everything else.
    let written = match bounded(api.patch_metadata(name, &gentle, &body)).await {
        Err(error) if error.is_conflict() => {
            let found = bounded(api.get_metadata(name)).await?;
            if owner(&found.metadata) != owner(meta) {
                return Err(Error::Foreign { kind: K::kind(&()).into_owned(), name: name.to_owned() });
            }
            bounded(api.patch_metadata(name, &gentle.force(), &body)).await?
        }
        answer => answer?,
    };
    let version = written.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
    let seen = kept::seen(&written.metadata);
    Ok(Applied { digest, version, seen, at: Instant::now() })
}

fn owner(meta: &ObjectMeta) -> Option<&str> {
    let owners = meta.owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

/// Deletes the object of this name and uid; its dependants are collected in the background, in their own time.
/// What is gone already is no error.
///
/// # Errors
/// What the API server says.
pub async fn delete<K>(client: &Client, namespace: &str, name: &str, uid: &str) -> Result<(), Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    match bounded(api.delete(name, &params)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_gone() || error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Replaces the status, guarded by the resource version that `object` carries.
///
/// # Errors
/// A conflict when the object has changed meanwhile; what the API server says.
pub async fn status(client: &Client, object: &ModelDeployment) -> Result<ModelDeployment, Error> {
    let meta = &object.metadata;
    let api: Api<ModelDeployment> =
        Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or_default());
    let params = PostParams { dry_run: false, field_manager: Some(names::FIELD_MANAGER.to_owned()) };
    bounded(api.replace_status(meta.name.as_deref().unwrap_or_default(), &params, object)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(change: &str) -> Seen {
        Seen { uid: "u".to_owned(), change: change.to_owned(), labels: 1 }
    }

    fn held(version: u64, change: &str) -> Held<Seen> {
        Held { version, uid: "u".to_owned(), value: seen(change) }
    }

    /// proves O.3
    #[test]
    fn what_somebody_else_changed_or_deleted_is_applied_again() {
        let now = Instant::now();
        let applied = Applied { digest: 7, version: 10, seen: seen("generation 2"), at: now };
        let some = Some(&applied);
        assert_eq!(need(None, 7, None, now), Need::Apply, "never applied");
        assert_eq!(need(some, 8, Some(&held(10, "generation 2")), now), Need::Apply, "another is wanted");
        assert_eq!(need(some, 7, Some(&held(9, "generation 1")), now), Need::Nothing, "the watch lags");
        assert_eq!(need(some, 7, Some(&held(10, "generation 2")), now), Need::Nothing);
        assert_eq!(need(some, 7, Some(&held(12, "generation 2")), now), Need::Nothing, "its status changed");
        assert_eq!(need(some, 7, Some(&held(12, "generation 3")), now), Need::Apply, "edited by hand");
        assert_eq!(need(some, 7, None, now), Need::LookAgain(now + ECHO), "not shown yet");
        assert_eq!(need(some, 7, None, now + ECHO), Need::Apply, "deleted by hand");
    }
}
