//! The probe and hook program that runs beside an engine: it asks the sidecar over a Unix socket.
//!
//! An engine's liveness can't be asked of the sidecar over HTTP: a refused connection is a failed probe, so a dead
//! or swapped sidecar would kill engines. This program fails the probe only on the sidecar's explicit word, and
//! succeeds on silence, refusal and time-out. It is std only, so that it runs in any container that it is copied
//! into.
//!
//! One line in, one line out: `live` is answered by `ok` or `restart INCARNATION REASON`; `drain` by `ok` when the
//! drain has begun; `wait-drained` by `ok` when the last stream has ended.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

/// How long `live` and `drain` wait for an answer. A kubelet's probe times out after one second unless told
/// otherwise, so an engine's probe has to allow three.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long `wait-drained` waits unless told otherwise: the default of `serving.maxDrain`.
pub const MAX_DRAIN: Duration = Duration::from_secs(120);
/// The longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 1024;
/// EX_USAGE of sysexits.h: the arguments are wrong.
const EX_USAGE: u8 = 64;

const USAGE: &str = "\
Asks the sidecar beside an engine. For an engine container's probe and hooks.

Usage: outrigger-helper live|drain|wait-drained --socket PATH [--max 120s]

  live          Liveness probe: fails (1) only when the sidecar says `restart`; silence, refusal and
                time-out (2 s) are success.
  drain         The sidecar's preStop: it is not ready from now on and takes nothing new in a moment. Fails when it
                doesn't say so within 2 s.
  wait-drained  The engine's preStop: returns when the sidecar's last stream has ended, after --max, or at
                once where there is no sidecar. Never fails.

  --socket PATH  The sidecar's Unix socket.
  --max TIME     The longest that wait-drained waits: a whole number and ms, s, m or h. 120s unless given.
";

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Live,
    Drain,
    WaitDrained,
}

impl Verb {
    const fn line(self) -> &'static str {
        match self {
            Self::Live => "live\n",
            Self::Drain => "drain\n",
            Self::WaitDrained => "wait-drained\n",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    verb: Verb,
    socket: PathBuf,
    max: Duration,
}

/// Runs the program; `args` begin with its own name.
pub fn main_with(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        let _ = io::stdout().write_all(USAGE.as_bytes());
        return ExitCode::SUCCESS;
    }
    match parse(args) {
        Ok(arguments) => run(&arguments),
        Err(mistakes) => {
            for mistake in mistakes {
                say(&mistake);
            }
            let _ = io::stderr().write_all(USAGE.as_bytes());
            ExitCode::from(EX_USAGE)
        }
    }
}

fn run(arguments: &Arguments) -> ExitCode {
    let within = if arguments.verb == Verb::WaitDrained { arguments.max } else { ANSWER_WITHIN };
    let answer = ask(&arguments.socket, arguments.verb, within);
    match (arguments.verb, answer) {
        (Verb::Live, Ok(answer)) if answer.split_ascii_whitespace().next() == Some("restart") => {
            say(&answer);
            ExitCode::FAILURE
        }
        (Verb::Live | Verb::WaitDrained, _) => ExitCode::SUCCESS,
        (Verb::Drain, Ok(answer)) if answer == "ok" => ExitCode::SUCCESS,
        (Verb::Drain, Ok(answer)) => {
            say(&format!("the sidecar answered {answer:?}"));
            ExitCode::FAILURE
        }
        (Verb::Drain, Err(e)) => {
            say(&format!("{}: {e}", arguments.socket.display()));
            ExitCode::FAILURE
        }
    }
}

/// Asks one question. All of it, connecting included, is bounded by `within`: where a listener's backlog is full,
/// connecting to a Unix socket blocks and knows no time-out of its own, so it is left to a thread that ends with
/// the process.
fn ask(socket: &Path, verb: Verb, within: Duration) -> io::Result<String> {
    let (tell, told) = mpsc::sync_channel(1);
    let socket = socket.to_owned();
    std::thread::Builder::new().name("ask".to_owned()).spawn(move || {
        let _ = tell.send(exchange(&socket, verb));
    })?;
    told.recv_timeout(within)
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
}

fn exchange(socket: &Path, verb: Verb) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(verb.line().as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

fn parse(args: Vec<OsString>) -> Result<Arguments, Vec<String>> {
    let mut mistakes = Vec::new();
    let (mut verb, mut socket, mut max) = (None, None, MAX_DRAIN);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(OsString::from(value))),
            _ => (text.clone(), None),
        };
        match name.as_str() {
            "--socket" => match inline.or_else(|| args.next()) {
                Some(path) => socket = Some(PathBuf::from(path)),
                None => mistakes.push("--socket: a path is missing".to_owned()),
            },
            "--max" => match inline.or_else(|| args.next()).and_then(|t| period(&t.to_string_lossy())) {
                Some(period) => max = period,
                None => mistakes.push(
                    "--max: allowed: a whole number and ms, s, m or h, such as 120s, up to 24h".to_owned(),
                ),
            },
            "live" if verb.is_none() => verb = Some(Verb::Live),
            "drain" if verb.is_none() => verb = Some(Verb::Drain),
            "wait-drained" if verb.is_none() => verb = Some(Verb::WaitDrained),
            _ => mistakes.push(format!("{text:?} is not known here")),
        }
    }
    if verb.is_none() {
        mistakes.push("what to ask is missing; allowed: live, drain, wait-drained".to_owned());
    }
    if socket.is_none() {
        mistakes.push("--socket is missing".to_owned());
    }
    match (verb, socket) {
        (Some(verb), Some(socket)) if mistakes.is_empty() => Ok(Arguments { verb, socket, max }),
        _ => Err(mistakes),
    }
}

/// A length of time as the resource writes it.
fn period(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at_checked(split)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let millis = digits.parse::<u64>().ok()?.checked_mul(millis)?;
    (millis <= 24 * 3_600_000).then(|| Duration::from_millis(millis))
}

fn say(message: &str) {
    let _ = writeln!(io::stderr(), "outrigger-helper: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> Result<Arguments, Vec<String>> {
        parse(args.iter().map(OsString::from).collect())
    }

    #[test]
    fn arguments_are_read_in_any_order() {
        let expected =
            Arguments { verb: Verb::WaitDrained, socket: "/s".into(), max: Duration::from_secs(5) };
        assert_eq!(of(&["wait-drained", "--socket", "/s", "--max", "5s"]), Ok(expected));
        let expected = Arguments { verb: Verb::Live, socket: "/s".into(), max: MAX_DRAIN };
        assert_eq!(of(&["--socket=/s", "live"]), Ok(expected));
    }

    #[test]
    fn all_mistakes_are_named_at_once() {
        let mistakes = of(&["alive", "--max", "5d"]).unwrap_err();
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        assert!(of(&["live", "drain", "--socket", "/s"]).is_err());
        assert!(of(&["live", "--socket"]).is_err());
    }

    #[test]
    fn periods_are_bounded() {
        assert_eq!(period("1500ms"), Some(Duration::from_millis(1500)));
        assert_eq!(period("2m"), Some(Duration::from_secs(120)));
        for wrong in ["", "5", "s", "-1s", "25h", "99999999999999999999h", "1 s"] {
            assert_eq!(period(wrong), None, "{wrong}");
        }
    }
}
