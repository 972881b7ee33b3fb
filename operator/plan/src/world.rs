//! What is wanted and what is observed: the planner's whole input, but for the time.

use jiff::{SignedDuration, Timestamp};
use outrigger_crds::{Engine, ModelDeploymentSpec, ModelDeploymentStatus};
use outrigger_verdict::Delta;
use outrigger_wire::{
    DeploymentKey, EndpointId, EndpointReport, EngineState, GatewayId, Restarts, RevisionId,
};
use serde::{Deserialize, Serialize};

/// One deployment's world. Neutral: pods and processes look alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct World {
    /// What the user wants.
    pub spec: Declared,
    /// What the leader wrote last.
    #[serde(default)]
    pub status: ModelDeploymentStatus,
    /// The revisions that are kept, the declared one among them once it was stored.
    #[serde(default)]
    pub revisions: Vec<Revision>,
    /// All replicas, whatever their state.
    #[serde(default)]
    pub replicas: Vec<Replica>,
    /// Gateways that were heard of.
    #[serde(default)]
    pub gateways: Vec<Gateway>,
    /// What keeps replicas from being had.
    #[serde(default)]
    pub capacity: Capacity,
    /// What gateways counted since the status was written.
    #[serde(default)]
    pub evidence: Evidence,
    /// The annotation `outrigger.dev/action` as it stands, see [`crate::action`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Declared {
    /// `namespace/name`.
    pub key: DeploymentKey,
    /// Grows with every change of the spec.
    pub generation: i64,
    /// When it was first declared; one that was deleted and declared anew under the same name is another.
    #[serde(default)]
    pub created: Timestamp,
    /// The spec, checked.
    pub spec: ModelDeploymentSpec,
}

/// A revision that is kept, so that a rollback needs nobody's Git.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// The hash over `engine`.
    pub id: RevisionId,
    /// When it was first seen.
    pub created: Timestamp,
    /// What its replicas run.
    pub engine: Engine,
}

/// One replica: an engine with its sidecar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// The pod's uid; in `up`, the replica's name.
    pub id: EndpointId,
    /// Which revision it runs.
    pub revision: RevisionId,
    /// How far it is.
    pub phase: Phase,
    /// Its sidecar, `address:port`, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it last became ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_since: Option<Timestamp>,
    /// When its engine restarted, newest last; the last sixteen.
    #[serde(default)]
    pub restarts: Vec<Timestamp>,
    /// Why it isn't getting on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// What its sidecar says of its engine's restarts, see [`Replica::heard`].
    #[serde(default, skip_serializing_if = "Said::is_nothing")]
    pub said: Said,
}

/// What a sidecar says of its engine's restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Said {
    /// Whether it was heard at all, since this leader listens.
    pub heard: bool,
    /// Restarts that it ordered of late: number and time, the newest last.
    pub ordered: Vec<(u64, Timestamp)>,
    /// The restart that it asks for, and since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asks: Option<(u64, Timestamp)>,
}

impl Said {
    /// Whether nothing was said.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A sidecar that reported this lately lives, whatever is not heard of its node: three of its reports.
const LATELY: SignedDuration = SignedDuration::from_secs(15);

impl Replica {
    /// Takes in the newest report of its sidecar, which came at `then`.
    pub fn heard(&mut self, report: &EndpointReport, then: Timestamp, now: Timestamp) {
        let ago = |millis: u64| {
            let age = SignedDuration::from_millis(i64::try_from(millis).unwrap_or(i64::MAX));
            then.checked_sub(age).unwrap_or(Timestamp::MIN)
        };
        let Restarts { orders, asks } = &report.restarts;
        self.said = Said {
            heard: true,
            ordered: orders.iter().map(|order| (order.number, ago(order.age_millis))).collect(),
            asks: asks.map(|ask| (ask.number, ago(ask.age_millis))),
        };
        // The control plane was away, or cut off from the node; the replica was not.
        let lately = now.duration_since(then) < LATELY;
        if self.phase == Phase::Unheard && report.engine == EngineState::Ready && lately {
            (self.phase, self.trouble) = (Phase::Ready, None);
        }
        // What keeps it from being had at all weighs more, and one that is ready gets on.
        let open = self.phase != Phase::Ready && !self.trouble.as_ref().is_some_and(|known| known.blocks);
        if let Some(trouble) = report.trouble.clone().filter(|_| open) {
            self.trouble = Some(Trouble { reason: trouble.reason, message: trouble.message, blocks: false });
        }
    }
}

/// How far a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Wanted, not yet started.
    Pending,
    /// Started; the engine has not answered its warm-up yet.
    Starting,
    /// Ready: the engine has answered a real inference since it last started.
    Ready,
    /// Was ready and isn't now.
    Unready,
    /// Its containers were ready when its node was last heard of, which is a while ago. Whether it serves only a
    /// request can tell: gateways send to it and find out, the planner doesn't count it.
    Unheard,
    /// Finishes what is in flight and goes.
    Terminating,
}

/// Why a replica isn't getting on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trouble {
    /// One word for conditions and events: `PortInUse`, `ProgramNotFound`, `ProgramEnded`, `CrashLoop`, `WarmUpFailed`.
    pub reason: String,
    /// In words that a user understands.
    pub message: String,
    /// Whether it keeps the replica from being had at all (a port, a program: the rollout is blocked) rather
    /// than being the revision's own fault.
    pub blocks: bool,
}

/// A gateway that was heard of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Which one.
    pub id: GatewayId,
    /// Whether its stream lives.
    pub live: bool,
    /// The serial that all of its threads work by.
    pub serial: u64,
    /// Requests that its hash assigned to stable under that serial.
    pub assigned_stable: u64,
    /// Requests that its hash assigned to the canary under that serial.
    pub assigned_canary: u64,
    /// Revisions that its own breaker has ejected now.
    #[serde(default)]
    pub ejected: Vec<RevisionId>,
}

/// What keeps replicas from being had, beyond a replica's own trouble. Accelerators join here with the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capacity {
    /// What can't be had, in words: `port 8080 is in use`.
    pub missing: Vec<Trouble>,
    /// What keeps the gateway from running, where that is known. Replicas start without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Trouble>,
}

/// What gateways counted since the status was written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Evidence {
    /// Stable's and the canary's counts.
    pub delta: Delta,
    /// The present stable revision's time to first token, as far back as gateways know, from which a reference is
    /// made.
    pub stable_first_token: outrigger_wire::Histogram,
}
