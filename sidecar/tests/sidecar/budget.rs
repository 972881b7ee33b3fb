//! Restarts of a stuck engine: one is prepaid, further ones are asked for.

use crate::client::until;
use crate::fake::{Fake, Mode};
use crate::table::Planner;
use crate::world::{World, plain};
use outrigger_wire::serving::RestartBudget;
use outrigger_wire::{EngineState, Period, Serving};

fn soon_stuck() -> Serving {
    let mut serving = plain();
    serving.health.stall_after = Period::secs(1);
    serving
}

/// A request that hangs the engine; its caller waits in vain.
fn poison(world: &World) {
    world.until_state("ready");
    world.engine.mode(Mode::Hang);
    let reply = world.later("/v2/models/m/infer", "{}");
    until("it is stuck", || world.state() == "stalled");
    assert!(reply.join().unwrap().status >= 500, "and its caller is told");
}

/// What a kubelet does when the probe fails.
fn restart(world: &mut World) {
    until("the probe is told", || !world.status()["engine"]["restart"].is_null());
    let address = world.engine.address;
    world.engine = Fake::start_at("127.0.0.1:0".parse().unwrap(), true);
    world.engine = Fake::start_at(address, true);
}

/// proves H.5, H.6
#[test]
fn a_poisoned_engine_is_restarted_once_and_then_only_by_grant() {
    let planner = Planner::start();
    planner.publish(1, soon_stuck());
    let table = vec![planner.address.to_string()];
    let mut world = World::start_with(Fake::start(), soon_stuck(), |config| config.table = table);
    poison(&world);
    restart(&mut world);
    until("the order is reported", || planner.last().is_some_and(|r| r.restarts.orders.len() == 1));
    poison(&world);
    until("a second one is asked for", || planner.last().is_some_and(|r| r.restarts.asks.is_some()));
    let report = planner.last().unwrap();
    let ask = report.restarts.asks.unwrap();
    assert_eq!((report.engine, ask.incarnation), (EngineState::Stalled, 2));
    assert!(world.status()["engine"]["restart"].is_null(), "and not ordered");
    *planner.grant.lock().unwrap() = Some(ask.number + 1);
    planner.publish(2, soon_stuck());
    until("it is there", || world.status()["serial"] == 2);
    assert!(world.status()["engine"]["restart"].is_null(), "the grant was for another");
    // The serial stands: a grant is no change of the deployment.
    *planner.grant.lock().unwrap() = Some(ask.number);
    planner.publish(2, soon_stuck());
    restart(&mut world);
    until("both are reported", || {
        planner.last().is_some_and(|r| r.restarts.asks.is_none() && r.restarts.orders.len() == 2)
    });
    let orders = planner.last().unwrap().restarts.orders;
    assert_eq!(orders[1].number, ask.number);
    assert!(orders[0].age_millis > orders[1].age_millis);
    poison(&world);
    until("and so on", || planner.last().is_some_and(|r| r.restarts.asks.is_some()));
    assert!(planner.last().unwrap().restarts.asks.unwrap().number > ask.number);
}

/// proves H.5
#[test]
fn a_sidecar_that_is_replaced_has_no_second_prepaid_restart() {
    let kept = tempfile::tempdir().unwrap();
    let state_dir = kept.path().to_owned();
    let mut world =
        World::start_with(Fake::start(), soon_stuck(), |config| config.state_dir = Some(state_dir.clone()));
    poison(&world);
    restart(&mut world);
    let World { engine, sidecar, .. } = world;
    drop(sidecar);
    let world = World::start_with(engine, soon_stuck(), |config| config.state_dir = Some(state_dir));
    poison(&world);
    until("it asks", || world.status()["engine"]["asksForRestart"] == true);
    assert!(world.status()["engine"]["restart"].is_null());
    assert_eq!(world.status()["engine"]["restartsOrdered"], 0);
}

#[test]
fn a_budget_of_none_orders_none_and_a_raised_one_is_spent_at_once() {
    let mut serving = soon_stuck();
    serving.health.restart_budget = RestartBudget { max: 0, ..RestartBudget::default() };
    let world = World::start_with(Fake::start(), serving, |_| {});
    poison(&world);
    until("it asks", || world.status()["engine"]["asksForRestart"] == true);
    assert!(world.status()["engine"]["restart"].is_null());
    world.sidecar.set_serving(soon_stuck());
    until("it is ordered", || !world.status()["engine"]["restart"].is_null());
    assert_eq!(world.status()["engine"]["asksForRestart"], false);
}

/// proves R.17
#[test]
fn a_warm_up_that_fails_for_good_is_reported_in_words() {
    let planner = Planner::start();
    planner.publish(1, plain());
    let table = vec![planner.address.to_string()];
    let engine = Fake::start();
    engine.mode(Mode::Fail);
    let world = World::start_with(engine, plain(), |config| config.table = table);
    until("it is told", || planner.last().is_some_and(|r| r.trouble.is_some()));
    let report = planner.last().unwrap();
    let trouble = report.trouble.unwrap();
    assert_eq!((report.engine, trouble.reason.as_str()), (EngineState::Warming, "WarmUpFailed"));
    assert_eq!(
        trouble.message,
        "the engine is up and fails its first inference: POST /v2/models/m/infer was answered 500 Internal \
         Server Error: {\"error\":\"boom\"}"
    );
    world.engine.mode(Mode::Echo);
    until("it is over when it is", || planner.last().is_some_and(|r| r.trouble.is_none()));
    world.until_state("ready");
}
