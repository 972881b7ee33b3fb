//! When an authority follows another: a pure decision over what the Secret says and the time.
//!
//! ```text
//!  A signs ───────────────────────────────┐            A known until all that it signed has expired
//!          B made ── B published ── overlap ┴─ B signs
//! ```
//!
//! Nothing is signed by an authority before clients can know it: a new one is told to all of them first, and signs
//! only when they have had time to hear.

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// How long things last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// An authority; followed after two thirds.
    pub authority: Duration,
    /// From when all bundles hold a new authority until it signs.
    pub overlap: Duration,
    /// A proxy's certificate.
    pub certificate: Duration,
    /// A server's own; renewed after two thirds.
    pub serving: Duration,
    /// How often the Secret is looked at; far less than `overlap`, for a replica learns so of a new authority.
    pub look: Duration,
}

impl Default for Times {
    fn default() -> Self {
        const HOUR: u64 = 3_600;
        Self {
            authority: Duration::from_secs(365 * 24 * HOUR),
            overlap: Duration::from_secs(24 * HOUR),
            certificate: Duration::from_secs(HOUR),
            serving: Duration::from_secs(24 * HOUR),
            look: Duration::from_secs(300),
        }
    }
}

impl Times {
    /// For how long an authority that signs no more is still told to clients: until what it signed has expired,
    /// and everybody has seen that it signs no more.
    pub fn kept(&self) -> Duration {
        self.certificate.max(self.serving) + self.look.saturating_mul(2)
    }
}

/// From when until when an authority holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it was made.
    pub made: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
}

/// What the Secret holds, without the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The one that signs.
    pub current: Span,
    /// The one that will, and since when all bundles hold it.
    pub next: Option<(Span, Option<Timestamp>)>,
    /// Since when the one before signs no more.
    pub old: Option<Timestamp>,
}

/// What is to be done with the Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, at least until then.
    Stand(Timestamp),
    /// Make the one that will sign, and tell clients of it.
    MakeNext,
    /// The next one signs from now on; the current one becomes the old one.
    Promote,
    /// The old one is told no more.
    ForgetOld,
    /// Nothing that holds is left, after a long absence: begin anew. Clients read the bundle at each dial.
    Begin,
}

/// What is to be done now.
pub fn decide(known: &Known, now: Timestamp, times: &Times) -> Step {
    let current_is_over = known.current.expires <= now;
    let next = known.next.filter(|(span, _)| span.expires > now);
    let signs_from = next.and_then(|(_, published)| Some(after(published?, times.overlap)));
    match (current_is_over, next, signs_from) {
        // The one that signs has expired, so nobody is let in by it: whoever knows the next one is better off.
        (true, Some(_), _) => return Step::Promote,
        (true, None, _) => return Step::Begin,
        (false, Some(_), Some(from)) if from <= now => return Step::Promote,
        _ => {}
    }
    let forgotten_from = known.old.map(|since| after(since, times.kept()));
    if forgotten_from.is_some_and(|from| from <= now) {
        return Step::ForgetOld;
    }
    let life = known.current.made.duration_until(known.current.expires);
    let followed_from = known.current.made.saturating_add(life * 2 / 3).unwrap_or(known.current.expires);
    if next.is_none() && followed_from <= now {
        return Step::MakeNext;
    }
    let followed_from = next.is_none().then_some(followed_from);
    let soonest = [signs_from, forgotten_from, followed_from].into_iter().flatten().min();
    Step::Stand(soonest.unwrap_or(known.current.expires).min(known.current.expires))
}

/// A later time; the end of all times when it can't be told.
pub(crate) fn after(time: Timestamp, duration: Duration) -> Timestamp {
    SignedDuration::try_from(duration)
        .ok()
        .and_then(|duration| time.checked_add(duration).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
