//! Writing objects: server-side apply with one field manager, only when something differs, each request bounded.

use crate::names;
use crate::watch::index::{Held, Seen};
use crate::watch::kept::{self, controller};
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
    /// The same, of an object without which replicas are had all the same.
    #[error("{0}")]
    Beside(Box<Error>),
    /// Another look is at work on what this one needs too.
    #[error("another look is at work on it")]
    Underway,
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

    /// The object's namespace is going, so nothing new is taken into it, and all that is in it goes too.
    pub fn is_leaving(&self) -> bool {
        let Self::Api(kube::Error::Api(status)) = self else { return false };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
    }

    /// The API server understood and will not have it: invalid, or forbidden by an admission policy. In words.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Self::Api(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 413 | 422) => {
                Some(status.message.clone())
            }
            Self::Foreign { .. } | Self::Mistaken(_) => Some(self.to_string()),
            Self::Beside(error) => error.refusal(),
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
        // The watch lags behind our own write; or, when that lasts, etcd was restored to a time before it.
        Some(held) if held.version < applied.version && now < applied.at + ECHO => {
            Need::LookAgain(applied.at + ECHO)
        }
        Some(held) if held.version < applied.version => Need::Apply,
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
/// `digest` is the object's, which the caller has from asking whether there is need; `known` says that the object is
/// known to be this owner's. Else it is asked: applying merges with what is there, whoever's it is, and would make a
/// Service of the user's one that goes with the deployment.
///
/// # Errors
/// What the API server says, or that the object is somebody else's.
pub async fn apply<K>(client: &Client, object: &K, digest: u64, known: bool) -> Result<Applied, Error>
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
    let foreign = || Error::Foreign { kind: K::kind(&()).into_owned(), name: name.to_owned() };
    if !known {
        match bounded(api.get_metadata(name)).await {
            Ok(found) if !may_take(&found.metadata, meta) => return Err(foreign()),
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
    }
    // Only a conflict is worth asking whose it is: one request instead of two for everything else.
    let written = match bounded(api.patch_metadata(name, &gentle, &body)).await {
        Err(error) if error.is_conflict() => {
            let found = bounded(api.get_metadata(name)).await?;
            if !may_take(&found.metadata, meta) {
                return Err(foreign());
            }
            bounded(api.patch_metadata(name, &gentle.force(), &body)).await?
        }
        answer => answer?,
    };
    let version = written.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
    let seen = kept::seen(&written.metadata);
    Ok(Applied { digest, version, seen, at: Instant::now() })
}

/// Whether what is there is this owner's, or was one's of this name: of a deployment that was deleted, with or without
/// what belongs to it, and declared anew. The garbage collector asks again whose an object is before it takes it.
fn may_take(found: &ObjectMeta, wanted: &ObjectMeta) -> bool {
    let label =
        |meta: &ObjectMeta, name: &str| meta.labels.as_ref().and_then(|labels| labels.get(name).cloned());
    let left_behind = || {
        [names::MANAGED_BY, names::DEPLOYMENT]
            .iter()
            .all(|name| label(found, name).is_some() && label(found, name) == label(wanted, name))
    };
    match (controller(found), controller(wanted)) {
        (Some(found), Some(wanted)) => found.kind == wanted.kind && found.name == wanted.name,
        (found, _) => found.is_none() && left_behind(),
    }
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
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    fn seen(change: &str) -> Seen {
        Seen { digest: outrigger_wire::stream::Version::of(0, change.as_bytes()).content, owner: None }
    }

    fn held(version: u64, change: &str) -> Held<Seen> {
        Held { version, uid: "u".to_owned(), value: seen(change) }
    }

    fn meta(owner: Option<&str>, deployment: Option<&str>) -> ObjectMeta {
        let reference = |uid: &str| OwnerReference {
            controller: Some(true),
            uid: uid.to_owned(),
            kind: if uid == "d" { "Deployment" } else { "ModelDeployment" }.to_owned(),
            name: if uid == "2" { "other" } else { "chat" }.to_owned(),
            ..OwnerReference::default()
        };
        let ours = |name: &str| {
            let manager = (names::MANAGED_BY.to_owned(), names::OUTRIGGER.to_owned());
            [manager, (names::DEPLOYMENT.to_owned(), name.to_owned())].into()
        };
        ObjectMeta {
            labels: deployment.map(ours),
            owner_references: owner.map(|uid| vec![reference(uid)]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn what_is_somebody_elses_is_not_taken() {
        let wanted = meta(Some("1"), Some("chat"));
        assert!(may_take(&wanted, &wanted));
        assert!(may_take(&meta(None, Some("chat")), &wanted), "left behind by a former one");
        assert!(!may_take(&meta(None, None), &wanted), "a user's own");
        assert!(!may_take(&meta(None, Some("other")), &wanted));
        assert!(!may_take(&meta(Some("2"), Some("chat")), &wanted), "another's");
        assert!(!may_take(&meta(Some("d"), Some("chat")), &wanted), "another kind's");
        assert!(may_take(&meta(Some("0"), Some("chat")), &wanted), "of the one that it replaces");
    }

    /// proves O.3
    #[test]
    fn what_somebody_else_changed_or_deleted_is_applied_again() {
        let now = Instant::now();
        let applied = Applied { digest: 7, version: 10, seen: seen("generation 2"), at: now };
        let some = Some(&applied);
        assert_eq!(need(None, 7, None, now), Need::Apply, "never applied");
        assert_eq!(need(some, 8, Some(&held(10, "generation 2")), now), Need::Apply, "another is wanted");
        let older = held(9, "generation 1");
        assert_eq!(need(some, 7, Some(&older), now), Need::LookAgain(now + ECHO), "the watch lags");
        assert_eq!(need(some, 7, Some(&older), now + ECHO), Need::Apply, "etcd was restored");
        assert_eq!(need(some, 7, Some(&held(10, "generation 2")), now), Need::Nothing);
        assert_eq!(need(some, 7, Some(&held(12, "generation 2")), now), Need::Nothing, "its status changed");
        assert_eq!(need(some, 7, Some(&held(12, "generation 3")), now), Need::Apply, "edited by hand");
        assert_eq!(need(some, 7, None, now), Need::LookAgain(now + ECHO), "not shown yet");
        assert_eq!(need(some, 7, None, now + ECHO), Need::Apply, "deleted by hand");
    }
}
