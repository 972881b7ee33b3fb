//! The documents say what is so: links lead somewhere, tests that are named exist, references are what the programs
//! print.
//!
//! A block that must be a program's own words stands below a comment `<!-- output of: outrigger-gateway --help -->`;
//! with `OUTRIGGER_UPDATE_DOCS=1` the test writes it instead.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use outrigger_e2e::markdown::{blocks, links};
use outrigger_e2e::program::{command, root, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything that git tracks or would track and that ends so.
fn tracked(ending: &str) -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git ls-files runs");
    let names = String::from_utf8(output.stdout).unwrap();
    let names = names.lines().filter(|name| name.ends_with(ending));
    names.map(|name| root().join(name)).filter(|path| path.is_file()).collect()
}

#[test]
fn links_lead_somewhere() {
    for document in tracked(".md") {
        for link in links(&fs::read_to_string(&document).unwrap()) {
            let target = link.split('#').next().unwrap();
            let elsewhere = target.is_empty() || target.contains("://");
            let folder = document.parent().unwrap();
            assert!(elsewhere || folder.join(target).exists(), "{}: {link}", document.display());
        }
    }
}

/// Each invariant of the map names a test that exists, or where else it is kept.
#[test]
fn tests_that_the_map_names_exist() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(map.lines().count() < 300, "a map is read in ten minutes");
    let sources: Vec<String> = tracked(".rs").iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let (_, invariants) = map.split_once("## Invariants").expect("the map has invariants");
    let mut named = 0;
    for row in invariants.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| invariant")) {
        let keepers = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        for name in keepers.split('`').skip(1).step_by(2) {
            if name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
                named += 1;
                let function = format!("fn {name}(");
                assert!(sources.iter().any(|source| source.contains(&function)), "no test is called {name}");
            } else if !name.contains([' ', '[']) {
                assert!(root().join(name).exists(), "{name} does not exist");
            }
        }
    }
    assert!(named >= 10, "the invariants are found: {named}");
}

/// A picture of the screen is one that the screen's own tests compare with what is drawn.
#[test]
fn screens_are_what_is_drawn() {
    let update = std::env::var_os("OUTRIGGER_UPDATE_DOCS").is_some();
    let path = root().join("README.md");
    let text = fs::read_to_string(&path).unwrap();
    let mut seen = 0;
    for block in blocks(&text) {
        let Some(name) = block.before.strip_prefix("<!-- screen: ") else { continue };
        seen += 1;
        let name = format!("outrigger__screen__tests__{}.snap", name.trim_end_matches(" -->"));
        let drawn = fs::read_to_string(root().join("cli/src/screen/snapshots").join(name)).unwrap();
        let (_, drawn) = drawn.trim_start_matches("---\n").split_once("---\n").unwrap();
        if update {
            fs::write(&path, text.replace(&block.text, &format!("{}\n", drawn.trim_end()))).unwrap();
        } else {
            assert_eq!(block.text.trim_end(), drawn.trim_end());
        }
    }
    assert!(seen > 0);
}

/// `outrigger-gateway --help` → what it prints.
fn printed(line: &str, folder: &Path) -> String {
    let mut words = line.split(' ');
    let mut command = command(words.next().unwrap()).unwrap();
    command.args(words).current_dir(folder).env("COLUMNS", "100");
    let output = run(command).unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[test]
fn references_are_the_programs_own_words() {
    let update = std::env::var_os("OUTRIGGER_UPDATE_DOCS").is_some();
    let mut checked = 0;
    for document in tracked(".md") {
        let text = fs::read_to_string(&document).unwrap();
        let mut updated = text.clone();
        for block in blocks(&text) {
            let comment =
                block.before.strip_prefix("<!-- output of: ").and_then(|rest| rest.strip_suffix(" -->"));
            let Some(line) = comment else { continue };
            checked += 1;
            let now = printed(line, &root());
            if update {
                let was = format!("{}\n\n```text\n{}```", block.before, block.text);
                updated = updated.replace(&was, &format!("{}\n\n```text\n{now}```", block.before));
            } else {
                assert_eq!(block.text, now, "{}: {line}", document.display());
            }
        }
        if updated != text {
            fs::write(&document, updated).unwrap();
        }
    }
    assert!(checked >= 3, "the references are found: {checked}");
}
