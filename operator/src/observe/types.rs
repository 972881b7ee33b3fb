//! Objects of the API as far as they are needed. A watch over many pods keeps each in memory, and most of a pod is
//! its environment, its volumes, and who wrote which field when; none of that is decoded.

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1 as core;
use kube::Resource;
use outrigger_crds::{ObjectMeta, Time};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Amounts by the resource's name, as the API writes them: `{"nvidia.com/gpu": "1", "memory": "16Gi"}`.
pub type Amounts = BTreeMap<String, String>;

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Its metadata, without annotations and managed fields.
    #[serde(deserialize_with = "lean")]
    pub metadata: ObjectMeta,
    /// What it is to be.
    pub spec: PodSpec,
    /// What the kubelet and the scheduler say.
    pub status: PodStatus,
}

/// What a pod is to be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Where it was put.
    pub node_name: Option<String>,
    /// Its containers.
    pub containers: Vec<Container>,
    /// Its init containers, the sidecar among them.
    pub init_containers: Vec<Container>,
}

/// A container as it is declared.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// What it runs.
    pub image: Option<String>,
    /// `Always` makes an init container a native sidecar.
    pub restart_policy: Option<String>,
    /// What it needs.
    pub resources: Resources,
}

/// What a container needs. The API server fills in requests from limits.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// What it is promised.
    #[serde(deserialize_with = "nullable")]
    pub requests: Amounts,
    /// What it may not exceed.
    #[serde(deserialize_with = "nullable")]
    pub limits: Amounts,
}

/// What is said about a pod.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`.
    pub phase: Option<String>,
    /// One word about the whole pod: `Evicted`, `UnexpectedAdmissionError`.
    pub reason: Option<String>,
    /// The sentence to it.
    pub message: Option<String>,
    /// Its address.
    #[serde(rename = "podIP")]
    pub pod_ip: Option<String>,
    /// When a kubelet took it.
    pub start_time: Option<Time>,
    /// What holds of it.
    pub conditions: Vec<Condition>,
    /// What its containers do.
    pub container_statuses: Vec<ContainerStatus>,
    /// What its init containers do.
    pub init_container_statuses: Vec<ContainerStatus>,
}

/// A condition of a pod, a node or a ReplicaSet.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Which one.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False`, `Unknown`.
    pub status: String,
    /// One word.
    pub reason: Option<String>,
    /// The sentence to it.
    pub message: Option<String>,
    /// When `status` last changed.
    pub last_transition_time: Option<Time>,
}

/// What a container does.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// What it runs.
    pub image: Option<String>,
    /// Whether its probe succeeds.
    pub ready: bool,
    /// How often it was started again.
    pub restart_count: i32,
    /// What it does now.
    pub state: State,
    /// How its run before this one ended.
    pub last_state: State,
}

/// One run of a container, or the wait for it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct State {
    /// It doesn't run yet, or not again yet.
    pub waiting: Option<Waiting>,
    /// It runs.
    pub running: Option<Running>,
    /// It has ended.
    pub terminated: Option<Terminated>,
}

/// Why a container doesn't run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Waiting {
    /// One word: `ContainerCreating`, `CrashLoopBackOff`.
    pub reason: Option<String>,
    /// The sentence to it.
    pub message: Option<String>,
}

/// A container that runs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Running {
    /// Since when.
    pub started_at: Option<Time>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Terminated {
    /// What the process said.
    pub exit_code: i32,
    /// One word: `Error`, `OOMKilled`, `Completed`.
    pub reason: Option<String>,
    /// The sentence to it: what could not be started.
    pub message: Option<String>,
    /// When.
    pub finished_at: Option<Time>,
}

/// A ReplicaSet.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSet {
    /// Its metadata, without annotations and managed fields.
    #[serde(deserialize_with = "lean")]
    pub metadata: ObjectMeta,
    /// What its controller says.
    pub status: ReplicaSetStatus,
}

/// What is said about a ReplicaSet.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetStatus {
    /// What holds of it: `ReplicaFailure`.
    pub conditions: Vec<Condition>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Its metadata, without annotations, labels and managed fields.
    #[serde(deserialize_with = "bare")]
    pub metadata: ObjectMeta,
    /// What it is to be.
    pub spec: NodeSpec,
    /// What its kubelet says.
    pub status: NodeStatus,
}

/// What a node is to be.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Whether nothing new may be put there.
    pub unschedulable: bool,
}

/// What is said about a node.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// What pods may have of it.
    pub allocatable: Amounts,
    /// Whether it is ready; the other conditions are not kept.
    #[serde(deserialize_with = "readiness")]
    pub conditions: Vec<Condition>,
}

/// Somebody's pod, as far as it takes up room on a node. Listed in pages, summed ([`Used`](super::Used)), forgotten.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Foreign {
    /// Its name, and whether it is leaving.
    #[serde(deserialize_with = "bare")]
    pub metadata: ObjectMeta,
    /// Where it is, and what it needs.
    pub spec: PodSpec,
    /// Whether it has ended.
    pub status: ForeignStatus,
}

/// Whether a pod has ended.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ForeignStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`.
    pub phase: Option<String>,
}

/// Metadata without what nobody here reads.
fn lean<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let mut meta = ObjectMeta::deserialize(deserializer)?;
    meta.managed_fields = None;
    meta.annotations = None;
    meta.generate_name = None;
    meta.self_link = None;
    Ok(meta)
}

/// Metadata without labels too.
fn bare<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let mut meta = lean(deserializer)?;
    meta.labels = None;
    Ok(meta)
}

fn readiness<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Condition>, D::Error> {
    let mut conditions = Vec::<Condition>::deserialize(deserializer)?;
    conditions.retain(|condition| condition.kind == "Ready");
    // A heartbeat changes nothing, and its sentence is the same for all.
    conditions.iter_mut().for_each(|condition| condition.message = None);
    conditions.shrink_to_fit();
    Ok(conditions)
}

fn nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Amounts, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The condition of this kind.
pub(crate) fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// Reads part of what another type describes: the same kind, group, version and path.
macro_rules! part_of {
    ($part:ty, $whole:ty) => {
        impl Resource for $part {
            type DynamicType = ();
            type Scope = <$whole as Resource>::Scope;

            fn kind(dt: &()) -> Cow<'_, str> {
                <$whole as Resource>::kind(dt)
            }

            fn group(dt: &()) -> Cow<'_, str> {
                <$whole as Resource>::group(dt)
            }

            fn version(dt: &()) -> Cow<'_, str> {
                <$whole as Resource>::version(dt)
            }

            fn plural(dt: &()) -> Cow<'_, str> {
                <$whole as Resource>::plural(dt)
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

part_of!(Pod, core::Pod);
part_of!(Foreign, core::Pod);
part_of!(ReplicaSet, apps::ReplicaSet);
part_of!(Node, core::Node);
