//! Which events were told lately: what is said again is counted, and who says too much is cut short. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Resource;
use outrigger_crds::{ModelDeployment, ObjectMeta};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// What is said again within this time is counted rather than told anew.
pub const SERIES: Duration = Duration::from_secs(600);
/// A count is written at most this often.
pub const PAUSE: Duration = Duration::from_secs(30);
/// New events of one object: so many at once, and one more after each [`REFILL`].
const BURST: u32 = 25;
/// See [`BURST`].
const REFILL: Duration = Duration::from_secs(10);
/// The most series that are remembered; the oldest go first.
const MOST: usize = 4096;
/// What the API allows, in bytes.
const LONGEST_NOTE: usize = 1024;
/// Likewise, for reason, action and instance.
const LONGEST_WORD: usize = 128;
/// The longest part of an event's name that is its object's.
const LONGEST_NAME: usize = 200;
/// Who reports.
const CONTROLLER: &str = "outrigger.dev/operator";

/// Something to be told about an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    warning: bool,
    reason: String,
    note: String,
    regarding: ObjectReference,
}

impl Told {
    /// About the ModelDeployment with this metadata; reason and note are cut to what the API allows.
    pub fn new(meta: &ObjectMeta, warning: bool, reason: &str, note: &str) -> Self {
        let regarding = ObjectReference {
            api_version: Some(ModelDeployment::api_version(&()).into_owned()),
            kind: Some(ModelDeployment::kind(&()).into_owned()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            ..ObjectReference::default()
        };
        Self::of(regarding, warning, reason, note)
    }

    /// About a pod.
    pub fn pod(namespace: &str, name: &str, uid: &str, warning: bool, reason: &str, note: &str) -> Self {
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(name.to_owned()),
            namespace: Some(namespace.to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        Self::of(regarding, warning, reason, note)
    }

    fn of(regarding: ObjectReference, warning: bool, reason: &str, note: &str) -> Self {
        Self { warning, reason: cut(reason, LONGEST_WORD), note: cut(note, LONGEST_NOTE), regarding }
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let about = (&self.regarding.namespace, &self.regarding.name, &self.regarding.uid);
        (about, self.warning, &self.reason, &self.note).hash(&mut hasher);
        hasher.finish()
    }

    fn object(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.regarding.namespace, &self.regarding.name, &self.regarding.uid).hash(&mut hasher);
        hasher.finish()
    }
}

/// At a character's boundary, with a sign that something is left out.
fn cut(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(longest.saturating_sub('…'.len_utf8()));
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// What to write.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A new event.
    Create(Box<Event>),
    /// An event of this namespace and name was seen again.
    Count {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// How often, and when last.
        series: EventSeries,
    },
    /// Nothing yet: counted, and written with what follows.
    Later,
    /// Nothing: this object has said too much.
    TooMuch,
}

#[derive(Clone, Debug)]
struct Series {
    namespace: String,
    name: String,
    count: i32,
    written: i32,
    last_seen: Timestamp,
    last_written: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: u32,
    since: Timestamp,
}

/// What was told lately.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    series: BTreeMap<u64, Series>,
    allowances: BTreeMap<u64, Allowance>,
}

impl Ledger {
    /// What to write for this. `instance` is who tells, `nonce` makes the event's name its own.
    pub fn record(&mut self, told: &Told, instance: &str, now: Timestamp, nonce: u64) -> Write {
        let key = told.key();
        if let Some(series) =
            self.series.get_mut(&key).filter(|series| !is_past(series.last_seen, SERIES, now))
        {
            series.count = series.count.saturating_add(1);
            series.last_seen = now;
            return series.due(now).unwrap_or(Write::Later);
        }
        if !self.allowed(told.object(), now) {
            return Write::TooMuch;
        }
        let event = event(told, instance, now, nonce);
        let series = Series {
            namespace: event.metadata.namespace.clone().unwrap_or_default(),
            name: event.metadata.name.clone().unwrap_or_default(),
            count: 1,
            written: 1,
            last_seen: now,
            last_written: now,
        };
        self.series.insert(key, series);
        while self.series.len() > MOST {
            let oldest = self.series.iter().min_by_key(|(_, series)| series.last_seen).map(|(key, _)| *key);
            oldest.map(|key| self.series.remove(&key));
        }
        Write::Create(Box::new(event))
    }

    /// Counts that are due, and forgets what is past. To be asked now and then.
    pub fn due(&mut self, now: Timestamp) -> Vec<Write> {
        let due = self.series.values_mut().filter_map(|series| series.due(now)).collect();
        self.series.retain(|_, series| !is_past(series.last_seen, SERIES, now));
        self.allowances.retain(|_, allowance| !is_past(allowance.since, REFILL * BURST, now));
        due
    }

    /// An event is not there (any more): what is said again is told anew.
    pub fn gone(&mut self, namespace: &str, name: &str) {
        self.series.retain(|_, series| series.namespace != namespace || series.name != name);
    }

    fn allowed(&mut self, object: u64, now: Timestamp) -> bool {
        let allowance = self.allowances.entry(object).or_insert(Allowance { left: BURST, since: now });
        let elapsed = Duration::try_from(now.duration_since(allowance.since)).unwrap_or_default();
        let more = u32::try_from(elapsed.as_secs() / REFILL.as_secs()).unwrap_or(u32::MAX);
        if more > 0 {
            *allowance = Allowance { left: allowance.left.saturating_add(more).min(BURST), since: now };
        }
        let allowed = allowance.left > 0;
        allowance.left = allowance.left.saturating_sub(1);
        allowed
    }
}

impl Series {
    fn due(&mut self, now: Timestamp) -> Option<Write> {
        let first = self.written == 1;
        if self.count == self.written || (!first && !is_past(self.last_written, PAUSE, now)) {
            return None;
        }
        (self.written, self.last_written) = (self.count, now);
        let series = EventSeries { count: self.count, last_observed_time: MicroTime(self.last_seen) };
        Some(Write::Count { namespace: self.namespace.clone(), name: self.name.clone(), series })
    }
}

fn is_past(since: Timestamp, after: Duration, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(since)).is_ok_and(|elapsed| elapsed >= after)
}

fn event(told: &Told, instance: &str, now: Timestamp, nonce: u64) -> Event {
    let object = told.regarding.name.as_deref().unwrap_or_default();
    let object = object.get(..LONGEST_NAME).unwrap_or(object);
    Event {
        action: Some(action(&told.reason).to_owned()),
        event_time: Some(MicroTime(now)),
        metadata: ObjectMeta {
            name: Some(format!("{object}.{nonce:016x}")),
            namespace: told.regarding.namespace.clone(),
            ..ObjectMeta::default()
        },
        note: Some(told.note.clone()),
        reason: Some(told.reason.clone()),
        regarding: Some(told.regarding.clone()),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(cut(instance, LONGEST_WORD)),
        type_: Some(if told.warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

/// What was being done, as the API wants to know.
fn action(reason: &str) -> &'static str {
    match reason {
        "Blocked" | "Unblocked" => "Place",
        "Starting" | "Serving" => "Start",
        "EngineRestart" => "Heal",
        "SidecarSwapped" | "SidecarUpgradeHalted" => "Upgrade",
        "Unreadable" => "Read",
        _ => "RollOut",
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
