//! What is kept of each watched kind, and of which deployment it is.

use super::index::{Declared, Entry, Kind, Named, Seen};
use crate::names;
use crate::observe::{Pod, ReplicaSet};
use crate::render;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use outrigger_crds::{ModelDeployment, ObjectMeta};
use outrigger_plan::Revision;
use outrigger_wire::DeploymentKey;
use outrigger_wire::stream::Version;
use std::sync::Arc;

/// An object that belongs to a deployment.
pub trait Kept: Sized {
    /// Its kind.
    const KIND: Kind;
    /// What is kept of it.
    type Value;

    /// Its metadata.
    fn metadata(&self) -> &ObjectMeta;

    /// The deployment to which it belongs: the one that owns it. Pods are a ReplicaSet's and have a label; an object's
    /// label may have been edited by hand, and the object is put right only where it is still known.
    fn deployment(&self) -> Option<DeploymentKey> {
        let meta = self.metadata();
        let owners = meta.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|owner| owner.kind == ModelDeployment::kind(&()));
        let label = || meta.labels.as_ref()?.get(names::DEPLOYMENT);
        let name = owner.map(|owner| &owner.name).or_else(label)?;
        Some(key(meta.namespace.as_deref()?, name))
    }

    /// What is kept.
    fn keep(self) -> Self::Value;

    /// Where it is kept.
    fn place(entry: &mut Entry) -> &mut Named<Self::Value>;
}

/// `namespace/name`.
pub fn key(namespace: &str, name: &str) -> DeploymentKey {
    DeploymentKey(format!("{namespace}/{name}"))
}

impl Kept for DeserializeGuard<ModelDeployment> {
    const KIND: Kind = Kind::ModelDeployment;
    type Value = Declared;

    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }

    fn deployment(&self) -> Option<DeploymentKey> {
        let meta = self.meta();
        Some(key(meta.namespace.as_deref()?, meta.name.as_deref()?))
    }

    fn keep(self) -> Declared {
        match self.0 {
            Ok(mut object) => {
                // Who wrote which field takes more memory than all the fields, and what kubectl wrote last as much again.
                object.metadata.managed_fields = None;
                if let Some(annotations) = &mut object.metadata.annotations {
                    annotations.retain(|name, _| name == names::ACTION);
                }
                Declared::Readable(Arc::new(object))
            }
            Err(invalid) => Declared::Unreadable(Arc::new(invalid.metadata), invalid.error),
        }
    }

    fn place(entry: &mut Entry) -> &mut Named<Declared> {
        &mut entry.declared
    }
}

impl Kept for Pod {
    const KIND: Kind = Kind::Pod;
    type Value = Arc<Self>;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn keep(self) -> Arc<Self> {
        Arc::new(self)
    }

    fn place(entry: &mut Entry) -> &mut Named<Arc<Self>> {
        &mut entry.pods
    }
}

impl Kept for ReplicaSet {
    const KIND: Kind = Kind::ReplicaSet;
    type Value = Arc<Self>;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn keep(self) -> Arc<Self> {
        Arc::new(self)
    }

    fn place(entry: &mut Entry) -> &mut Named<Arc<Self>> {
        &mut entry.sets
    }
}

impl Kept for ControllerRevision {
    const KIND: Kind = Kind::ControllerRevision;
    type Value = Result<Arc<Revision>, String>;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn keep(self) -> Self::Value {
        render::read_revision(&self).map(Arc::new)
    }

    fn place(entry: &mut Entry) -> &mut Named<Self::Value> {
        &mut entry.revisions
    }
}

/// Kinds of which only the metadata is watched.
macro_rules! metadata_only {
    ($kind:ident, $field:ident) => {
        impl Kept for PartialObjectMeta<$kind> {
            const KIND: Kind = Kind::$kind;
            type Value = Seen;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn keep(self) -> Seen {
                seen(&self.metadata)
            }

            fn place(entry: &mut Entry) -> &mut Named<Seen> {
                &mut entry.$field
            }
        }
    };
}

metadata_only!(Service, services);
metadata_only!(PodDisruptionBudget, budgets);
metadata_only!(NetworkPolicy, policies);

/// A digest of the uid of the one whose object this is, as [`Seen`] has it.
pub fn owner(meta: &ObjectMeta) -> Option<u64> {
    controller(meta).map(|owner| digest(owner.uid.as_bytes()))
}

/// The one whose object this is.
pub fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

/// Which version this is.
pub fn seen(meta: &ObjectMeta) -> Seen {
    let change = meta.generation.map(|generation| generation.to_string());
    let change = change.or_else(|| meta.resource_version.clone());
    let owners: Vec<&str> = meta.owner_references.iter().flatten().map(|owner| owner.uid.as_str()).collect();
    let all = serde_json::to_vec(&(&meta.uid, meta.generation.is_some(), change, &meta.labels, owners));
    Seen { digest: digest(&all.unwrap_or_default()), owner: owner(meta) }
}

fn digest(bytes: &[u8]) -> u64 {
    Version::of(0, bytes).content
}
