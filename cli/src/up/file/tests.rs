//! Editors write in many ways; none of them starts a rollout that nobody asked for.

use super::*;

const GOOD: &str = "apiVersion: outrigger.dev/v1alpha1
kind: ModelDeployment
metadata: {name: demo}
spec:
  model: {name: demo}
  engine: {process: {command: sh}, args: [ONE]}
";

fn file() -> (tempfile::TempDir, PathBuf, Watched) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("demo.yaml");
    std::fs::write(&path, GOOD).unwrap();
    let (watched, declaration) = Watched::open(&path).unwrap();
    assert_eq!(declaration.key.as_str(), "default/demo");
    (dir, path, watched)
}

/// Two looks: one that sees the change, one that sees it stand still.
fn settle(watched: &mut Watched) -> Change {
    assert!(matches!(watched.look(), Change::Nothing));
    watched.look()
}

#[test]
fn an_edit_is_taken_when_it_stands_still() {
    let (_dir, path, mut watched) = file();
    assert!(matches!(watched.look(), Change::Nothing));
    std::fs::write(&path, GOOD.replace("ONE", "TWO2")).unwrap();
    let Change::Declared(declared) = settle(&mut watched) else { panic!("no change") };
    assert_eq!(declared.spec.engine.args, ["TWO2"]);
    assert!(matches!(watched.look(), Change::Nothing));
}

#[test]
fn a_file_that_still_grows_is_not_read() {
    let (_dir, path, mut watched) = file();
    let whole = GOOD.replace("ONE", "THREE");
    for end in [60, 100, whole.len()] {
        std::fs::write(&path, whole.split_at(end).0).unwrap();
        assert!(matches!(watched.look(), Change::Nothing), "{end}");
    }
    assert!(matches!(watched.look(), Change::Declared(_)));
}

#[test]
fn a_renamed_file_counts_and_the_same_content_does_not() {
    let (dir, path, mut watched) = file();
    let other = dir.path().join("new");
    std::fs::write(&other, GOOD).unwrap();
    std::fs::rename(&other, &path).unwrap();
    assert!(matches!(settle(&mut watched), Change::Nothing));
    std::fs::write(&other, GOOD.replace("ONE", "TWO")).unwrap();
    std::fs::rename(&other, &path).unwrap();
    assert!(matches!(settle(&mut watched), Change::Declared(_)));
}

#[test]
fn a_broken_edit_is_named_once_and_the_next_good_one_counts() {
    let (_dir, path, mut watched) = file();
    std::fs::write(&path, GOOD.replace("args", "arguments")).unwrap();
    let Change::Broken(mistakes) = settle(&mut watched) else { panic!("taken") };
    assert_eq!(mistakes[0].line, Some(6));
    assert_eq!(mistakes[0].path, "spec.engine.arguments");
    assert!(matches!(watched.look(), Change::Nothing));
    std::fs::write(&path, GOOD).unwrap();
    assert!(matches!(settle(&mut watched), Change::Declared(_)));
}

#[test]
fn a_file_that_is_gone_is_told_once_and_found_again() {
    let (_dir, path, mut watched) = file();
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(watched.look(), Change::Gone(_)));
    assert!(matches!(watched.look(), Change::Nothing));
    std::fs::write(&path, GOOD.replace("ONE", "TWO")).unwrap();
    assert!(matches!(settle(&mut watched), Change::Declared(_)));
}

#[test]
fn what_needs_a_cluster_is_refused_with_its_line() {
    let text = GOOD.replace("process: {command: sh}", "image: example.org/engine:1");
    let mistakes = check(text.as_bytes()).unwrap_err();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert_eq!((mistakes[0].path.as_str(), mistakes[0].line), ("spec.engine.process", Some(6)));
}

#[test]
fn what_is_no_file_is_named() {
    for path in ["/no/such/file.yaml", "/tmp"] {
        assert_eq!(Watched::open(Path::new(path)).unwrap_err().len(), 1, "{path}");
    }
}
