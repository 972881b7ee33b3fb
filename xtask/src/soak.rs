//! `cargo xtask soak`: what only shows after hours. The same tests as ever, drawn longer and repeated, until the time is
//! over or one of them fails.

use crate::images::Build;
use crate::{cluster, real_cluster, run};
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};

/// How long it goes on unless told otherwise.
const MINUTES: u64 = 120;
/// Histories that one round draws, of each kind: a quarter of an hour on two cores.
const CASES: &str = "20000";
/// The tests in which something is taken away, or goes on for long.
const ON_A_CLUSTER: [&str; 5] =
    ["cluster_circle", "cluster_chaos", "cluster_silence", "cluster_operator", "cluster_sidecar"];

/// Repeats for so many minutes; a round that has begun is finished.
pub(crate) fn soak(minutes: Option<&str>) -> Result<()> {
    let minutes = match minutes {
        None => MINUTES,
        Some(text) => text.parse().with_context(|| format!("`{text}` is no number of minutes"))?,
    };
    let until = Instant::now() + Duration::from_secs(minutes.saturating_mul(60));
    let set_up = real_cluster::set_up();
    draw(0)?;
    real_cluster::ready(set_up)?;
    if let Some(why) = cluster::lacking()? {
        bail!("real cluster: {why}");
    }
    cluster::down()?;
    cluster::up_here()?;
    let soaked = cluster::load(&[], Build::Quick).and_then(|()| rounds(until));
    soaked.and(cluster::down())
}

fn rounds(until: Instant) -> Result<()> {
    let mut round = 1;
    loop {
        let named = ON_A_CLUSTER.map(str::to_owned);
        let mut command = real_cluster::command(&["cluster"], &named)?;
        command.env("OUTRIGGER_CLUSTER_JSON", cluster::file()?);
        run::must(&format!("round {round}, real cluster"), command)?;
        if Instant::now() >= until {
            println!("{round} rounds passed");
            return Ok(());
        }
        draw(round)?;
        round += 1;
    }
}

/// Histories of rollouts, of healing and of pods, each drawn anew.
fn draw(round: u32) -> Result<()> {
    let args = ["test", "--locked", "--release", "-p", "outrigger-plan", "-p", "outrigger-decide"];
    let mut command = run::command("cargo", args)?;
    command.env("PROPTEST_CASES", CASES);
    run::must(&format!("round {}, drawn histories", round + 1), command)?;
    Ok(())
}
