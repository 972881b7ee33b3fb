//! What can be said, and what is told about what can't.

use super::*;

fn read(args: &[&str]) -> Result<Config, Vec<String>> {
    let flags = Flags::try_parse_from(std::iter::once(&NAME).chain(args)).unwrap();
    let mut mistakes = Mistakes::default();
    let config = Config::mean(&flags, &mut mistakes);
    if mistakes.is_empty() {
        return Ok(config.unwrap());
    }
    assert!(config.is_none());
    Err(mistakes.all().iter().map(ToString::to_string).collect())
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("routes.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

#[test]
fn the_file_of_the_help_is_read() {
    let (_, yaml) = ALONE.split_once("\n\n").unwrap();
    let (yaml, _) = yaml.split_once("\n\n  outrigger-gateway").unwrap();
    let (_dir, path) = file(yaml);
    let config = read(&["--config", &path, "--threads", "2"]).unwrap();
    let Source::Fixed(routes) = config.source else { panic!("a file") };
    assert_eq!(routes[0].stable.as_ref().unwrap().endpoints.len(), 2);
    assert_eq!(routes[0].max_queue_delay, outrigger_wire::Period::secs(2));
    assert_eq!((config.limits.max_in_flight, config.limits.max_body), (10_000, 64 << 20));
    assert_eq!(config.max_drain, outrigger_wire::serving::Timeouts::default().total.get());
}

#[test]
fn all_mistakes_are_told_at_once() {
    let mistakes = read(&[
        "--listen",
        "localhost",
        "--admin",
        "1.2.3.4:99999",
        "--threads",
        "0",
        "--max-body",
        "x",
        "--max-drain",
        "5m",
        "--gateway",
        "",
        "--table",
        "a:1,b",
    ])
    .unwrap_err();
    let names = ["--listen", "--admin", "--threads", "--max-body", "--max-drain", "--gateway", "--table"];
    for (mistake, word) in mistakes.iter().zip(names) {
        assert!(mistake.contains(word) && mistake.contains("allowed: "), "{word}: {mistake}");
    }
    assert_eq!(mistakes.len(), 7, "{mistakes:#?}");
}

#[test]
fn mistakes_in_the_file_have_their_line() {
    let (_dir, path) = file("routes:\n- deployment: a/b\n  model: m\n  colour: red\n");
    let mistakes = read(&["--config", &path]).unwrap_err();
    assert!(mistakes[0].contains("colour") && mistakes[0].contains("line 4"), "{mistakes:?}");

    let (_dir, path) = file(
        "routes:\n- deployment: a/b\n  model: ''\n- deployment: a/b\n  model: m\n  stable:\n    revision: r\n    endpoints: [{id: e, address: here}]\n",
    );
    let mistakes = read(&["--config", &path]).unwrap_err();
    let found: Vec<bool> =
        ["line 3", "line 4", "line 8"].iter().map(|line| mistakes.iter().any(|m| m.contains(line))).collect();
    assert_eq!(found, [true, true, true], "{mistakes:#?}");
}

#[test]
fn routes_come_from_one_place() {
    let (_dir, path) = file("routes: []");
    assert!(read(&["--config", &path]).is_ok());
    assert!(read(&[]).unwrap_err()[0].contains("--config or --table"));
    assert!(read(&["--config", &path, "--table", "a:1"]).unwrap_err()[0].contains("one of"));
    assert!(read(&["--config", "/nonexistent"]).unwrap_err()[0].contains("/nonexistent"));
    let config = read(&["--table", "a:1, b:2"]).unwrap();
    assert!(matches!(config.source, Source::Table(servers) if servers == ["a:1", "b:2"]));
}

/// One list for clap and for the check of unknown variables.
#[test]
fn every_variable_is_known() {
    use clap::CommandFactory;
    let command = Flags::command();
    let mut of_clap: Vec<&str> = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
    let mut listed = VARIABLES.to_vec();
    of_clap.sort_unstable();
    listed.sort_unstable();
    assert_eq!(of_clap, listed);
}
