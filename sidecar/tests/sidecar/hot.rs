//! Every field of `serving` comes by the stream and holds at once; nothing is restarted for it.

use crate::client::{Reply, until};
use crate::fake::{Fake, Mode};
use crate::table::Planner;
use crate::world::{World, plain, v2};
use outrigger_wire::serving::{Batching, RestartBudget};
use outrigger_wire::{Period, Serving};

const V2: &str = "/v2/models/m/infer";

/// A sidecar that follows a table, and what it is told.
struct Hot {
    planner: Planner,
    world: World,
    serving: Serving,
    serial: u64,
}

impl Hot {
    fn start() -> Self {
        let (planner, serving) = (Planner::start(), plain());
        planner.publish(1, serving.clone());
        let table = vec![planner.address.to_string()];
        let world = World::start_with(Fake::start(), serving.clone(), |config| config.table = table);
        world.until_state("ready");
        Self { planner, world, serving, serial: 1 }
    }

    /// Changes what it is told, and waits until it works by it.
    fn change(&mut self, change: impl FnOnce(&mut Serving)) {
        change(&mut self.serving);
        self.serial += 1;
        let began = std::time::Instant::now();
        self.planner.publish(self.serial, self.serving.clone());
        until("it has arrived", || self.world.status()["serial"] == self.serial);
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    }

    fn post(&self) -> Reply {
        self.world.post(V2, &v2(&[1], None))
    }
}

impl Drop for Hot {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let status = self.world.status();
        assert_eq!(status["engine"]["incarnation"], 1, "the engine was left alone: {status}");
        assert_eq!(serde_json::from_value::<Serving>(status["serving"].clone()).unwrap(), self.serving);
    }
}

#[test]
fn the_concurrency() {
    let mut hot = Hot::start();
    hot.world.engine.close();
    let replies: Vec<_> = (0..4).map(|_| hot.world.later(V2, &v2(&[1], None))).collect();
    hot.world.until_waiting(2);
    hot.change(|serving| serving.admission.concurrency = Some(3));
    hot.world.until_inside(3);
    hot.world.until_waiting(1);
    hot.change(|serving| serving.admission.concurrency = None);
    hot.world.until_inside(4);
    hot.world.engine.open();
    assert!(replies.into_iter().all(|reply| reply.join().unwrap().status == 200));
}

#[test]
fn the_queue_and_its_delay() {
    let mut hot = Hot::start();
    hot.change(|serving| {
        serving.admission.concurrency = Some(1);
        serving.admission.max_queue = 0;
    });
    let first = hot.world.occupy();
    assert_eq!((hot.post().status, hot.post().reason()), (429, "queue_full"));
    hot.change(|serving| {
        serving.admission.max_queue = 1;
        serving.admission.max_queue_delay = Period::millis(20);
    });
    assert_eq!((hot.post().status, hot.post().reason()), (429, "queue_delay"));
    hot.world.engine.open();
    first.join().unwrap();
}

#[test]
fn batching_on_and_off_and_its_size_and_delay() {
    let mut hot = Hot::start();
    hot.change(|serving| serving.admission.concurrency = Some(1));
    let merged = |hot: &Hot| {
        let before = hot.world.engine.calls().len();
        let first = hot.world.occupy();
        let replies: Vec<_> = (1..=4)
            .map(|n| {
                let reply = hot.world.later(V2, &v2(&[n], None));
                hot.world.until_waiting(n as u64);
                reply
            })
            .collect();
        hot.world.engine.open();
        assert_eq!(first.join().unwrap().status, 200);
        assert!(replies.into_iter().all(|reply| reply.join().unwrap().status == 200));
        hot.world.engine.calls().len() - before - 1
    };
    assert_eq!(merged(&hot), 4, "off");
    hot.change(|serving| {
        serving.batching = Some(Batching { max_size: 8, max_delay: Period::millis(0) });
    });
    assert_eq!(merged(&hot), 1, "on");
    hot.change(|serving| serving.batching.as_mut().unwrap().max_size = 2);
    assert_eq!(merged(&hot), 2, "smaller");
    hot.change(|serving| {
        serving.admission.concurrency = Some(2);
        let delay = Period::secs(10);
        serving.batching = Some(Batching { max_size: 2, max_delay: delay });
    });
    // While the engine is busy, one waits for company as long as it may.
    let first = hot.world.occupy();
    let lone = hot.world.later(V2, &v2(&[1], None));
    hot.world.until_waiting(1);
    hot.change(|serving| serving.batching.as_mut().unwrap().max_delay = Period::millis(1));
    hot.world.until_inside(2);
    hot.change(|serving| serving.batching = None);
    hot.world.engine.open();
    assert_eq!((first.join().unwrap().status, lone.join().unwrap().status), (200, 200));
}

#[test]
fn the_timeouts() {
    let mut hot = Hot::start();
    hot.world.engine.close();
    hot.change(|serving| serving.timeouts.first_byte = Period::millis(50));
    assert_eq!((hot.post().status, hot.post().reason()), (504, "first_byte_timeout"));
    hot.change(|serving| serving.timeouts.idle = Period::millis(50));
    assert!(hot.world.post("/stream", "{}").body.contains("idle_timeout"));
    hot.change(|serving| {
        serving.timeouts.idle = Period::secs(60);
        serving.timeouts.total = Period::millis(80);
    });
    let stream = hot.world.post("/stream", "{}").body;
    assert!(stream.contains("total_timeout"), "{stream}");
    hot.change(|serving| serving.timeouts.connect = Period::secs(1));
    hot.world.engine.open();
}

#[test]
fn the_bound_of_a_stall_and_the_budget() {
    let mut hot = Hot::start();
    hot.change(|serving| {
        serving.health.stall_after = Period::secs(3600);
        serving.health.restart_budget = RestartBudget { per: Period::secs(60), max: 0 };
    });
    hot.world.engine.mode(Mode::Hang);
    let poisoned = hot.world.later(V2, &v2(&[1], None));
    until("it is in the engine", || hot.world.status()["inFlight"] == 1);
    hot.change(|serving| serving.health.stall_after = Period::secs(1));
    hot.world.until_state("stalled");
    assert!(poisoned.join().unwrap().status >= 500);
    until("it may not order one", || hot.world.status()["engine"]["asksForRestart"] == true);
    hot.change(|serving| serving.health.restart_budget.max = 1);
    until("and now it may", || !hot.world.status()["engine"]["restart"].is_null());
}
