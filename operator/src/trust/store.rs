//! The Secret of the authorities: read, written, and followed.

use super::authority::{self, Authorities};
use super::rotation::{Step, Times, decide};
use super::{Settings, TrustError, within};
use crate::names;
use futures_util::StreamExt;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// How often another replica's write is met before it is left for later.
const MOST_CONFLICTS: usize = 4;
/// How long one watch lasts, in seconds, and how long after that a connection is dead that has not ended.
const WATCH: (u32, Duration) = (30, Duration::from_secs(5));
/// The shortest and longest rests between two watches that failed, drawn between half and the whole.
const WATCH_REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The Secret.
pub(super) struct Store {
    api: Api<Secret>,
}

impl Store {
    pub(super) fn new(client: &Client, settings: &Settings) -> Self {
        Self { api: Api::namespaced(client.clone(), &settings.me.namespace) }
    }

    /// What the Secret holds after `change` and after the steps that are due; and until when it stands. Where there is
    /// none, an authority begins; what those that are `held` have signed is still taken.
    pub(super) async fn keep(
        &self,
        times: &Times,
        held: Option<&Authorities>,
        change: impl Fn(&Authorities, Timestamp) -> Authorities,
    ) -> Result<(Authorities, Timestamp), TrustError> {
        for _ in 0..MOST_CONFLICTS {
            let now = Timestamp::now();
            let found = within(self.api.get_opt(names::CA_OBJECT)).await?;
            let before = found.as_ref().map(read).transpose().map_err(TrustError::Damaged)?;
            let mut after = match &before {
                Some(before) => change(before, now),
                None => Authorities::begin_after(held, now, times.authority).map_err(TrustError::Signing)?,
            };
            let until = loop {
                match decide(&after.known(), now, times) {
                    Step::Stand(until) => break until,
                    step => after = after.step(step, now, times.authority).map_err(TrustError::Signing)?,
                }
            };
            if before.as_ref() == Some(&after) || self.write(found, &after).await? {
                return Ok((after, until));
            }
        }
        Err(TrustError::Conflict)
    }

    /// Writes it; `false` when another replica has written in between.
    async fn write(&self, found: Option<Secret>, authorities: &Authorities) -> Result<bool, TrustError> {
        let params =
            PostParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let exists = found.is_some();
        let secret = filled(found.unwrap_or_default(), authorities);
        let written = match exists {
            false => within(self.api.create(&params, &secret)).await,
            true => within(self.api.replace(names::CA_OBJECT, &params, &secret)).await,
        };
        match written {
            Ok(_) => Ok(true),
            Err(TrustError::Api(kube::Error::Api(status))) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Says whenever somebody has changed the Secret or taken it away, until the future is dropped: replicas with
    /// different authorities refuse each other and each other's proxies. Where it may not be watched, it is looked at
    /// now and then all the same.
    pub(super) async fn follow(&self, changed: &Notify) {
        let (mut version, mut rest, mut said) = ("0".to_owned(), WATCH_REST.0, String::new());
        loop {
            let Err(why) = self.watch(&mut version, changed).await else {
                rest = WATCH_REST.0;
                continue;
            };
            // Whatever came in between is seen from the beginning.
            "0".clone_into(&mut version);
            if said != why {
                tracing::warn!(
                    why,
                    "Secret {} is not watched; it is looked at now and then",
                    names::CA_OBJECT
                );
                said = why;
            }
            sleep(rest.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            rest = (rest * 2).min(WATCH_REST.1);
        }
    }

    /// One watch, from this version on and until it ends as it should; without what the Secret holds.
    async fn watch(&self, version: &mut String, changed: &Notify) -> Result<(), String> {
        let only = format!("metadata.name={}", names::CA_OBJECT);
        let params = WatchParams::default().fields(&only).timeout(WATCH.0);
        let stream = within(self.api.watch_metadata(&params, version)).await;
        let mut stream = Box::pin(stream.map_err(|error| error.to_string())?);
        loop {
            let longest = Duration::from_secs(WATCH.0.into()) + WATCH.1;
            let event = timeout(longest, stream.next()).await.map_err(|_| "silence".to_owned())?;
            match event.transpose().map_err(|error| error.to_string())? {
                None => return Ok(()),
                Some(WatchEvent::Bookmark(mark)) => *version = mark.metadata.resource_version,
                Some(WatchEvent::Error(status)) => return Err(status.message.clone()),
                Some(
                    WatchEvent::Added(secret) | WatchEvent::Modified(secret) | WatchEvent::Deleted(secret),
                ) => {
                    *version = secret.metadata.resource_version.unwrap_or_default();
                    changed.notify_one();
                }
            }
        }
    }
}

fn read(secret: &Secret) -> Result<Authorities, String> {
    let data = secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect();
    Authorities::read(&data, &secret.metadata.annotations.clone().unwrap_or_default())
}

/// The Secret with these authorities; what else stands in its metadata stays.
fn filled(mut secret: Secret, authorities: &Authorities) -> Secret {
    let (data, annotations) = authorities.write();
    secret.metadata.name = Some(names::CA_OBJECT.to_owned());
    let labels = secret.metadata.labels.get_or_insert_default();
    labels.insert(names::MANAGED_BY.to_owned(), names::OUTRIGGER.to_owned());
    let all = secret.metadata.annotations.get_or_insert_default();
    all.retain(|key, _| key != authority::PUBLISHED && key != authority::REPLACED);
    all.extend(annotations);
    secret.data = Some(data.into_iter().map(|(key, value)| (key, ByteString(value))).collect());
    secret
}
