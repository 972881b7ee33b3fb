//! Files that are generated and committed.

use crate::run;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// The folder of generated custom resource definitions.
const CRDS: &str = "crds/yaml";
/// The chart's copies: a chart can't reach out of its folder.
const CHART: &str = "charts/outrigger/files";

/// Writes the generated files, or with `check` fails when they are stale.
pub(crate) fn generate(check: bool) -> Result<()> {
    let target = if check { "target/generated/crds" } else { CRDS };
    let started = Instant::now();
    fs::create_dir_all(run::root()?.join(target))?;
    let args = ["run", "--quiet", "-p", "outrigger-crds", "--example", "generate", "--", target];
    let finished = run::quietly("generate", run::command("cargo", args)?)?;
    if !finished.succeeded {
        run::show(&finished.output);
        bail!("generating {CRDS} failed");
    }
    let made = run::root()?.join(target);
    let chart = run::root()?.join(CHART);
    if check {
        compare(&made, &run::root()?.join(CRDS))?;
        compare(&made, &chart)?;
    } else {
        fs::create_dir_all(&chart)?;
        for entry in fs::read_dir(&made)?.flatten() {
            fs::copy(entry.path(), chart.join(entry.file_name()))?;
        }
    }
    run::say(if check { "generated files are fresh" } else { "generate" }, started.elapsed(), "ok");
    Ok(())
}

fn compare(fresh: &Path, committed: &Path) -> Result<()> {
    for entry in fs::read_dir(fresh)? {
        let entry = entry?;
        let theirs = committed.join(entry.file_name());
        let old = fs::read(&theirs).with_context(|| format!("reading {}", theirs.display()))?;
        if old != fs::read(entry.path())? {
            bail!("{} is stale: run `cargo xtask generate`", theirs.display());
        }
    }
    Ok(())
}
