//! The example documents of `crds/examples`: the valid ones are read and planned for, each invalid one gives the
//! mistakes that stand beside it (`UPDATE_EXPECTED=1` writes them).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use outrigger_plan::{World, check, document, plan};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn files(kind: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds/examples").join(kind);
    let entries = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|e| e != "expected")).collect();
    files.sort();
    assert!(files.len() >= 4, "{}", directory.display());
    files
}

#[test]
fn valid_documents_are_read_and_planned_for() {
    for path in files("valid") {
        let declaration = document::read(&std::fs::read(&path).unwrap())
            .unwrap_or_else(|mistakes| panic!("{}: {mistakes:#?}", path.display()));
        let world = World {
            spec: declaration.declared(1),
            status: Default::default(),
            revisions: Vec::new(),
            replicas: Vec::new(),
            gateways: Vec::new(),
            capacity: Default::default(),
            evidence: Default::default(),
            action: None,
        };
        let now = "2026-11-21T08:00:00Z".parse().unwrap();
        let planned = plan(&world, now);
        assert_eq!(check::check(&world, &planned, now), Vec::<String>::new(), "{}", path.display());
    }
}

#[test]
fn invalid_documents_give_all_their_mistakes() {
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    for path in files("invalid") {
        let mistakes = document::read(&std::fs::read(&path).unwrap()).map(|_| path.clone()).unwrap_err();
        let found = mistakes.iter().fold(String::new(), |mut text, mistake| {
            writeln!(text, "{mistake}").unwrap();
            text
        });
        assert!(mistakes.iter().all(|mistake| mistake.line.is_some() || mistake.path.is_empty()), "{found}");
        let beside = path.with_extension("expected");
        if update {
            std::fs::write(&beside, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&beside).unwrap_or_default();
        assert_eq!(found, expected, "{}", path.display());
    }
}
