//! What restarts cost: one is prepaid, so that a sidecar heals its engine without asking anybody; for more it asks,
//! so that a request that hangs every engine which it meets can't restart a fleet.

use super::{Health, Restart};
use std::time::{Duration, Instant};

/// In this time one restart is prepaid, or in a longer one where the budget is for that.
pub const PREPAID_EVERY: Duration = Duration::from_secs(600);

/// How many orders are remembered.
const REMEMBERED: usize = 16;

/// A restart that was ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What tells it from others; for one that was granted, the ask's number.
    pub number: u64,
    /// When.
    pub at: Instant,
}

/// A restart that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What the grant has to name.
    pub number: u64,
    /// Which run of the engine.
    pub incarnation: u64,
    /// Since when.
    pub since: Instant,
}

#[derive(Debug)]
pub(super) struct Spend {
    /// The newest last.
    orders: Vec<Order>,
    asks: Option<Ask>,
    next: u64,
}

impl Spend {
    pub(super) fn new(orders: Vec<Order>, first_number: u64) -> Self {
        Self { orders, asks: None, next: first_number }
    }

    pub(super) fn orders(&self) -> &[Order] {
        &self.orders
    }

    pub(super) fn asks(&self) -> Option<Ask> {
        self.asks
    }

    /// Spends the prepaid restart, if it is there: no other was ordered for as long, granted ones included.
    pub(super) fn prepaid(&mut self, every: Option<Duration>, now: Instant) -> bool {
        let Some(every) = every else { return false };
        let spent = self.orders.last().is_some_and(|order| now.saturating_duration_since(order.at) < every);
        if !spent {
            let number = self.number();
            self.order(number, now);
        }
        !spent
    }

    /// Asks for one, unless that is being done.
    pub(super) fn ask(&mut self, incarnation: u64, now: Instant) {
        if self.asks.is_none() {
            self.asks = Some(Ask { number: self.number(), incarnation, since: now });
        }
    }

    /// Spends the one that was asked for by this number.
    pub(super) fn granted(&mut self, number: u64, now: Instant) -> bool {
        let asked = self.asks.is_some_and(|ask| ask.number == number);
        if asked {
            self.order(number, now);
        }
        asked
    }

    /// None is needed any more. What is granted of the old ask is lost: the next is another.
    pub(super) fn settled(&mut self) {
        self.asks = None;
    }

    /// The last order was not needed.
    pub(super) fn take_back(&mut self) {
        self.orders.pop();
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn order(&mut self, number: u64, now: Instant) {
        self.asks = None;
        self.orders.push(Order { number, at: now });
        if self.orders.len() > REMEMBERED {
            self.orders.remove(0);
        }
    }
}

impl Health {
    /// The engine has been stuck since then: whether that is long enough for a restart, and who pays.
    pub(super) fn order_restart(&mut self, since: Instant, now: Instant) {
        let stuck = now.saturating_duration_since(since);
        if self.restart.is_some() || stuck < self.settings.stall_after / 2 {
            return;
        }
        if self.spend.prepaid(self.settings.prepaid_every, now) {
            self.tell_restart(now);
        } else {
            self.spend.ask(self.incarnation, now);
        }
    }

    pub(super) fn granted(&mut self, number: u64, now: Instant) {
        if self.restart.is_none() && self.stalled_since.is_some() && self.spend.granted(number, now) {
            self.tell_restart(now);
        }
    }

    fn tell_restart(&mut self, now: Instant) {
        let quiet = self.quiet(now).0.as_secs();
        self.restart = Some(Restart {
            incarnation: self.incarnation,
            reason: format!("no progress for {quiet}s with work in flight"),
        });
    }
}
