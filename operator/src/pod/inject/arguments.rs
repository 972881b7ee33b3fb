//! Where an engine is told to listen, read and rewritten: vLLM by its command line, MLServer by its environment.

use super::{Reason, Refusal, shell};
use k8s_openapi::api::core::v1::{Container, EnvVar};

/// Where an engine that stepped aside can be reached from.
const LOOPBACK: &str = "127.0.0.1";
/// MLServer's port.
const MLSERVER_PORT: &str = "MLSERVER_HTTP_PORT";
/// MLServer's address, of all its ports.
const MLSERVER_HOST: &str = "MLSERVER_HOST";
/// Programs whose `-c` is a script.
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "zsh", "ksh"];
/// Options by which vLLM speaks something that the sidecar doesn't.
const ELSEWHERE: [(&str, &str); 3] = [
    ("--uds", "listens on a Unix socket"),
    ("--ssl-keyfile", "speaks TLS"),
    ("--ssl-certfile", "speaks TLS"),
];

/// A container's command line.
struct Line {
    /// Its words; of a script, the script's.
    words: Vec<String>,
    /// The script, as an index into command and arguments together.
    script: Option<usize>,
}

/// The port that a vLLM is told to listen on. None: its usual one.
pub(super) fn port_of_vllm(container: &Container, path: &str) -> Result<Option<u16>, Refusal> {
    let line = read(container, path)?;
    let refused = |message: String| Refusal::new(Reason::Arguments, format!("{path}.args"), message);
    for word in &line.words {
        let flag = option(word).0;
        if let Some((name, does)) = ELSEWHERE.iter().find(|(name, _)| *name == flag) {
            let message = format!("{name}: an engine that {does} has no port for the sidecar; leave it out");
            return Err(refused(message));
        }
    }
    let mut port = None;
    let mut words = line.words.iter();
    while let Some(word) = words.next() {
        let value = match option(word) {
            (flag, Some(value)) if flag == "--port" => Some(value.to_owned()),
            (flag, None) if flag == "--port" => Some(words.next().cloned().unwrap_or_default()),
            _ => None,
        };
        if let Some(value) = value {
            let number: Option<u16> = value.parse().ok().filter(|number| *number > 0);
            let message = || format!("--port `{value}` is not a number; allowed: 1 to 65535, written out");
            port = Some(number.ok_or_else(|| refused(message()))?);
        }
    }
    let takes_options = container.command.as_ref().is_none_or(Vec::is_empty) || names_vllm(&line.words);
    if port.is_none() && !takes_options {
        let program = line.words.first().map(String::as_str).unwrap_or_default();
        return Err(refused(format!(
            "it isn't known whether `{program}` takes --port; give --port and --host, or start vLLM itself \
             (command: [vllm, serve, MODEL])"
        )));
    }
    Ok(port)
}

/// `--a_b=c` is `--a-b` and `c`, as vLLM reads it.
fn option(word: &str) -> (String, Option<&str>) {
    match word.split_once('=') {
        Some((flag, value)) => (flag.replace('_', "-"), Some(value)),
        None => (word.replace('_', "-"), None),
    }
}

fn names_vllm(words: &[String]) -> bool {
    words.iter().any(|word| base(word) == "vllm" || word.starts_with("vllm.entrypoints."))
}

fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or_default()
}

/// The command line, and whether it is a script. What could not be rewritten is refused here.
fn read(container: &Container, path: &str) -> Result<Line, Refusal> {
    let all: Vec<String> = container.command.iter().chain(&container.args).flatten().cloned().collect();
    let at = |i: usize| {
        let command = container.command.as_ref().map_or(0, Vec::len);
        if i < command { format!("{path}.command[{i}]") } else { format!("{path}.args[{}]", i - command) }
    };
    if all.is_empty() {
        let message = "neither command nor args: the engine's arguments stand in its image, and those given here \
                       would replace them; write them here (command: [vllm, serve, MODEL])";
        return Err(Refusal::new(Reason::Arguments, format!("{path}.args"), message));
    }
    if let Some(i) = all.iter().position(|word| word == "--") {
        let message = "`--`: what follows it is no option, so --port can't be set; leave it out";
        return Err(Refusal::new(Reason::Arguments, at(i), message));
    }
    let runs = |flag: &String| flag.starts_with('-') && !flag.starts_with("--") && flag.ends_with('c');
    let shell = all.iter().position(|word| SHELLS.contains(&base(word)));
    let Some(script) = shell.filter(|i| all.get(i + 1).is_some_and(runs)).map(|i| i + 2) else {
        return Ok(Line { words: all, script: None });
    };
    let refused = |what: &str| {
        let message = format!(
            "a script can't be rewritten safely when it is more than one plain command (here: {what}); write the \
             command as a list instead (command: [vllm, serve, MODEL], args: [--port=8000])"
        );
        Refusal::new(Reason::Arguments, at(script), message)
    };
    let text = all.get(script).ok_or_else(|| refused("it is missing"))?;
    if all.len() > script + 1 {
        return Err(refused("arguments after it"));
    }
    let words = shell::words(text).map_err(|what| refused(&what))?;
    if !names_vllm(&words) {
        return Err(refused("it doesn't start vllm"));
    }
    Ok(Line { words, script: Some(script) })
}

/// Lets a vLLM listen on `port` of the loopback address. The last of several equal options counts, so that they may
/// be appended to a script.
pub(super) fn move_vllm(container: &mut Container, path: &str, port: u16) -> Result<(), Refusal> {
    let line = read(container, path)?;
    let appended = [("--host", LOOPBACK.to_owned()), ("--port", port.to_string())];
    let Container { command, args, .. } = container;
    let all: Vec<&mut String> = command.iter_mut().chain(args.iter_mut()).flatten().collect();
    if let Some(script) = line.script.and_then(|i| all.into_iter().nth(i)) {
        script.truncate(script.trim_end().len());
        for (flag, value) in appended {
            script.push_str(&format!(" {flag} {value}"));
        }
        return Ok(());
    }
    let mut all: Vec<&mut String> = command.iter_mut().chain(args.iter_mut()).flatten().collect();
    let missing: Vec<String> = appended
        .into_iter()
        .filter(|(flag, value)| !replace(&mut all, flag, value))
        .map(|(flag, value)| format!("{flag}={value}"))
        .collect();
    if !missing.is_empty() {
        args.get_or_insert_default().extend(missing);
    }
    Ok(())
}

/// Gives an option its new value wherever it stands; false where it stands nowhere.
fn replace(words: &mut [&mut String], flag: &str, value: &str) -> bool {
    let mut found = false;
    let mut next = false;
    for word in words {
        if next {
            **word = value.to_owned();
            next = false;
            continue;
        }
        let (name, given) = option(word);
        if name == flag {
            found = true;
            next = given.is_none();
            if given.is_some() {
                **word = format!("{flag}={value}");
            }
        }
    }
    found
}

/// The port that an MLServer is told to listen on. None: its usual one.
pub(super) fn port_of_mlserver(container: &Container, path: &str) -> Result<Option<u16>, Refusal> {
    let all = container.env.iter().flatten().enumerate();
    let Some((i, var)) = all.filter(|(_, var)| var.name == MLSERVER_PORT).last() else { return Ok(None) };
    let number = var.value.as_deref().and_then(|value| value.parse().ok()).filter(|number| *number > 0);
    number.map(Some).ok_or_else(|| {
        let shown = var.value.as_deref().unwrap_or("valueFrom");
        let message = format!("{MLSERVER_PORT} `{shown}` is not a number; allowed: 1 to 65535, written out");
        Refusal::new(Reason::Arguments, format!("{path}.env[{i}]"), message)
    })
}

/// Lets an MLServer listen on `port`; on the loopback address only where it has no other port that it would take with
/// it, for gRPC or metrics.
pub(super) fn move_mlserver(container: &mut Container, port: u16, alone: bool) {
    set(container, MLSERVER_PORT, port.to_string());
    if alone {
        set(container, MLSERVER_HOST, LOOPBACK.to_owned());
    }
}

fn set(container: &mut Container, name: &str, value: String) {
    let env = container.env.get_or_insert_default();
    let mut found = false;
    for var in env.iter_mut().filter(|var| var.name == name) {
        *var = EnvVar { name: name.to_owned(), value: Some(value.clone()), value_from: None };
        found = true;
    }
    if !found {
        env.push(EnvVar { name: name.to_owned(), value: Some(value), value_from: None });
    }
}
