//! The healing ladder's budget: how many engines may be restarted for being stuck, over all replicas.
//!
//! A sidecar spends a prepaid restart by itself and tells of it afterwards; for more it asks. All of them stand in
//! the status, a granted one *before* the sidecar hears of it, so that a leader which is restarted, or replaced,
//! neither grants one twice nor forgets one: a grant counts from the moment at which it is written, whether or not
//! it is ever used.
//!
//! A sidecar may hear of its grant late, and order late. So one that may still be used counts anew for as long as it
//! is told, and none is told while more than the budget count, as when a prepaid restart becomes known after it.

use crate::plan::{Event, Waiting};
use crate::rollout::{Rollout, after, counted, within};
use crate::world::{Phase, Replica, World};
use jiff::Timestamp;
use outrigger_crds::ModelDeploymentStatus;
use outrigger_crds::status::EngineRestart;
use outrigger_wire::serving::RestartBudget;
use outrigger_wire::{EndpointId, Period};
use std::time::Duration;

/// The most restarts that the status holds: more than any budget allows.
const MOST: usize = 128;

/// By how much the same moment may look later in a later report, which was longer under way. Smaller differences are
/// no reason to write a status; that nothing is counted for too short a time, everything counts for as much longer.
const LATE: Period = Period::secs(1);

/// How old a grant that is still told, and may be used now, gets before it counts anew. Until its use is reported, or
/// where it never is, it counts for as much longer.
const TOLD: Period = Period::secs(60);

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
    let mut all = known(world, now);
    if told(&world.status.restarts, budget) {
        renew(&mut all, world, now);
    }
    // One whose time is far ahead was written under a clock that was wrong.
    all.retain(|restart| within(now, restart.at, counted_for(world, restart)));
    for (_, replica, number) in askers(world) {
        if !holds(&all, replica, number) && (all.len() as u64) < u64::from(budget.max) {
            all.push(EngineRestart { replica: replica.clone(), number, at: now });
        }
    }
    if told(&all, budget) {
        renew(&mut all, world, now);
    }
    all.sort_by(|a, b| (a.at, &a.replica, a.number).cmp(&(b.at, &b.replica, b.number)));
    let surplus = all.len().saturating_sub(MOST);
    all.drain(..surplus);
    all
}

/// What the status holds, at the times that sidecars say, and what else they say.
fn known(world: &World, now: Timestamp) -> Vec<EngineRestart> {
    let mut all = world.status.restarts.clone();
    for replica in &world.replicas {
        for &(number, at) in &replica.said.ordered {
            // A clock that was behind must not make one last for ever.
            let at = at.min(now);
            match all.iter_mut().find(|known| known.replica == replica.id && known.number == number) {
                // It was granted before it was ordered, or counted anew since. What two reports' ways differ by is
                // no news.
                Some(known) if at > after(known.at, LATE) || known.at > after(at, LATE) => known.at = at,
                Some(_) => {}
                None => all.push(EngineRestart { replica: replica.id.clone(), number, at }),
            }
        }
    }
    all
}

fn holds(known: &[EngineRestart], replica: &EndpointId, number: u64) -> bool {
    known.iter().any(|restart| restart.replica == *replica && restart.number == number)
}

/// Whether grants are told while these count.
fn told(known: &[EngineRestart], budget: RestartBudget) -> bool {
    known.len() as u64 <= u64::from(budget.max)
}

/// What is known of a restart's use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// It was ordered, at its time.
    Ordered,
    /// It may be ordered now: it is still asked for, or its sidecar was not heard.
    Open,
    /// It is not ordered any more; whether it was, and when, is not known.
    Over,
}

fn use_of(world: &World, restart: &EngineRestart) -> Use {
    let Some(replica) = world.replicas.iter().find(|replica| replica.id == restart.replica) else {
        return Use::Over;
    };
    let is = |said: &(u64, Timestamp)| said.0 == restart.number;
    match &replica.said {
        said if said.ordered.iter().any(is) => Use::Ordered,
        said if !said.heard || said.asks.as_ref().is_some_and(is) => Use::Open,
        _ => Use::Over,
    }
}

/// Lets those that are told, and may be used now, count from now on.
fn renew(all: &mut [EngineRestart], world: &World, now: Timestamp) {
    for restart in all {
        if after(restart.at, TOLD) <= now && use_of(world, restart) == Use::Open {
            restart.at = now;
        }
    }
}

/// How long a restart counts from its time on.
fn counted_for(world: &World, restart: &EngineRestart) -> Period {
    let per = world.spec.spec.serving.health.restart_budget.per.get() + LATE.get();
    let late = if use_of(world, restart) == Use::Ordered { Duration::ZERO } else { TOLD.get() };
    Period::millis((per + late).as_millis() as u64)
}

/// What this replica's sidecar is told: the newest of its restarts that stand in the status. The number of one that
/// it ordered by itself means nothing to it. From what is stored alone, so that every replica of the operator says
/// the same.
pub(crate) fn granted(
    budget: RestartBudget,
    status: &ModelDeploymentStatus,
    replica: &Replica,
) -> Option<u64> {
    if !told(&status.restarts, budget) {
        return None;
    }
    let own = status.restarts.iter().filter(|restart| restart.replica == replica.id);
    own.max_by_key(|restart| (restart.at, restart.number)).map(|restart| restart.number)
}

/// Brings the status' restarts up to now, and tells of new ones and of those who have to wait.
pub(crate) fn heal(rollout: &mut Rollout<'_>) {
    let budget = rollout.world.spec.spec.serving.health.restart_budget;
    let all = grants(rollout.world, rollout.now);
    let before = &rollout.world.status.restarts;
    for new in all.iter().filter(|new| !holds(before, &new.replica, new.number)) {
        let spent = counted(all.len() as u32, "restart");
        let message = format!(
            "the engine of {} is stuck and is restarted ({spent} within {}, {} allowed)",
            new.replica, budget.per, budget.max
        );
        rollout.events.push(Event::warning("EngineRestart", message));
    }
    let told = told(&all, budget);
    let open = |restart: &&EngineRestart| told && use_of(rollout.world, restart) == Use::Open;
    let renewed = all.iter().filter(open).map(|restart| after(restart.at, TOLD)).min();
    let ends = all.iter().filter(|restart| !open(restart));
    let ends = ends.map(|restart| after(restart.at, counted_for(rollout.world, restart))).min();
    rollout.edges.extend(renewed);
    let waiting: Vec<_> = askers(rollout.world)
        .into_iter()
        .filter(|(_, replica, number)| !told || !holds(&all, replica, *number))
        .map(|(_, replica, _)| replica.as_str())
        .collect();
    if !told || !waiting.is_empty() {
        rollout.edges.extend(ends);
    }
    if !waiting.is_empty() {
        let why = format!(
            "the engine of {} is stuck, and the restart budget is spent ({} of {} within {})",
            waiting.join(", "),
            all.len(),
            budget.max,
            budget.per
        );
        rollout.waiting.push(Waiting { what: "restarts".into(), why, until: ends });
    }
    rollout.status.restarts = all;
}
