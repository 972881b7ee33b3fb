//! The healing ladder's budget: how many engines may be restarted for being stuck, over all replicas.
//!
//! A sidecar spends a prepaid restart by itself and tells of it afterwards; for more it asks. All of them stand in
//! the status, a granted one *before* the sidecar hears of it, so that a leader which is restarted, or replaced,
//! neither grants one twice nor forgets one: a grant counts from the moment at which it is written, whether or not
//! it is ever used.

use crate::plan::{Event, Waiting};
use crate::rollout::{Rollout, after, counted, within};
use crate::world::{Phase, Replica, World};
use jiff::Timestamp;
use outrigger_crds::ModelDeploymentStatus;
use outrigger_crds::status::EngineRestart;
use outrigger_wire::{EndpointId, Period};

/// The most restarts that the status holds: more than any budget allows.
const MOST: usize = 128;

/// By how much the same moment may look later in a later report, which was longer under way. Smaller differences are
/// no reason to write a status; that nothing is counted for too short a time, everything counts for as much longer.
const LATE: Period = Period::secs(1);

/// Who asks for a restart, longest first.
fn askers(world: &World) -> Vec<(Timestamp, &EndpointId, u64)> {
    let alive = world.replicas.iter().filter(|replica| replica.phase != Phase::Terminating);
    let asks = alive.filter_map(|replica| {
        let (number, since) = replica.said.asks?;
        Some((since, &replica.id, number))
    });
    let mut asks: Vec<_> = asks.collect();
    asks.sort();
    asks
}

/// Every restart that counts now: what the status holds, what sidecars say that they ordered, and what is granted
/// to those who ask, the longest asking first, while the budget lasts. Oldest first.
pub fn grants(world: &World, now: Timestamp) -> Vec<EngineRestart> {
    let budget = world.spec.spec.serving.health.restart_budget;
    let per = counted_for(budget.per);
    let mut all = world.status.restarts.clone();
    for replica in &world.replicas {
        for &(number, at) in &replica.said.ordered {
            // A clock that was behind must not make one last for ever.
            let at = at.min(now);
            match all.iter_mut().find(|known| known.replica == replica.id && known.number == number) {
                // It was granted before it was ordered. What two reports' ways differ by is no news.
                Some(known) if at > after(known.at, LATE) => known.at = at,
                Some(_) => {}
                None if within(now, at, per) => {
                    all.push(EngineRestart { replica: replica.id.clone(), number, at });
                }
                None => {}
            }
        }
    }
    // One whose time is far ahead was written under a clock that was wrong.
    all.retain(|restart| within(now, restart.at, per));
    for (_, replica, number) in askers(world) {
        let has = all.iter().any(|known| known.replica == *replica && known.number == number);
        if !has && (all.len() as u64) < u64::from(budget.max) {
            all.push(EngineRestart { replica: replica.clone(), number, at: now });
        }
    }
    all.sort_by(|a, b| (a.at, &a.replica, a.number).cmp(&(b.at, &b.replica, b.number)));
    let surplus = all.len().saturating_sub(MOST);
    all.drain(..surplus);
    all
}

/// How long a restart counts.
fn counted_for(per: Period) -> Period {
    Period::millis((per.get() + LATE.get()).as_millis() as u64)
}

/// What this replica's sidecar is told: the newest of its restarts that stand in the status. The number of one that
/// it ordered by itself means nothing to it. From the status alone, so that every replica of the operator says the
/// same.
pub(crate) fn granted(status: &ModelDeploymentStatus, replica: &Replica) -> Option<u64> {
    let own = status.restarts.iter().filter(|restart| restart.replica == replica.id);
    own.max_by_key(|restart| (restart.at, restart.number)).map(|restart| restart.number)
}

/// Brings the status' restarts up to now, and tells of new ones and of those who have to wait.
pub(crate) fn heal(rollout: &mut Rollout<'_>) {
    let budget = rollout.world.spec.spec.serving.health.restart_budget;
    let all = grants(rollout.world, rollout.now);
    let is = |known: &[EngineRestart], replica: &EndpointId, number: u64| {
        known.iter().any(|restart| restart.replica == *replica && restart.number == number)
    };
    for new in all.iter().filter(|new| !is(&rollout.world.status.restarts, &new.replica, new.number)) {
        let spent = counted(all.len() as u32, "restart");
        let message = format!(
            "the engine of {} is stuck and is restarted ({spent} within {}, {} allowed)",
            new.replica, budget.per, budget.max
        );
        rollout.events.push(Event::warning("EngineRestart", message));
    }
    let waiting: Vec<_> = askers(rollout.world)
        .into_iter()
        .filter(|(_, replica, number)| !is(&all, replica, *number))
        .map(|(_, replica, _)| replica.as_str())
        .collect();
    if !waiting.is_empty() {
        let oldest = all.first().map(|oldest| after(oldest.at, counted_for(budget.per)));
        rollout.edges.extend(oldest);
        let why = format!(
            "the engine of {} is stuck, and the restart budget is spent ({} of {} within {})",
            waiting.join(", "),
            all.len(),
            budget.max,
            budget.per
        );
        rollout.waiting.push(Waiting { what: "restarts".into(), why, until: oldest });
    }
    rollout.status.restarts = all;
}
