//! What a reader would otherwise have to remark on.

use crate::run::{self, Background};
use crate::{contracts, generate, tools};
use anyhow::{Result, bail};

/// Everything at once, the installation of cargo-deny included.
pub(crate) fn lint() -> Result<()> {
    let deny = run::in_background("install cargo-deny", tools::install_cargo_deny);
    sources()?;
    dependencies(deny)
}

/// Formatting, clippy, generated files, contracts.
pub(crate) fn sources() -> Result<()> {
    run::must("cargo fmt --check", run::command("cargo", ["fmt", "--all", "--check"])?)?;
    let clippy =
        ["clippy", "--workspace", "--all-targets", "--all-features", "--locked", "--", "-D", "warnings"];
    run::must("cargo clippy -D warnings", run::command("cargo", clippy)?)?;
    generate::generate(true)?;
    contracts::contracts(false)
}

/// Licences, bans, duplicates and sources. Advisories need a database from the network, and stay a manual step.
pub(crate) fn dependencies(deny: Background) -> Result<()> {
    let installed = deny.wait()?;
    if !installed.succeeded {
        run::show(&installed.output);
        bail!("cargo-deny could not be installed");
    }
    let program = tools::cargo_deny()?;
    let args = ["--all-features", "check", "bans", "licenses", "sources"];
    run::must("cargo deny check", run::command(&program.to_string_lossy(), args)?)?;
    Ok(())
}
