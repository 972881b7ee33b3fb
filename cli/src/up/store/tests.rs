//! What is stored is there again, whatever happened meanwhile.

use super::*;
use jiff::Timestamp;
use outrigger_crds::Engine;

fn spec(arg: &str) -> ModelDeploymentSpec {
    let engine = Engine { args: vec![arg.to_owned()], ..Engine::default() };
    serde_json::from_value(serde_json::json!({
        "model": {"name": "demo"}, "engine": serde_json::to_value(engine).unwrap(),
    }))
    .unwrap()
}

fn stored(arg: &str) -> Stored {
    Stored::new("default/demo".into(), spec(arg))
}

fn kept(arg: &str, at: i64) -> Revision {
    let engine = spec(arg).engine;
    Revision { id: revision::of(&engine), created: Timestamp::from_second(at).unwrap(), engine }
}

#[test]
fn what_was_written_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!(store.stored(), None);
    let mut status = ModelDeploymentStatus { serial: 7, ..Default::default() };
    store.write(stored("a").planned(&status, &[kept("a", 1)])).unwrap();
    status.serial = 8;
    let next = stored("a").declare(&spec("b")).planned(&status, &[kept("b", 2)]);
    store.write(next.clone()).unwrap();
    drop(store);
    let again = Store::open(dir.path()).unwrap();
    assert_eq!(again.stored(), Some(&next));
    assert_eq!(again.stored().unwrap().generation, 2);
}

#[test]
fn a_second_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = Store::open(dir.path()).unwrap();
    let refused = Store::open(dir.path()).unwrap_err();
    assert!(matches!(refused, Refused::InUse(_)), "{refused}");
    drop(first);
    Store::open(dir.path()).unwrap();
}

/// A crash in the middle of a write leaves a half new file beside the whole old one.
#[test]
fn a_crash_within_a_write_leaves_the_old_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    store.write(stored("a")).unwrap();
    drop(store);
    std::fs::write(dir.path().join("state.json.new"), "{\"format\": 1, \"depl").unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    assert_eq!(store.stored(), Some(&stored("a")));
    store.write(stored("b")).unwrap();
    drop(store);
    assert_eq!(Store::open(dir.path()).unwrap().stored(), Some(&stored("b")));
}

#[test]
fn what_cannot_be_written_leaves_the_old_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::open(dir.path()).unwrap();
    store.write(stored("a")).unwrap();
    // A directory stands where the new file is to be.
    std::fs::create_dir(dir.path().join("state.json.new")).unwrap();
    assert!(store.write(stored("b")).is_err());
    assert_eq!(store.stored(), Some(&stored("a")));
    std::fs::remove_dir(dir.path().join("state.json.new")).unwrap();
    store.write(stored("b")).unwrap();
    assert_eq!(store.stored(), Some(&stored("b")));
}

#[test]
fn what_is_broken_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.json");
    let whole = serde_json::to_string(&stored("a")).unwrap();
    let other = whole.replace("\"format\":1", "\"format\":99");
    for text in ["", "{", whole.split_at(whole.len() / 2).0, "null", &other] {
        std::fs::write(&file, text).unwrap();
        let refused = Store::open(dir.path()).unwrap_err();
        assert!(matches!(refused, Refused::Unreadable(..)), "{text}: {refused}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    }
}

#[test]
fn history_is_bounded_and_never_what_is_named() {
    let mut all = stored("a");
    for i in 0..50 {
        all = all.planned(&ModelDeploymentStatus::default(), &[kept("first", 0), kept(&format!("{i}"), i)]);
    }
    assert_eq!(all.revisions.len(), HISTORY + 2);
    let ids: Vec<_> = all.revisions.iter().map(|r| r.created.as_second()).collect();
    assert_eq!(ids, [0, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40, 39]);
}

#[test]
fn the_same_spec_is_the_same_generation() {
    let first = stored("a");
    assert_eq!(first.clone().declare(&spec("a")), first);
    assert_eq!(first.declare(&spec("b")).generation, 2);
}

#[test]
fn sockets_of_a_long_directory_are_elsewhere_and_found_again() {
    let near = sockets(Path::new("/short"));
    assert_eq!(near, Path::new("/short/run"));
    let long = PathBuf::from(format!("/{}", "long".repeat(40)));
    assert_eq!(sockets(&long), sockets(&long));
    assert!(sockets(&long).as_os_str().len() < LONGEST_SOCKETS);
}
