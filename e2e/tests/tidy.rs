//! What a reader would otherwise have to remark on, read from the sources themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every text file that git tracks or would track, with its path from the root.
fn sources() -> Vec<(String, String)> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git ls-files runs");
    assert!(output.status.success());
    let names = String::from_utf8(output.stdout).unwrap();
    let read = |name: &str| Some((name.to_owned(), fs::read_to_string(root().join(name)).ok()?));
    names.lines().filter_map(read).collect()
}

fn rust() -> impl Iterator<Item = (String, String)> {
    sources().into_iter().filter(|(name, _)| name.ends_with(".rs"))
}

fn none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn files_stay_under_five_hundred_lines() {
    let long = rust().map(|(name, text)| (name, text.lines().count())).filter(|(_, lines)| *lines > 500);
    none(long.map(|(name, lines)| format!("{name}: {lines}")).collect(), "split these files");
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = rust().filter(|(_, text)| !text.starts_with("//!"));
    none(silent.map(|(name, _)| name).collect(), "these files lack a `//!` head");
}

#[test]
fn no_promise_is_left_in_the_code() {
    // Spelt in pieces, or this file would find itself.
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("#[ig", "nore"), concat!("unimpl", "emented!")];
    let found = rust().flat_map(|(name, text)| {
        let lines = text.lines().enumerate().filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)));
        lines.map(|(at, line)| format!("{name}:{}: {}", at + 1, line.trim())).collect::<Vec<_>>()
    });
    none(found.collect(), "finish these");
}

#[test]
fn no_test_sleeps() {
    let sleeps = [concat!("thread::", "sleep("), concat!("time::", "sleep(")];
    let in_tests = |name: &str| name.contains("/tests/") || name.ends_with("tests.rs");
    let found = rust().filter(|(name, _)| in_tests(name)).flat_map(|(name, text)| {
        let lines: Vec<&str> = text.lines().collect();
        let naps = lines.iter().enumerate().filter(|(_, line)| sleeps.iter().any(|nap| line.contains(nap)));
        // A pause between two looks at a condition is not a sleep: it is marked as such on its own line.
        let naps = naps.filter(|(_, line)| !line.contains("// between two looks"));
        naps.map(|(at, line)| format!("{name}:{}: {}", at + 1, line.trim())).collect::<Vec<_>>()
    });
    none(found.collect(), "wait for a condition instead");
}

#[test]
fn the_repository_names_no_machine() {
    let marks =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("sha", "red/"), concat!("py", "pi.org")];
    let found = sources().into_iter().filter(|(name, _)| name != "Cargo.lock").flat_map(|(name, text)| {
        let lines = text.lines().enumerate().filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)));
        lines.map(|(at, line)| format!("{name}:{}: {}", at + 1, line.trim())).collect::<Vec<_>>()
    });
    none(found.collect(), "these lines name a machine or a registry's host");
}
