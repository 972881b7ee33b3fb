//! `spec.serving`: what the sidecar does. Hot: a change reaches running sidecars in under a second and restarts
//! nothing.

use crate::{Mistake, Period};
use serde::{Deserialize, Serialize};

/// What the sidecar does with requests before and while the engine works on them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Serving {
    /// Merges concurrent inference requests into one. Absent: no batching. Engines that batch by themselves
    /// (vLLM) refuse this field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
    /// How many requests may be in the engine and how many may wait for it.
    pub admission: Admission,
    /// How long each part of a request may take.
    pub timeouts: Timeouts,
    /// When an engine counts as stuck.
    pub health: Health,
    /// How long a replica that is going away may take to finish what is in flight.
    #[serde(default = "default_max_drain")]
    pub max_drain: MaxDrain,
}

/// How long a draining replica may take; a newtype so that its default stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct MaxDrain(pub Period);

impl Default for MaxDrain {
    /// Two minutes: longer than nearly every completion, short enough for a node to be emptied.
    fn default() -> Self {
        Self(Period::secs(120))
    }
}

fn default_max_drain() -> MaxDrain {
    MaxDrain::default()
}

/// Merging of concurrent requests into one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Batching {
    /// The most rows in one batch, 1 to 4096. A request with more rows than this goes alone, unsplit.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 4096)))]
    pub max_size: u32,
    /// The longest that a request waits for company while the engine is busy, up to 10s. On an idle engine a
    /// request never waits.
    pub max_delay: Period,
}

impl Default for Batching {
    fn default() -> Self {
        Self { max_size: 32, max_delay: Period::millis(10) }
    }
}

/// Bounds on what is in the engine and on what waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Admission {
    /// How many requests (batches, where requests are batched) the engine is given at once, 1 to 65536. Absent:
    /// 256 for vLLM, 4 for engines whose requests are batched here, 64 otherwise.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65536)))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// How many requests may wait beyond those, 0 to 65536; a further one is refused with 429.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 65536)))]
    pub max_queue: u32,
    /// How long a request may wait before it is refused with 429.
    pub max_queue_delay: Period,
}

impl Default for Admission {
    fn default() -> Self {
        Self { concurrency: None, max_queue: 256, max_queue_delay: Period::secs(2) }
    }
}

/// Bounds on the parts of a request. A bound that is exceeded before the first byte is a 504; later it ends the
/// stream with an error in the protocol's own shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    /// Opening a connection.
    pub connect: Period,
    /// From the request to the first byte of its answer.
    pub first_byte: Period,
    /// Between two pieces of a streamed answer.
    pub idle: Period,
    /// The whole request.
    pub total: Period,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Period::secs(3),
            first_byte: Period::secs(60),
            idle: Period::secs(10),
            total: Period::secs(300),
        }
    }
}

/// When an engine counts as stuck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    /// An engine with work in flight that shows no progress for this long (no token, no batch, no scheduler
    /// iteration, no byte) is stuck, and is healed. A long prefill stretches the bound with its length.
    pub stall_after: Period,
    /// How often engines are restarted to heal them, over all replicas.
    pub restart_budget: RestartBudget,
}

impl Default for Health {
    fn default() -> Self {
        Self { stall_after: Period::secs(30), restart_budget: RestartBudget::default() }
    }
}

/// How often engines that are stuck may be restarted. A replica restarts its engine once in ten minutes (in `per`,
/// where that is longer) without asking anybody; for more it asks, and is given what others have left. Restarts
/// that engines make by themselves do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct RestartBudget {
    /// The time over which restarts are counted, 1s to 24h.
    pub per: Period,
    /// How many there may be in that time before none is given any more, 0 to 100. With 0 no engine is restarted
    /// for being stuck.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 100)))]
    pub max: u32,
}

impl Default for RestartBudget {
    fn default() -> Self {
        Self { per: Period::secs(600), max: 3 }
    }
}

impl Serving {
    /// Everything that is wrong with these fields, each under `at` (`spec.serving`).
    pub fn check(&self, at: &str) -> Vec<Mistake> {
        let mut found = Vec::new();
        if let Some(batching) = &self.batching {
            in_range(&mut found, format!("{at}.batching.maxSize"), batching.max_size, 1, 4096);
            between(
                &mut found,
                format!("{at}.batching.maxDelay"),
                batching.max_delay,
                Period::millis(0),
                Period::secs(10),
            );
        }
        let admission = &self.admission;
        if let Some(concurrency) = admission.concurrency {
            in_range(&mut found, format!("{at}.admission.concurrency"), concurrency, 1, 65_536);
        }
        in_range(&mut found, format!("{at}.admission.maxQueue"), admission.max_queue, 0, 65_536);
        between(
            &mut found,
            format!("{at}.admission.maxQueueDelay"),
            admission.max_queue_delay,
            Period::millis(0),
            Period::secs(600),
        );
        let Timeouts { connect, first_byte, idle, total } = self.timeouts;
        for (name, value) in
            [("connect", connect), ("firstByte", first_byte), ("idle", idle), ("total", total)]
        {
            between(
                &mut found,
                format!("{at}.timeouts.{name}"),
                value,
                Period::millis(1),
                Period::secs(86_400),
            );
        }
        if first_byte > total {
            found.push(Mistake::new(
                format!("{at}.timeouts.firstByte"),
                format!("{first_byte} is longer than timeouts.total ({total}); allowed: at most the total"),
            ));
        }
        between(
            &mut found,
            format!("{at}.health.stallAfter"),
            self.health.stall_after,
            Period::secs(1),
            Period::secs(3600),
        );
        let RestartBudget { per, max } = self.health.restart_budget;
        let budget = format!("{at}.health.restartBudget");
        between(&mut found, format!("{budget}.per"), per, Period::secs(1), Period::secs(86_400));
        in_range(&mut found, format!("{budget}.max"), max, 0, 100);
        between(&mut found, format!("{at}.maxDrain"), self.max_drain.0, Period::secs(0), Period::secs(3600));
        found
    }
}

pub(crate) fn in_range(found: &mut Vec<Mistake>, path: String, value: u32, min: u32, max: u32) {
    if value < min || value > max {
        found.push(Mistake::new(path, format!("{value} is out of range; allowed: {min} to {max}")));
    }
}

pub(crate) fn between(found: &mut Vec<Mistake>, path: String, value: Period, min: Period, max: Period) {
    if value < min || value > max {
        found.push(Mistake::new(path, format!("{value} is out of range; allowed: {min} to {max}")));
    }
}
