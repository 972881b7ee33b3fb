//! What is said of it.

use super::audit::Seen;
use super::ours::Steady;
use super::{FEW, Found, MANY};
use crate::report::{Goal, Line, median};
use anyhow::Result;
use std::io::Write as _;

/// The table.
pub(super) fn lines(found: &Found) -> Vec<Line> {
    let Found { ours, argo, .. } = found;
    let raw = median(found.raw.clone());
    let beside = |metric, ours, peer, goal| Line::new("operator", metric, ours, Some(("argo", peer)), goal);
    let alone = |metric, ours, goal| Line::new("operator", metric, ours, None, goal);
    let rate = rate(&ours.seen);
    let each = |what: f64| what / MANY as f64;
    let writes = |seen: &Seen| each(seen.count() as f64);
    let theirs = &argo.steady;
    vec![
        beside("1 000 to steady, s", ours.took, theirs.took, Goal::RatioAtMost(1.0)),
        Line::new("operator", "writes while at it, 1/s", rate, Some(("ConfigMaps", raw)), Goal::None),
        Line::new(
            "operator",
            "writes while at it, 1/s",
            rate,
            Some(("the same objects", found.same)),
            // Of the same objects: a Service is given an address under one lock, whoever writes it.
            Goal::RatioAtLeast(0.5),
        ),
        beside("writes each", writes(&ours.seen), writes(&theirs.seen), Goal::None),
        beside("created, 1/s", ours.created.rate(), theirs.created.rate(), Goal::None),
        beside(
            "cpu each, ms",
            each(ours.work.controller * 1e3),
            each(theirs.work.controller * 1e3),
            Goal::None,
        ),
        beside(
            "API server's and etcd's cpu each, ms",
            each(ours.work.server * 1e3),
            each(theirs.work.server * 1e3),
            Goal::None,
        ),
        Line::new(
            "operator",
            &format!("memory with {FEW}, MiB"),
            found.few.0,
            Some(("argo with none", argo.idle)),
            Goal::Below(40.0),
        ),
        beside("memory with 1 000, MiB", found.many.0, argo.memory, Goal::None),
        alone("memory with 1 000, MiB", found.many.0, Goal::Below(40.0)),
        alone(
            "memory each, KiB",
            (found.many.0 - found.few.0) * 1024.0 / (MANY - FEW) as f64,
            Goal::Below(20.0),
        ),
        beside("most memory ever, MiB", found.peak, argo.peak, Goal::None),
        alone(&format!("follower's memory with {FEW}, MiB"), found.few.1, Goal::None),
        alone("follower's memory with 1 000, MiB", found.many.1, Goal::None),
        alone("writes in a minute's rest", found.resting as f64, Goal::None),
    ]
}

/// Writes per second, from the first to the last.
fn rate(seen: &Seen) -> f64 {
    seen.count() as f64 / seen.took().as_secs_f64()
}

/// What the table has no room for: each kind of request, and who was at work. Said at once, for what follows may fail.
pub(super) fn requests(name: &str, steady: &Steady) -> Result<()> {
    let Steady { seen, work, .. } = steady;
    let mut out = std::io::stdout();
    writeln!(out, "        {name}: requests, mean time at the API server")?;
    for (name, kind) in seen.writes.iter().chain(&seen.others) {
        let mean = kind.worked * 1e3 / kind.count as f64;
        writeln!(out, "        {:>6}  {mean:>8.1} ms  {name}", kind.count)?;
    }
    writeln!(
        out,
        "        {:.1} s from first to last write, {:.1} at once; cpu: controller {:.1} s, API server and etcd {:.1} s, \
         Kubernetes' controllers {:.1} s, others {:.0} %",
        seen.took().as_secs_f64(),
        seen.at_once(),
        work.controller,
        work.server,
        work.kubernetes,
        work.strange() * 100.0,
    )?;
    Ok(())
}
