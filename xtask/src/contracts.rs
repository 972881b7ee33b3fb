//! Which test proves which line of `docs/contracts.md`.
//!
//! A line stands there as `- **R.1** …`; a test says `proves R.1` (or `proves R.1, R.2`) in the comment above it.

use crate::run;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lists each line with its tests; fails on a line without one and on a test of an unknown line.
pub(crate) fn contracts(print: bool) -> Result<()> {
    let root = run::root()?;
    let text = fs::read_to_string(root.join("docs/contracts.md")).context("reading docs/contracts.md")?;
    let mut lines: BTreeMap<Id, Vec<String>> =
        text.lines().filter_map(contract).map(|id| (id, Vec::new())).collect();
    let mut unknown = Vec::new();
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    for file in files {
        let place = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
        for (id, test) in proofs(&fs::read_to_string(&file)?) {
            match lines.get_mut(&id) {
                Some(tests) => tests.push(format!("{place}: {test}")),
                None => unknown
                    .push(format!("{place}: {test} proves {}, which docs/contracts.md lacks", id.text())),
            }
        }
    }
    if print {
        for (id, tests) in &lines {
            println!("{:<6}{}", id.text(), tests.first().map_or("NO TEST", String::as_str));
            tests.iter().skip(1).for_each(|test| println!("      {test}"));
        }
    }
    let bare: Vec<String> =
        lines.iter().filter(|(_, tests)| tests.is_empty()).map(|(id, _)| id.text()).collect();
    if !bare.is_empty() {
        bail!("contract lines without a test: {}", bare.join(", "));
    }
    if !unknown.is_empty() {
        bail!("{}", unknown.join("\n"));
    }
    println!("{:<44} ok       {} lines", "contracts have tests", lines.len());
    Ok(())
}

/// `R.12`: ordered by letter, then number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id(char, u32);

impl Id {
    fn parse(word: &str) -> Option<Self> {
        let (letter, number) = word.split_once('.')?;
        let mut letters = letter.chars();
        let letter = letters.next().filter(char::is_ascii_uppercase)?;
        let digits = number.bytes().all(|b| b.is_ascii_digit());
        if letters.next().is_some() || !digits {
            return None;
        }
        Some(Self(letter, number.parse().ok()?))
    }

    fn text(&self) -> String {
        format!("{}.{}", self.0, self.1)
    }
}

fn contract(line: &str) -> Option<Id> {
    Id::parse(line.trim_start().strip_prefix("- **")?.split_once("**")?.0)
}

/// The lines that this file's tests prove, each with the name of its test. A comment over what is no test proves
/// nothing.
fn proofs(text: &str) -> Vec<(Id, String)> {
    let mut found = Vec::new();
    let mut waiting: Vec<Id> = Vec::new();
    let mut is_test = false;
    for line in text.lines() {
        let line = line.trim_start();
        is_test |= ["#[test", "#[tokio::test"].iter().any(|mark| line.starts_with(mark));
        let comment = ["///", "//!", "#", "\"\"\""].iter().find_map(|mark| line.strip_prefix(mark));
        if let Some((_, rest)) = comment.and_then(|comment| comment.split_once("proves ")) {
            let words = rest.split([' ', ',']).filter(|word| !word.is_empty());
            waiting.extend(words.map_while(|word| Id::parse(word.trim_end_matches(['.', ':', ';']))));
        }
        let (function, script) = (line.split_once("fn "), line.split_once("def "));
        let Some((_, name)) = function.or(script).filter(|_| comment.is_none()) else { continue };
        let name = name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(name);
        let proven = waiting.drain(..).map(|id| (id, name.to_owned()));
        if is_test || script.is_some() {
            found.extend(proven);
        }
        is_test = false;
    }
    found
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with('.') || name == "target" || name == "xtask" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            collect(&path, files)?;
        } else if name.ends_with(".rs") || name.ends_with(".py") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_above_tests() {
        let text = "/// Something. proves R.1, R.12\n#[test]\nfn it_holds() {}\n\n/// proves nothing\nfn other() {}\n";
        let found = proofs(text);
        assert_eq!(found, [(Id('R', 1), "it_holds".to_owned()), (Id('R', 12), "it_holds".to_owned())]);
    }

    #[test]
    fn what_is_no_test_proves_nothing() {
        assert_eq!(proofs("/// proves R.1\nfn helper() {}\n#[test]\nfn it_holds() {}\n"), []);
    }

    #[test]
    fn only_ids_are_contract_lines() {
        assert_eq!(contract("- **G.3** An endpoint that leaves …"), Some(Id('G', 3)));
        assert_eq!(contract("- **Note** that"), None);
    }
}
