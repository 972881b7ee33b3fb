//! The queue before an engine: bounded in count and bytes, first in first out, with batches formed as late as
//! possible.
//!
//! Whatever arrives is offered to the queue, and [`Admission::next`] says what the engine is given now: one
//! request, or several that may be merged. A batch is formed when it is sent, not before, so that it holds
//! everything that has come until then:
//!
//! - an idle engine is given a request at once, with whatever waits beside it;
//! - while the engine works and takes more, a full batch goes at once and a partial one waits for company for at
//!   most [`BatchLimits::max_delay`], or until the engine is idle again;
//! - while the engine has as many calls as it takes, everything waits for one of them to end.
//!
//! Requests of one group (and all those that are never merged) leave in the order in which they came, and of
//! several groups the one that has waited longest leaves first. The only ones that leave before an older request
//! are those that fill a batch which goes anyway.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

mod drain;
#[cfg(test)]
mod efficiency;
#[cfg(test)]
mod tests;

use drain::DrainRate;

/// What bounds the queue. All of it may change at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many calls (requests, or batches) the engine is given at once.
    pub concurrency: u32,
    /// How many requests may wait.
    pub max_queue: u32,
    /// How many bytes of bodies may wait.
    pub max_queue_bytes: u64,
    /// How long a request may wait.
    pub max_queue_delay: Duration,
    /// Absent: nothing is merged.
    pub batch: Option<BatchLimits>,
}

/// What bounds a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// The most rows in one call; a request with more goes alone.
    pub max_rows: u32,
    /// The longest that a request waits for company while the engine works and takes more.
    pub max_delay: Duration,
}

/// One request that waits or is being worked on. A later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What may be merged with what: requests whose keys have the same bytes.
pub type GroupKey = std::sync::Arc<[u8]>;

/// A request as the queue sees it.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Bytes of its body that are held while it waits.
    pub bytes: u64,
    /// After this nobody wants the answer any more.
    pub deadline: Instant,
    /// With what it may be merged, and how many rows it has; absent: it goes alone.
    pub group: Option<(GroupKey, u32)>,
}

/// Why a request is not worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// As many wait as may wait: 429.
    QueueFull,
    /// As many bytes wait as may wait: 429.
    QueueBytes,
    /// It waited for longer than a request may wait: 429.
    QueueDelay,
    /// Its own time ran out while it waited: 504.
    Deadline,
}

impl Refusal {
    /// The word for `x-outrigger-reason` and for metrics, in snake case.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::QueueBytes => "queue_bytes",
            Self::QueueDelay => "queue_delay",
            Self::Deadline => "deadline",
        }
    }

    /// Whether it was refused because of load (429) rather than because its time ran out (504).
    pub const fn is_shed(self) -> bool {
        !matches!(self, Self::Deadline)
    }
}

/// What the engine is given now: one request, or several that are merged, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Who is in it; never empty.
    pub tickets: Vec<Ticket>,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    arrived: Instant,
    deadline: Instant,
    bytes: u64,
    rows: u32,
}

/// Requests that may be merged with each other, oldest first.
#[derive(Debug, Default)]
struct Group {
    waiters: BTreeMap<Ticket, Waiter>,
    rows: u64,
}

/// The queue. Time is an argument; nothing here waits.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    last: u64,
    in_flight: u32,
    bytes: u64,
    /// Those that go alone.
    single: BTreeMap<Ticket, Waiter>,
    groups: HashMap<GroupKey, Group>,
    /// The group of every waiter that is in one.
    member_of: HashMap<Ticket, GroupKey>,
    /// Groups by their oldest waiter.
    heads: BTreeMap<Ticket, GroupKey>,
    /// Those of `heads` that hold a full batch.
    full: BTreeSet<Ticket>,
    /// When each waiter has to be told that it waited in vain.
    expiries: BTreeSet<(Instant, Ticket)>,
    drain: DrainRate,
}

impl Admission {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            last: 0,
            in_flight: 0,
            bytes: 0,
            single: BTreeMap::new(),
            groups: HashMap::new(),
            member_of: HashMap::new(),
            heads: BTreeMap::new(),
            full: BTreeSet::new(),
            expiries: BTreeSet::new(),
            drain: DrainRate::default(),
        }
    }

    /// The limits that hold now.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Calls that were given to the engine and have not ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.expiries.len()
    }

    /// Bytes of bodies that wait.
    pub fn waiting_bytes(&self) -> u64 {
        self.bytes
    }

    /// A request arrives. Either it waits from now on (call [`Self::next`]: it may go at once), or it is refused.
    pub fn offer(&mut self, arrival: Arrival, now: Instant) -> Result<Ticket, Refusal> {
        if arrival.deadline <= now {
            return Err(Refusal::Deadline);
        }
        self.room(0, arrival.bytes)?;
        self.last += 1;
        let ticket = Ticket(self.last);
        self.insert(ticket, arrival, now);
        Ok(ticket)
    }

    /// Whether there is room for one more of so many bytes, beside `others` that are on their way here. While the
    /// engine takes more, nothing needs to wait, so nothing is refused: [`Self::next`] sends it.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn room(&self, others: usize, bytes: u64) -> Result<(), Refusal> {
        let taken = u64::from(self.in_flight) + others as u64;
        let fits = self.bytes.saturating_add(bytes) <= self.limits.max_queue_bytes;
        if taken < u64::from(self.limits.concurrency) && (others == 0 || fits) {
            return Ok(());
        }
        if (self.waiting() + others) as u64 >= u64::from(self.limits.max_queue) {
            return Err(Refusal::QueueFull);
        }
        if fits { Ok(()) } else { Err(Refusal::QueueBytes) }
    }

    /// A request that needn't wait goes at once, without a ticket: nobody waits and the engine takes more (one
    /// that may be merged: the engine is idle). Returns whether it does; [`Self::finish`] ends it.
    pub fn direct(&mut self, mergeable: bool) -> bool {
        let bound = if mergeable { 1 } else { self.limits.concurrency };
        let goes = self.in_flight < bound && self.expiries.is_empty();
        self.in_flight += u32::from(goes);
        goes
    }

    /// A request whose batch failed waits again, alone, in the place that it had: it is the oldest.
    pub fn again(&mut self, ticket: Ticket, bytes: u64, deadline: Instant, now: Instant) {
        self.insert(ticket, Arrival { bytes, deadline, group: None }, now);
    }

    /// What the engine is given now, if anything. Call it until it says nothing, after every change.
    pub fn next(&mut self, now: Instant) -> Option<Call> {
        if self.in_flight >= self.limits.concurrency {
            return None;
        }
        let single = self.single.keys().next().copied();
        let group = self.ready_group(now);
        let tickets = match (single, group) {
            (Some(single), Some(group)) if single < group => vec![single],
            (_, Some(group)) => self.form(group),
            (Some(single), None) => vec![single],
            (None, None) => return None,
        };
        for ticket in &tickets {
            self.remove(*ticket);
        }
        self.in_flight += 1;
        Some(Call { tickets })
    }

    /// A call ended in whatever way; it held this many requests.
    pub fn finish(&mut self, requests: usize, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.drain.record(requests as f64, now);
    }

    /// A caller left. Returns whether it still waited.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        self.remove(ticket)
    }

    /// Those that waited in vain, each with the reason; they wait no longer.
    pub fn expire(&mut self, now: Instant) -> Vec<(Ticket, Refusal)> {
        let mut expired = Vec::new();
        while let Some(&(at, ticket)) = self.expiries.first() {
            if at > now {
                break;
            }
            let late = self.waiter(ticket).is_some_and(|w| w.deadline <= now);
            expired.push((ticket, if late { Refusal::Deadline } else { Refusal::QueueDelay }));
            self.remove(ticket);
        }
        expired
    }

    /// Everybody that waits leaves: the engine is gone, or nothing new is taken.
    pub fn clear(&mut self) -> Vec<Ticket> {
        let everybody: Vec<Ticket> = self.expiries.iter().map(|(_, ticket)| *ticket).collect();
        for ticket in &everybody {
            self.remove(*ticket);
        }
        everybody
    }

    /// When [`Self::expire`] and [`Self::next`] have to be called again though nothing else happened.
    pub fn wake_at(&self) -> Option<Instant> {
        let expiry = self.expiries.first().map(|(at, _)| *at);
        if self.in_flight >= self.limits.concurrency {
            return expiry;
        }
        let window = self.heads.iter().next().and_then(|(ticket, _)| self.window_end(*ticket));
        match (expiry, window) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// The limits are now these. Who waits already keeps its place, also beyond a lower `max_queue`; its longest
    /// wait is counted anew from its arrival.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        let waiters: Vec<(Ticket, Waiter)> = self
            .single
            .iter()
            .chain(self.groups.values().flat_map(|group| &group.waiters))
            .map(|(ticket, waiter)| (*ticket, *waiter))
            .collect();
        self.expiries = waiters.iter().map(|(ticket, waiter)| (self.expiry(waiter), *ticket)).collect();
        let max_rows = self.max_rows();
        self.full = self
            .groups
            .values()
            .filter(|group| group.rows >= max_rows)
            .filter_map(|group| group.waiters.keys().next().copied())
            .collect();
    }

    /// In how many seconds a refused caller may hope for a place: as long as the queue of now takes to empty at
    /// the rate at which requests have ended lately, 1 to 30 s.
    pub fn retry_after(&self, now: Instant) -> u64 {
        self.drain.seconds_for(self.waiting() as f64 + 1.0, now)
    }
}

// === impl Admission: what stands behind ===

impl Admission {
    fn max_rows(&self) -> u64 {
        self.limits.batch.map_or(1, |batch| u64::from(batch.max_rows.max(1)))
    }

    fn expiry(&self, waiter: &Waiter) -> Instant {
        waiter.deadline.min(waiter.arrived + self.limits.max_queue_delay)
    }

    fn waiter(&self, ticket: Ticket) -> Option<&Waiter> {
        match self.member_of.get(&ticket) {
            Some(key) => self.groups.get(key)?.waiters.get(&ticket),
            None => self.single.get(&ticket),
        }
    }

    fn insert(&mut self, ticket: Ticket, arrival: Arrival, now: Instant) {
        let Arrival { bytes, deadline, group } = arrival;
        let mut waiter = Waiter { arrived: now, deadline, bytes, rows: 1 };
        self.bytes = self.bytes.saturating_add(bytes);
        self.expiries.insert((self.expiry(&waiter), ticket));
        match group {
            Some((key, rows)) if u64::from(rows) <= self.max_rows() && self.limits.batch.is_some() => {
                waiter.rows = rows;
                self.join(key, ticket, waiter);
            }
            _ => {
                self.single.insert(ticket, waiter);
            }
        }
    }

    fn join(&mut self, key: GroupKey, ticket: Ticket, waiter: Waiter) {
        let max_rows = self.max_rows();
        let group = self.groups.entry(key.clone()).or_default();
        group.rows += u64::from(waiter.rows);
        group.waiters.insert(ticket, waiter);
        let head = group.waiters.keys().next().copied().unwrap_or(ticket);
        if group.rows >= max_rows {
            self.full.insert(head);
        }
        if head == ticket {
            self.heads.insert(ticket, key.clone());
        }
        self.member_of.insert(ticket, key);
    }

    fn remove(&mut self, ticket: Ticket) -> bool {
        let Some(waiter) = self.waiter(ticket).copied() else { return false };
        self.bytes = self.bytes.saturating_sub(waiter.bytes);
        self.expiries.remove(&(self.expiry(&waiter), ticket));
        let Some(key) = self.member_of.remove(&ticket) else {
            self.single.remove(&ticket);
            return true;
        };
        self.heads.remove(&ticket);
        self.full.remove(&ticket);
        let max_rows = self.max_rows();
        let Some(group) = self.groups.get_mut(&key) else { return true };
        group.waiters.remove(&ticket);
        group.rows = group.rows.saturating_sub(u64::from(waiter.rows));
        match group.waiters.keys().next().copied() {
            None => {
                self.groups.remove(&key);
            }
            Some(head) => {
                let full = group.rows >= max_rows;
                self.heads.insert(head, key);
                if full {
                    self.full.insert(head);
                } else {
                    self.full.remove(&head);
                }
            }
        }
        true
    }

    /// When the group with this head stops waiting for company.
    fn window_end(&self, head: Ticket) -> Option<Instant> {
        let delay = self.limits.batch.map_or(Duration::ZERO, |batch| batch.max_delay);
        self.waiter(head).map(|waiter| waiter.arrived + delay)
    }

    /// The oldest group that may go now, by its head.
    fn ready_group(&self, now: Instant) -> Option<Ticket> {
        let oldest = self.heads.keys().next().copied()?;
        let crowded = self.waiting() as u64 > u64::from(self.limits.max_queue)
            || self.bytes > self.limits.max_queue_bytes;
        let waited = self.window_end(oldest).is_none_or(|end| end <= now);
        if self.in_flight == 0 || crowded || waited {
            return Some(oldest);
        }
        self.full.first().copied()
    }

    /// The oldest of a group for as long as the next one fits. A batch is closed rather than overfilled, and no
    /// smaller request is taken before one that doesn't fit.
    fn form(&self, head: Ticket) -> Vec<Ticket> {
        let Some(group) = self.member_of.get(&head).and_then(|key| self.groups.get(key)) else {
            return vec![head];
        };
        let mut room = self.max_rows();
        let mut tickets = Vec::new();
        for (ticket, waiter) in &group.waiters {
            match room.checked_sub(u64::from(waiter.rows)) {
                Some(left) => room = left,
                // Limits may have fallen since it came: the head goes alone then.
                None if tickets.is_empty() => room = 0,
                None => break,
            }
            tickets.push(*ticket);
        }
        tickets
    }
}
