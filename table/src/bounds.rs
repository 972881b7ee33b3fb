//! How much is taken in, and of whom. Any pod of a tenant may come to hold a sidecar's certificate, so a sidecar may
//! cost the server no more than a sidecar needs; gateways are the installation's own, and have much to say.

use crate::identity::Identity;
use crate::server::Speaker;
use outrigger_wire::stream::{Report, Subscribe};
use outrigger_wire::{EndpointReport, Subscription};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The largest request, in bytes: a report of a thousand deployments has about 4 MiB.
const LARGEST: usize = 16 << 20;
/// The largest request of a sidecar or of somebody without a certificate, in bytes: a report has less than 3 KiB, a
/// token 16 KiB at most.
const LARGEST_OF_MANY: usize = 64 << 10;
/// The most that all larger requests together may have in memory while they are read, in bytes: two of the largest.
const MOST_READ: usize = 2 * LARGEST;
/// What a connection may have in memory beside its request, in bytes: of one of many, and of a gateway's.
const BUFFERS: (usize, usize) = (16 << 10, 64 << 10);
/// The most deployments that a gateway says it has: the most that it takes in.
const MOST_HAD: usize = 20_000;
/// The longest reason and the longest message of an engine's trouble, in bytes: they get into statuses and events.
const LONGEST_TROUBLE: (usize, usize) = (64, 1_024);
/// The most of a sidecar's own restarts that are heard: what it remembers itself.
const MOST_ORDERS: usize = 16;

/// Whether it is one of many, who are told apart but not known.
fn is_one_of_many(speaker: &Speaker) -> bool {
    matches!(speaker, Speaker::Visitor(_) | Speaker::Known(Identity::Endpoint(_)))
}

/// The largest request of this speaker, in bytes.
pub(crate) fn largest(speaker: &Speaker) -> usize {
    if is_one_of_many(speaker) { LARGEST_OF_MANY } else { LARGEST }
}

/// What this speaker's connection may have in memory beside its request, in bytes.
pub(crate) fn buffer(speaker: &Speaker) -> usize {
    if is_one_of_many(speaker) { BUFFERS.0 } else { BUFFERS.1 }
}

/// Room for requests while they are read.
#[derive(Debug)]
pub(crate) struct Room(Semaphore);

impl Default for Room {
    fn default() -> Self {
        Self(Semaphore::new(MOST_READ))
    }
}

impl Room {
    /// Room for a request of so many bytes, until it is dropped; waits for it. Small ones need none: their number is
    /// bounded by that of connections, and a sidecar's must not wait for a gateway's.
    pub(crate) async fn take(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        if bytes <= LARGEST_OF_MANY {
            return None;
        }
        // It is never closed.
        self.0.acquire_many(u32::try_from(bytes.min(MOST_READ)).unwrap_or(u32::MAX)).await.ok()
    }
}

/// A subscription, as far as what it has is remembered for as long as its stream lives: of a sidecar its own
/// configuration alone.
///
/// # Errors
/// In words, when a gateway has more than there can be.
pub(crate) fn asked(mut subscribe: Subscribe) -> Result<Subscribe, String> {
    match &subscribe.subscription {
        Subscription::Endpoint(id) => subscribe.have.retain(|key, _| key == id.as_str()),
        Subscription::Gateway(_) if subscribe.have.len() > MOST_HAD => {
            return Err(format!("have: {} deployments; allowed: {MOST_HAD}", subscribe.have.len()));
        }
        Subscription::Gateway(_) => {}
    }
    Ok(subscribe)
}

/// A report, as far as it is kept.
pub(crate) fn kept(mut report: Report) -> Report {
    if let Report::Endpoint(report) = &mut report {
        shorten(report);
    }
    report
}

fn shorten(report: &mut EndpointReport) {
    if let Some(trouble) = &mut report.trouble {
        cut(&mut trouble.reason, LONGEST_TROUBLE.0);
        cut(&mut trouble.message, LONGEST_TROUBLE.1);
    }
    let orders = &mut report.restarts.orders;
    // The newest are last.
    orders.drain(..orders.len().saturating_sub(MOST_ORDERS));
    orders.shrink_to_fit();
}

/// At a character's boundary, with a sign that something is left out.
fn cut(text: &mut String, longest: usize) {
    const MORE: char = '…';
    if text.len() > longest {
        text.truncate(text.floor_char_boundary(longest.saturating_sub(MORE.len_utf8())));
        text.push(MORE);
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_wire::stream::Version;
    use outrigger_wire::{EngineTrouble, RestartOrder};
    use std::time::Duration;
    use tokio::time::timeout;

    fn has(subscription: Subscription, keys: usize) -> Subscribe {
        let version = Version { serial: 1, content: 1 };
        let have = (0..keys).map(|n| (format!("k{n}"), version)).collect();
        Subscribe { subscription, have }
    }

    #[test]
    fn a_sidecar_has_its_own_configuration_and_a_gateway_no_more_than_there_is() {
        let asked_by = |subscribe| asked(subscribe).map(|s| s.have.into_keys().collect::<Vec<_>>());
        assert_eq!(asked_by(has(Subscription::Endpoint("k7".into()), 1_000)), Ok(vec!["k7".to_owned()]));
        assert_eq!(asked_by(has(Subscription::Endpoint("k".into()), 1_000)), Ok(vec![]));
        assert_eq!(asked_by(has(Subscription::Gateway("g".into()), MOST_HAD)).map(|k| k.len()), Ok(MOST_HAD));
        let why = asked_by(has(Subscription::Gateway("g".into()), MOST_HAD + 1)).unwrap_err();
        assert_eq!(why, "have: 20001 deployments; allowed: 20000");
    }

    #[test]
    fn of_a_sidecars_words_so_much_is_kept_as_can_be_shown() {
        let json = serde_json::json!({
            "endpoint": "x-0", "incarnation": 1, "sequence": 1, "serial": 1, "kind": "Custom",
            "engine": "warming", "inFlight": 0, "queued": 0, "draining": false,
        });
        let mut said: EndpointReport = serde_json::from_value(json).unwrap();
        // Three bytes each: the bound falls within a character.
        said.trouble = Some(EngineTrouble { reason: "R".repeat(9_000), message: "€".repeat(9_000) });
        said.restarts.orders = (0..900).map(|number| RestartOrder { number, age_millis: 1 }).collect();
        let Report::Endpoint(kept) = kept(Report::Endpoint(Box::new(said))) else { panic!("another kind") };
        let trouble = kept.trouble.unwrap();
        assert_eq!((trouble.reason.len(), trouble.message.len()), (64, 1_023));
        assert!(trouble.message.starts_with("€€") && trouble.message.ends_with("€…"));
        let numbers: Vec<u64> = kept.restarts.orders.iter().map(|order| order.number).collect();
        assert_eq!(numbers, (884..900).collect::<Vec<_>>());
        assert_eq!(kept.restarts.orders.capacity(), MOST_ORDERS);
    }

    #[tokio::test(start_paused = true)]
    async fn large_requests_wait_for_each_other_and_small_ones_for_none() {
        let room = Room::default();
        let first = room.take(LARGEST).await;
        let second = room.take(LARGEST).await;
        assert!(timeout(Duration::from_secs(60), room.take(LARGEST_OF_MANY + 1)).await.is_err());
        assert!(timeout(Duration::from_secs(60), room.take(LARGEST_OF_MANY)).await.is_ok());
        drop(first);
        assert!(timeout(Duration::from_secs(60), room.take(LARGEST)).await.is_ok());
        drop(second);
    }
}
