//! Reports that wait to be taken: of each sender the newest, whichever way it came.

use crate::bounds;
use outrigger_wire::stream::Report;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// The most senders whose reports are kept.
const MOST_SENDERS: usize = 8_192;
/// A sender that is silent for this long is forgotten when there is no more room.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// The newest report of each sender that has not been taken yet.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    reports: BTreeMap<String, Report>,
    latest: HashMap<String, Latest>,
}

/// The newest that came of one sender: a report may come twice, and an older one by way of another server after a
/// newer one. Counts are cumulative, so an older report would look like a counter that began anew.
#[derive(Debug)]
struct Latest {
    incarnation: u64,
    sequence: u64,
    /// The incarnation before this one: what still comes of it is late.
    before: Option<u64>,
    at: Instant,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It waits to be taken.
    Yes,
    /// A newer one came before.
    Older,
    /// There are too many senders.
    NoRoom,
}

impl Inbox {
    /// Takes in a report.
    pub(crate) fn keep(&mut self, report: Report) -> Kept {
        let (sender, incarnation, sequence) = match &report {
            Report::Gateway(r) => (format!("gateway/{}", r.gateway), r.incarnation, r.sequence),
            Report::Endpoint(r) => (format!("endpoint/{}", r.endpoint), r.incarnation, r.sequence),
        };
        let now = Instant::now();
        if self.latest.len() >= MOST_SENDERS && !self.latest.contains_key(&sender) {
            self.latest.retain(|_, latest| now.duration_since(latest.at) < FORGOTTEN);
            if self.latest.len() >= MOST_SENDERS {
                return Kept::NoRoom;
            }
        }
        let known = self.latest.get(&sender);
        let older = known.is_some_and(|known| match incarnation == known.incarnation {
            true => sequence <= known.sequence,
            false => known.before == Some(incarnation),
        });
        if older {
            return Kept::Older;
        }
        let before = match known {
            Some(known) if known.incarnation != incarnation => Some(known.incarnation),
            Some(known) => known.before,
            None => None,
        };
        self.latest.insert(sender.clone(), Latest { incarnation, sequence, before, at: now });
        self.reports.insert(sender, bounds::kept(report));
        Kept::Yes
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// The next report.
    pub(crate) fn take(&mut self) -> Option<Report> {
        self.reports.pop_first().map(|(_, report)| report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_wire::GatewayReport;

    fn report(gateway: &str, incarnation: u64, sequence: u64) -> Report {
        let gateway = gateway.into();
        Report::Gateway(Box::new(GatewayReport { gateway, incarnation, sequence, ..Default::default() }))
    }

    #[test]
    fn an_older_report_never_comes_after_a_newer_one() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.keep(report("a", 1, 5)), Kept::Yes);
        assert_eq!(inbox.take(), Some(report("a", 1, 5)));
        assert_eq!(inbox.keep(report("a", 1, 4)), Kept::Older, "also when the newer one was taken");
        assert_eq!(inbox.keep(report("a", 1, 5)), Kept::Older, "nor the same twice");
        assert_eq!(inbox.keep(report("a", 2, 1)), Kept::Yes, "a new run begins at one");
        assert_eq!(inbox.keep(report("a", 1, 6)), Kept::Older, "the run before is over");
        assert_eq!(inbox.take(), Some(report("a", 2, 1)));
        assert_eq!(inbox.take(), None);
    }

    #[test]
    fn senders_are_bounded() {
        let mut inbox = Inbox::default();
        for i in 0..MOST_SENDERS {
            assert_eq!(inbox.keep(report(&i.to_string(), 1, 1)), Kept::Yes);
        }
        assert_eq!(inbox.keep(report("one more", 1, 1)), Kept::NoRoom);
        assert_eq!(inbox.keep(report("7", 1, 2)), Kept::Yes, "those that are known go on");
    }
}
