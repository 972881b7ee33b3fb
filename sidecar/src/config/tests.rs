//! What flags and the file mean, and every mistake at once.

use super::*;
use std::io::Write;

fn read(args: &[&str], file: Option<&str>) -> (Option<Config>, Vec<String>) {
    let mut named = tempfile::NamedTempFile::new().unwrap();
    let mut args: Vec<String> =
        std::iter::once("outrigger-sidecar").chain(args.iter().copied()).map(str::to_owned).collect();
    if let Some(text) = file {
        named.write_all(text.as_bytes()).unwrap();
        args.extend(["--config".to_owned(), named.path().display().to_string()]);
    }
    let flags = Flags::try_parse_from(args).unwrap();
    let mut mistakes = Mistakes::default();
    let config = Config::mean(&flags, &mut mistakes);
    (config, mistakes.all().iter().map(ToString::to_string).collect())
}

#[test]
fn alone_it_needs_next_to_nothing() {
    let (config, mistakes) = read(&["--engine", "127.0.0.1:8000", "--listen", ":9000"], None);
    assert_eq!(mistakes, [""; 0]);
    let config = config.unwrap();
    assert_eq!(config.listen, "0.0.0.0:9000".parse().unwrap());
    assert_eq!((config.kind, config.threads, config.table.len()), (EngineKind::Custom, 1, 0));
    assert_eq!(config.serving, Serving::default());
}

#[test]
fn all_mistakes_show_at_once() {
    let args = [
        "--engine",
        "nowhere",
        "--listen",
        "9000",
        "--admin",
        "x",
        "--engine-kind",
        "vllm",
        "--threads",
        "0",
        "--table",
        "a",
    ];
    let (config, mistakes) = read(&args, Some("batching: {maxSize: 0, maxDely: 1ms}\nadmission: 7\n"));
    assert!(config.is_none());
    for field in
        ["--engine:", "--listen", "--admin", "--engine-kind", "--threads", "--endpoint", "--table", "maxDely"]
    {
        assert!(mistakes.iter().any(|m| m.contains(field)), "{field} in {mistakes:#?}");
    }
    let (config, mistakes) = read(&[], Some("batching: {maxSize: 0}\n"));
    assert!(config.is_none());
    assert!(mistakes[0].starts_with("batching.maxSize (line 1)"), "{mistakes:?}");
    let (config, mistakes) = read(&["--engine-kind", "vLLM"], Some("batching: {}\n"));
    assert!(config.is_none() && mistakes[0].contains("batches by itself"), "{mistakes:?}");
}

#[test]
fn limits_have_their_defaults_by_kind_and_are_shared_out() {
    let plain = Serving::default();
    let batched = Serving { batching: Some(Default::default()), ..Serving::default() };
    assert_eq!(limits(&plain, EngineKind::VLlm, 1).concurrency, 256);
    assert_eq!(limits(&batched, EngineKind::VLlm, 1).batch, None, "it batches by itself");
    assert_eq!(limits(&plain, EngineKind::Custom, 1).concurrency, 64);
    let limits4 = limits(&batched, EngineKind::MLServer, 4);
    assert_eq!((limits4.concurrency, limits4.max_queue), (1, 64));
    assert_eq!(limits4.batch.unwrap().max_rows, 32);
}
