//! The case `batching`: how much of an engine's ideal rate is left when the sidecar forms the batches.

use crate::load;
use crate::program::{self, Program, free_address, sibling};
use crate::report::{Goal, Line, Measured, median};
use crate::stub::{BATCH_BASE, BATCH_ROW};
use crate::wire::{Conn, post};
use anyhow::{Result, ensure};
use std::process::Command;
use std::time::{Duration, Instant};

/// The most rows of a batch.
const MAX_SIZE: u32 = 32;
/// How long one load lasts: 170 full batches.
const BLOCK: Duration = Duration::from_secs(3);
/// Rounds.
const ROUNDS: usize = 2;
/// An engine that does less than this of its ideal by itself was disturbed, and every ratio with it.
const VOID_RATIO: f64 = 0.95;

/// A request of so many rows of four numbers.
fn rows(count: u32) -> String {
    let row = vec!["0.1,0.2,0.3,0.4"; count as usize].join(",");
    format!(r#"{{"inputs":[{{"name":"x","shape":[{count},4],"datatype":"FP32","data":[{row}]}}]}}"#)
}

/// Rows per second that this engine can do with `rows` per batch.
fn ideal(rows: u32) -> f64 {
    f64::from(rows) / (BATCH_BASE + BATCH_ROW * rows).as_secs_f64()
}

/// Runs the case.
pub fn run() -> Result<Measured> {
    let dir = tempfile::tempdir()?;
    let stub = program::stub()?;
    let config = dir.path().join("serving.yaml");
    // One batch at a time: the engine is single-flight, and a second batch waiting inside it would be formed
    // before its time.
    std::fs::write(
        &config,
        format!(
            "batching: {{maxSize: {MAX_SIZE}, maxDelay: 10ms}}\nadmission: {{concurrency: 1, maxQueue: 1024}}\n"
        ),
    )?;
    let (address, admin) = (free_address()?, free_address()?);
    let mut command = Command::new(sibling("outrigger-sidecar")?);
    command.env("OUTRIGGER_LOG", "warn");
    command.args(["--listen", &address, "--admin", &admin, "--engine", &stub.address, "--model", "m"]);
    let sidecar = Program::start("sidecar", command.arg("--config").arg(&config), &address)?;
    let request = post("/v2/models/m/infer", "", &rows(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(until_served(&sidecar, &request))?;
    // What the engine does when it is given full batches: two callers, so that one is always waiting.
    let full = post("/v2/models/m/infer", "", &rows(MAX_SIZE));
    let direct = runtime.block_on(load::closed(&stub.address, &full, 2, BLOCK))?.rate() * f64::from(MAX_SIZE);
    let mut lines =
        vec![Line::new("engine alone", "rows/s", direct, Some(("ideal", ideal(MAX_SIZE))), Goal::None)];
    let void = (direct < VOID_RATIO * ideal(MAX_SIZE)).then(|| {
        format!("the engine itself reached {direct:.0} rows/s only, less than {VOID_RATIO} of the ideal")
    });
    for clients in [1, 64, 256] {
        let (mut rates, mut latencies) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let outcome = runtime.block_on(load::closed(&address, &request, clients, BLOCK))?;
            ensure!(outcome.refused == 0, "{} of {} were refused", outcome.refused, outcome.answers);
            rates.push(outcome.rate());
            latencies.push(outcome.latency.value_at_quantile(0.5) as f64 / 1e3);
        }
        let case = format!("{clients} clients");
        if clients == 1 {
            // Alone, a request waits for nobody.
            let alone = (BATCH_BASE + BATCH_ROW).as_secs_f64() * 1e3;
            lines.push(Line::new(
                &case,
                "p50, ms",
                median(latencies),
                Some(("ideal", alone)),
                Goal::MoreByAtMost(1.0),
            ));
        } else {
            let peer = Some(("ideal", ideal(MAX_SIZE)));
            lines.push(Line::new(&case, "rows/s", median(rates), peer, Goal::RatioAtLeast(0.90)));
            // Little's law: who is many waits for the others.
            let shared = f64::from(u32::try_from(clients)?) / ideal(MAX_SIZE) * 1e3;
            lines.push(Line::new(&case, "p50, ms", median(latencies), Some(("ideal", shared)), Goal::None));
        }
    }
    Ok(Measured { lines, void })
}

async fn until_served(target: &Program, request: &[u8]) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        let mut conn = Conn::open(&target.address).await?;
        let status = conn.ask(request).await.map(|answer| answer.status);
        if matches!(status, Ok(200)) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{} doesn't serve: {status:?}", target.name());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figure of the timing model that the goals speak of.
    #[test]
    fn the_ideal_is_known() {
        assert_eq!(ideal(32).round(), 2807.0);
        assert_eq!(ideal(1).round(), 192.0);
    }
}
