//! The election as a state machine. Time is one's own monotonic clock, as the time since any fixed moment.

use std::time::Duration;

/// How long a lease is good for after its holder's last word.
pub const DURATION: Duration = Duration::from_secs(10);
/// How long after it *began* its last successful renewal the holder leads: less than [`DURATION`], so that it has
/// stopped before another may begin.
pub const DEADLINE: Duration = Duration::from_secs(8);
/// How often the holder renews and others look.
pub const PERIOD: Duration = Duration::from_secs(2);
/// The longest duration of another's that is believed: nobody may write a lease that lasts for ever.
const LONGEST: Duration = Duration::from_secs(60);

/// What a Lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty when it was released.
    pub holder: String,
    /// Where the holder takes reports.
    pub address: Option<String>,
    /// When it was renewed, in its holder's time: told apart, never compared with one's own.
    pub renewed: Option<String>,
    /// For how long its holder says it is good.
    pub duration: Option<Duration>,
    /// Grows with every change of its holder.
    pub transitions: i32,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing; look again after a period.
    Wait,
    /// Write the lease in one's own name.
    Renew,
    /// Make it one's own, from nobody or from one who is silent.
    Take,
}

/// What one replica knows.
#[derive(Clone, Debug)]
pub struct State {
    me: String,
    /// The lease as it was last read, and when it was first seen so.
    seen: Option<(Record, Duration)>,
    /// When the last renewal that succeeded was begun.
    renewed: Option<Duration>,
}

impl State {
    /// A candidate that has seen nothing. `me` must be nobody else's, ever.
    pub fn new(me: &str) -> Self {
        Self { me: me.to_owned(), seen: None, renewed: None }
    }

    /// What to do, having read the lease (`None`: there is none).
    pub fn step(&mut self, record: Option<&Record>, now: Duration) -> Action {
        let Some(record) = record.filter(|record| !record.holder.is_empty()) else {
            self.seen = record.map(|record| (record.clone(), now));
            return Action::Take;
        };
        // Any difference is a word of its holder; only silence counts.
        if self.seen.as_ref().is_none_or(|(seen, _)| seen != record) {
            self.seen = Some((record.clone(), now));
        }
        if record.holder == self.me {
            return Action::Renew;
        }
        // Somebody else holds it: whatever was thought before, this replica doesn't lead.
        self.renewed = None;
        if self.expired(now) { Action::Take } else { Action::Wait }
    }

    /// A write of one's own, begun at `began`, has succeeded, and the lease is now `record`.
    pub fn wrote(&mut self, record: Record, began: Duration, now: Duration) {
        self.renewed = Some(began);
        self.seen = Some((record, now));
    }

    /// The lease was given up, or is about to be.
    pub fn resign(&mut self) {
        self.renewed = None;
    }

    /// Until when this replica leads; absent when it doesn't.
    pub fn leads_until(&self) -> Option<Duration> {
        self.renewed.map(|began| began + DEADLINE)
    }

    /// Whether this replica leads.
    pub fn leads(&self, now: Duration) -> bool {
        self.leads_until().is_some_and(|until| now < until)
    }

    /// Where the leader takes reports, as far as that is known.
    pub fn address(&self, now: Duration) -> Option<String> {
        let (record, _) = self.seen.as_ref()?;
        let held = !record.holder.is_empty() && !self.expired(now);
        let another = record.holder != self.me || self.leads(now);
        if held && another { record.address.clone() } else { None }
    }

    /// Whether the holder has been silent for as long as its lease is good.
    fn expired(&self, now: Duration) -> bool {
        self.seen.as_ref().is_none_or(|(record, since)| {
            let good = record.duration.unwrap_or(DURATION).clamp(DURATION, LONGEST);
            now.saturating_sub(*since) >= good
        })
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
