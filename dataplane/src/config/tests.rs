//! Every mistake is told, at once, with what is allowed.

use super::*;
use std::net::SocketAddr;

#[test]
fn all_mistakes_are_collected() {
    let mut mistakes = Mistakes::default();
    let address = "an address and a port, such as 127.0.0.1:8080";
    assert_eq!(mistakes.parse::<SocketAddr>("--listen", Some("here"), address), None);
    assert_eq!(mistakes.parse::<usize>("--threads", Some(" 4 "), "1 to 64"), Some(4));
    assert_eq!(mistakes.parse::<usize>("--threads", None, "1 to 64"), None);
    mistakes.unknown_environment(
        ["OUTRIGGER_LISTEN", "OUTRIGGER_LISTNE", "OUTRIGGER_LOG", "PATH"].map(str::to_owned),
        &["OUTRIGGER_LISTEN"],
    );
    let said: Vec<String> = mistakes.all().iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "--listen: \"here\" can't be read; allowed: an address and a port, such as 127.0.0.1:8080",
            "OUTRIGGER_LISTNE: there is no such variable; allowed: OUTRIGGER_LISTEN, OUTRIGGER_LOG",
        ]
    );
    assert!(mistakes.finish("test").is_err());
    assert!(Mistakes::default().finish("test").is_ok());
}

#[test]
fn files_are_bounded_and_told_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    std::fs::write(&path, "a: 1\nb: [\n").unwrap();
    let mut mistakes = Mistakes::default();
    assert!(mistakes.file::<serde_json::Value>(&path).is_none());
    assert!(mistakes.file::<serde_json::Value>(&dir.path().join("none")).is_none());
    std::fs::write(&path, vec![b'#'; 3 << 20]).unwrap();
    assert!(mistakes.file::<serde_json::Value>(&path).is_none());
    let said: Vec<String> = mistakes.all().iter().map(ToString::to_string).collect();
    assert!(said[0].contains("line "), "{said:?}");
    assert!(said[1].contains("can't be read"), "{said:?}");
    assert!(said[2].contains("allowed: at most 1048576"), "{said:?}");
    std::fs::write(&path, "a: 1\n").unwrap();
    assert!(Mistakes::default().file::<serde_json::Value>(&path).is_some());
    // A device without an end is not read to its end.
    assert!(Mistakes::default().file::<serde_json::Value>(Path::new("/dev/zero")).is_none());
}

#[test]
fn kubernetes_own_variables_of_services_are_let_pass() {
    let names = [
        "OUTRIGGER_GATEWAY_SERVICE_HOST",
        "OUTRIGGER_GATEWAY_SERVICE_PORT_HTTP",
        "OUTRIGGER_GATEWAY_PORT",
        "OUTRIGGER_GATEWAY_PORT_80_TCP_ADDR",
        "OUTRIGGER_GATEWY",
    ];
    let mut mistakes = Mistakes::default();
    mistakes.unknown_environment(names.iter().map(|name| (*name).to_owned()), &["OUTRIGGER_GATEWAY"]);
    let said: Vec<String> = mistakes.all().iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("OUTRIGGER_GATEWY"), "{said:?}");
}
