//! Programs that are not part of Rust, installed into the cache at a pinned version.

use crate::run::{self, Finished};
use anyhow::Result;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The version of cargo-deny that checks licences, bans and sources.
const CARGO_DENY: &str = "0.20.2";

/// Where cargo-deny is.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    Ok(run::cache()?.join(format!("cargo-deny-{CARGO_DENY}/bin/cargo-deny")))
}

/// Installs cargo-deny, unless it is there.
pub(crate) fn install_cargo_deny() -> Result<Finished> {
    let program = cargo_deny()?;
    let started = Instant::now();
    if program.is_file() {
        return Ok(Finished { succeeded: true, output: String::new(), took: Duration::ZERO });
    }
    let cache = run::cache()?;
    let folder = cache.join(format!("cargo-deny-{CARGO_DENY}"));
    let mut install = run::command(
        "cargo",
        ["install", "cargo-deny", "--locked", "--no-default-features", "--version", CARGO_DENY, "--root"],
    )?;
    // It runs once per test: half the build time is worth more than its speed.
    install
        .arg(&folder)
        .env("CARGO_TARGET_DIR", cache.join("cargo-deny-target"))
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    let finished = run::quietly("install cargo-deny", install)?;
    std::fs::remove_dir_all(cache.join("cargo-deny-target")).ok();
    Ok(Finished { took: started.elapsed(), ..finished })
}
