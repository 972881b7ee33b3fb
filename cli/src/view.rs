//! What the terminal shows, as a plain value: `up` fills it from the plan, from the gateway's reports and from the
//! sidecars' own, `watch` from the resource's status; [`crate::screen`] draws it and puts its changes into lines. Nothing here decides anything.

use jiff::Timestamp;
use outrigger_crds::status::Weights;
use outrigger_verdict::MetricVerdict;
use outrigger_wire::{EndpointId, RevisionId};
use std::time::Duration;

/// Everything that the terminal shows, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// When this was so.
    pub now: Timestamp,
    /// The deployment's name.
    pub deployment: String,
    /// The model that clients ask for.
    pub model: String,
    /// Where it is: the gateway's `http://127.0.0.1:8080`, or `NAMESPACE in CONTEXT`.
    pub url: String,
    /// How far it is.
    pub phase: Phase,
    /// The revision that serves, once there is one.
    pub stable: Option<RevisionId>,
    /// The revision that is tried, while one is.
    pub canary: Option<RevisionId>,
    /// The weights of the rollout's steps in percent, without the implicit last one of 100.
    pub steps: Vec<u8>,
    /// The present step, while a revision is tried.
    pub step: Option<StepView>,
    /// The canary's share of callers, three ways.
    pub weights: Weights,
    /// What the canary was judged by, last.
    pub verdicts: Vec<MetricVerdict>,
    /// The live revisions: stable, canary, then those that are leaving.
    pub revisions: Vec<RevisionView>,
    /// The replicas.
    pub endpoints: Vec<EndpointView>,
    /// What `up`'s own load generator counted; absent when it sends none.
    pub load: Option<LoadView>,
    /// What happened, oldest first; the last few dozen are enough.
    pub events: Vec<EventView>,
    /// In words, what is so and what is waited for: the status message.
    pub message: String,
    /// Whether this only looks on, at a deployment in a cluster: nobody here knows what sidecars report, and leaving
    /// stops nothing.
    pub onlooking: bool,
}

/// How far a deployment is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// The first revision's replicas are being started.
    #[default]
    Starting,
    /// The stable revision serves and nothing is tried.
    Available,
    /// A revision is being tried.
    Canary,
    /// The revision that was tried has become stable.
    Promoted {
        /// Which one.
        revision: RevisionId,
    },
    /// The revision that was tried has lost its traffic.
    RolledBack {
        /// Which one.
        revision: RevisionId,
        /// Why, in a sentence.
        reason: String,
    },
    /// Something that is needed can't be had.
    Blocked {
        /// What, in a sentence.
        reason: String,
    },
    /// What is in flight is finished, nothing new is taken.
    Stopping,
}

/// The step at which a canary is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepView {
    /// Which one, from 0; the number of steps stands for the implicit step of 100.
    pub index: usize,
    /// Its weight in percent.
    pub weight: u8,
    /// How long it is held at least.
    pub hold: Duration,
    /// How much of that is left: `None` until the weight is reached, zero when the hold is over.
    pub left: Option<Duration>,
    /// Whether a person has paused the canary.
    pub paused: bool,
}

/// What a live revision is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It serves.
    #[default]
    Stable,
    /// It is tried.
    Canary,
    /// It serves no more; its replicas finish what they have.
    Leaving,
}

/// One live revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RevisionView {
    /// Which one.
    pub id: RevisionId,
    /// What it is.
    pub role: Role,
    /// Replicas that are ready.
    pub ready: u32,
    /// Replicas that are wanted.
    pub wanted: u32,
    /// Requests per second, over the last few seconds; `None` where nobody counts.
    pub rate: Option<f64>,
    /// Failures as a share of what was answered since the revision took part; `None` before anything was.
    pub errors: Option<f64>,
    /// Time to the answer's end, of the last few seconds.
    pub duration: Latency,
    /// Time to first token, likewise.
    pub first_token: Latency,
}

/// Two quantiles of a latency; `None` where nothing was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// The median.
    pub p50: Option<Duration>,
    /// The 95th percentile.
    pub p95: Option<Duration>,
}

/// One replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointView {
    /// Which one.
    pub id: EndpointId,
    /// What it runs.
    pub revision: RevisionId,
    /// How it is.
    pub state: EndpointState,
    /// Requests given to its engine and not yet answered.
    pub in_flight: u32,
    /// Requests that wait in its sidecar.
    pub queued: u32,
    /// How often its engine was started again.
    pub restarts: u32,
}

/// How a replica is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointState {
    /// Not yet started.
    #[default]
    Pending,
    /// Started, answers nothing yet.
    Starting,
    /// Its first real inference is under way.
    Warming,
    /// It has answered one since it last started.
    Ready,
    /// It was ready and is not now.
    Unready,
    /// It has work and nothing advances.
    Stalled,
    /// Its engine refuses connections.
    Gone,
    /// It finishes what it has.
    Draining,
}

impl EndpointState {
    /// The word that screens and lines show.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Starting => "starting",
            Self::Warming => "warming",
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Stalled => "stalled",
            Self::Gone => "gone",
            Self::Draining => "draining",
        }
    }
}

/// What the load generator counted, from its own side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadView {
    /// Requests per second that it is set to send.
    pub rate: f64,
    /// Requests that it sent.
    pub sent: u64,
    /// Answered in full with a 2xx.
    pub ok: u64,
    /// Refused because of load.
    pub shed: u64,
    /// Everything else that ended.
    pub failed: u64,
    /// Time to the answer's end.
    pub duration: Latency,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventView {
    /// When.
    pub at: Timestamp,
    /// Whether something is wrong.
    pub warning: bool,
    /// One word: `CanaryStarted`, `EngineRestarted`.
    pub reason: String,
    /// The sentence.
    pub message: String,
}
