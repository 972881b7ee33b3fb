//! Which deployment is looked at when: each at most once at a time, the earliest due first.

use outrigger_wire::DeploymentKey;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

/// What is due. Marking what is due already keeps the earlier time.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    order: BTreeSet<(Instant, DeploymentKey)>,
    due: HashMap<DeploymentKey, Instant>,
    running: HashSet<DeploymentKey>,
}

impl Queue {
    /// It is to be looked at by then.
    pub(crate) fn mark(&mut self, key: DeploymentKey, at: Instant) {
        match self.due.get(&key) {
            Some(before) if *before <= at => return,
            Some(before) => {
                self.order.remove(&(*before, key.clone()));
            }
            None => {}
        }
        self.order.insert((at, key.clone()));
        self.due.insert(key, at);
    }

    /// The next one that is due and not being looked at.
    pub(crate) fn take(&mut self, now: Instant) -> Option<DeploymentKey> {
        let ready = self.order.iter().take_while(|(at, _)| *at <= now);
        let (at, key) = ready.into_iter().find(|(_, key)| !self.running.contains(key)).cloned()?;
        self.order.remove(&(at, key.clone()));
        self.due.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    /// It has been looked at.
    pub(crate) fn done(&mut self, key: &DeploymentKey) {
        self.running.remove(key);
    }

    /// When the next one that isn't being looked at is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.order.iter().find(|(_, key)| !self.running.contains(key)).map(|(at, _)| *at)
    }

    /// Whether nothing is being looked at.
    #[cfg(test)]
    pub(crate) fn idle(&self) -> bool {
        self.running.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(name: &str) -> DeploymentKey {
        name.into()
    }

    #[test]
    fn the_earlier_time_is_kept() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let later = now + Duration::from_secs(9);
        queue.mark(key("a/a"), later);
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.next(), Some(later));
        queue.mark(key("a/a"), now);
        queue.mark(key("a/a"), later);
        assert_eq!(queue.next(), Some(now));
        assert_eq!(queue.take(now), Some(key("a/a")));
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn one_is_looked_at_once_at_a_time_and_again_when_it_changed_meanwhile() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.mark(key("a/a"), now);
        queue.mark(key("a/b"), now);
        assert_eq!(queue.take(now), Some(key("a/a")));
        queue.mark(key("a/a"), now);
        assert_eq!(queue.take(now), Some(key("a/b")));
        assert_eq!(queue.take(now), None, "a runs");
        assert_eq!(queue.next(), None);
        queue.done(&key("a/a"));
        assert_eq!(queue.take(now), Some(key("a/a")));
        queue.done(&key("a/a"));
        queue.done(&key("a/b"));
        assert!(queue.idle());
    }
}
