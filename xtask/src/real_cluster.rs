//! The rung of tests on a real Kubernetes: packages and programs while other rungs run, then images, the cluster, its
//! tests one at a time, and at the end, whatever happened, no cluster.

use crate::images::Build;
use crate::run::{self, Background};
use crate::{chart, cluster, programs};
use anyhow::{Context, Result, bail};
use std::process::Command;

/// What is set up beside other rungs, at low priority.
pub(crate) struct SetUp {
    programs: Background,
    schemas: Background,
}

/// Starts the set-up.
pub(crate) fn set_up() -> SetUp {
    SetUp {
        programs: run::in_background("set up the cluster's programs", programs::set_up),
        schemas: run::in_background("set up Kubernetes' schemas", chart::set_up),
    }
}

/// Why there is nothing to test with.
pub(crate) type Skipped = Option<String>;

/// Runs all tests that need a cluster, through `cargo_test`. A set-up that fails and a machine that lacks something are
/// a skip, with the reason; a cluster that does not come up on a machine that has everything is a failure.
pub(crate) fn rung(
    set_up: SetUp,
    mut cargo_test: impl FnMut(&str, Command) -> Result<()>,
) -> Result<Skipped> {
    if let Err(why) = ready(set_up) {
        return Ok(Some(format!("real cluster: {why:#}")));
    }
    if let Some(why) = cluster::lacking()? {
        return Ok(Some(format!("real cluster: {why}")));
    }
    // What an earlier run was kept from taking down has images and objects of that run.
    cluster::down()?;
    cluster::up_here()?;
    let tested = tests(&mut cargo_test);
    let down = cluster::down();
    tested.and(down)?;
    cargo_test("cargo test, the cluster's end", command(&["cluster-end"], &named("cluster-end")?)?)?;
    Ok(None)
}

/// Waits until everything is set up.
///
/// # Errors
/// What could not be had.
pub(crate) fn ready(set_up: SetUp) -> Result<()> {
    for step in [set_up.programs, set_up.schemas] {
        let finished = step.wait()?;
        if !finished.succeeded {
            run::show(&finished.output);
            bail!("it could not be set up: {}", last_line(&finished.output));
        }
    }
    Ok(())
}

fn tests(cargo_test: &mut impl FnMut(&str, Command) -> Result<()>) -> Result<()> {
    cluster::load(&[], Build::Quick)?;
    let mut command = command(&["cluster"], &named("cluster")?)?;
    // It is up: a test that breaks a part must not have it mended by the next one's `up`.
    command.env("OUTRIGGER_CLUSTER_JSON", cluster::file()?);
    cargo_test("cargo test, real cluster", command)
}

/// One at a time: some take parts of the cluster away.
pub(crate) fn command(features: &[&str], tests: &[String]) -> Result<Command> {
    let features = features.join(",");
    let mut args = vec!["test", "--locked", "--no-fail-fast", "-p", "outrigger-e2e", "--features", &features];
    for test in tests {
        args.extend(["--test", test]);
    }
    args.extend(["--", "--test-threads=1"]);
    let mut command = run::command("cargo", args)?;
    command.env("OUTRIGGER_XTASK", std::env::current_exe()?).env(cluster::ONLY, "native");
    Ok(command)
}

/// The tests that ask for exactly this feature, in the order in which the manifest names them.
fn named(feature: &str) -> Result<Vec<String>> {
    let path = run::root()?.join("e2e/Cargo.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(asking(&text, feature))
}

fn asking(manifest: &str, feature: &str) -> Vec<String> {
    let wanted = format!("required-features = [\"{feature}\"]");
    let blocks = manifest.split("\n[").filter(|block| block.starts_with("[test]]"));
    let asking = blocks.filter(|block| block.lines().any(|line| line.trim() == wanted));
    let name =
        |block: &str| block.lines().find_map(|line| Some(line.strip_prefix("name = ")?.replace('"', "")));
    asking.filter_map(name).collect()
}

fn last_line(output: &str) -> &str {
    output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given")
}

#[cfg(test)]
mod tests_of_this {
    use super::asking;

    #[test]
    fn tests_are_found_by_the_feature_that_they_ask_for() {
        let manifest = "[features]\ncluster = []\n\n[[test]]\nname = \"b\"\nrequired-features = [\"cluster\"]\n\n\
                        [[test]]\nname = \"end\"\nrequired-features = [\"cluster-end\"]\n\n[[test]]\nname = \"a\"\n\
                        required-features = [\"cluster\"]\n\n[dependencies]\n";
        assert_eq!(asking(manifest, "cluster"), ["b", "a"]);
        assert_eq!(asking(manifest, "cluster-end"), ["end"]);
        assert!(asking(manifest, "clus").is_empty());
    }
}
