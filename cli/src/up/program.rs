//! What is started and how: programs found, `{httpPort}` put in.

use crate::keeper::own_file;
use outrigger_crds::Engine;
use outrigger_plan::Trouble;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Becomes the port that the engine is to listen on, in arguments and environment.
const HTTP_PORT: &str = "{httpPort}";
/// Programs that this very executable is under another name, so that `up` needs nothing installed.
const OWN: [&str; 4] = ["outrigger-engine-sim", "outrigger-gateway", "outrigger-helper", "outrigger-sidecar"];

/// What to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    /// The file to run.
    pub(crate) program: PathBuf,
    /// What it is called.
    pub(crate) arg0: OsString,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// Added to the environment of `up`, of which nothing that begins with `OUTRIGGER_` is passed on.
    pub(crate) env: Vec<(String, String)>,
}

/// One of our own programs, `outrigger-sidecar`.
pub(crate) fn own(name: &str, args: &[&str], env: Vec<(String, String)>) -> Launch {
    Launch { program: own_file(), arg0: name.into(), args: args.iter().map(Into::into).collect(), env }
}

/// The engine of a replica, which is to listen on `port`.
///
/// # Errors
/// When there is no such program, which blocks the replica.
pub(crate) fn engine(engine: &Engine, port: u16) -> Result<Launch, Trouble> {
    let Some(process) = &engine.process else {
        return Err(not_found("this revision has an image and no process: it can't run on this machine"));
    };
    let text = port.to_string();
    let put = |value: &String| value.replace(HTTP_PORT, &text);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = match OWN.contains(&process.command.as_str()) {
        true => own_file(),
        false => find(&process.command, &path).map_err(|why| not_found(&why))?,
    };
    Ok(Launch {
        program,
        arg0: OsString::from(&process.command),
        args: process.args.iter().chain(&engine.args).map(|arg| put(arg).into()).collect(),
        env: process.env.iter().map(|(name, value)| (name.clone(), put(value))).collect(),
    })
}

/// As a shell looks: a name with a slash is a path, any other is looked up.
fn find(command: &str, path: &std::ffi::OsStr) -> Result<PathBuf, String> {
    if command.contains('/') {
        return match check(Path::new(command)) {
            Ok(()) => Ok(PathBuf::from(command)),
            Err(why) => Err(format!("{command}: {why}")),
        };
    }
    let found = std::env::split_paths(path).map(|dir| dir.join(command)).find(|file| check(file).is_ok());
    found.ok_or_else(|| format!("there is no program `{command}` in PATH"))
}

fn check(file: &Path) -> Result<(), &'static str> {
    match std::fs::metadata(file) {
        Ok(metadata) if !metadata.is_file() => Err("this is no program but a directory or device"),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
            Err("this file may not be executed (chmod +x)")
        }
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err("there is no such file"),
        Err(_) => Err("this file can't be read"),
    }
}

fn not_found(message: &str) -> Trouble {
    Trouble { reason: "ProgramNotFound".to_owned(), message: message.to_owned(), blocks: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_crds::Process;

    fn with(command: &str, args: &[&str]) -> Engine {
        let process = Process {
            command: command.to_owned(),
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            env: [("PORT".to_owned(), "p{httpPort}".to_owned())].into(),
        };
        Engine {
            process: Some(process),
            args: vec!["--also={httpPort}{httpPort}".to_owned()],
            ..Engine::default()
        }
    }

    #[test]
    fn puts_the_port_in_everywhere() {
        let launch = engine(&with("sh", &["-c", "serve {httpPort}", "{other}"]), 4711).unwrap();
        assert_eq!(launch.args, ["-c", "serve 4711", "{other}", "--also=47114711"]);
        assert_eq!(launch.env, [("PORT".to_owned(), "p4711".to_owned())]);
        assert_eq!(launch.arg0, "sh");
        assert!(launch.program.is_absolute());
    }

    #[test]
    fn own_programs_need_nothing_installed() {
        let launch = engine(&with("outrigger-engine-sim", &[]), 1).unwrap();
        assert_eq!(launch.program, std::env::current_exe().unwrap());
        assert_eq!(launch.arg0, "outrigger-engine-sim");
    }

    #[test]
    fn what_cannot_be_found_blocks_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        for (command, words) in [
            ("no-such-engine", "there is no program `no-such-engine` in PATH"),
            ("/no/such/engine", "/no/such/engine: there is no such file"),
            (plain.to_str().unwrap(), "may not be executed"),
            ("/tmp", "no program but a directory"),
        ] {
            let trouble = engine(&with(command, &[]), 1).unwrap_err();
            assert!(trouble.blocks && trouble.reason == "ProgramNotFound", "{trouble:?}");
            assert!(trouble.message.contains(words), "{trouble:?}");
        }
        assert!(engine(&Engine::default(), 1).unwrap_err().blocks);
    }
}
