//! Configuration: flags, environment, a file; every mistake at once.

use outrigger_wire::{Mistake, document};
use serde::de::DeserializeOwned;
use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

/// The exit status of a program whose configuration is wrong: EX_USAGE of sysexits.h.
pub const EX_USAGE: u8 = 64;

/// The prefix of every environment variable that a program reads.
pub const PREFIX: &str = "OUTRIGGER_";

/// Variables that every program knows.
const EVERYWHERE: [&str; 1] = ["OUTRIGGER_LOG"];

/// Mistakes, collected so that all are shown at once.
#[derive(Debug, Default)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Takes one.
    pub fn push(&mut self, mistake: Mistake) {
        self.0.push(mistake);
    }

    /// Takes several.
    pub fn extend(&mut self, mistakes: impl IntoIterator<Item = Mistake>) {
        self.0.extend(mistakes);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn all(&self) -> &[Mistake] {
        &self.0
    }

    /// Reads a value of the field `path` (`--listen`): what can't be parsed is a mistake that says what is
    /// `allowed`.
    pub fn parse<T: std::str::FromStr>(&mut self, path: &str, raw: Option<&str>, allowed: &str) -> Option<T> {
        let raw = raw?;
        match raw.trim().parse() {
            Ok(value) => Some(value),
            Err(_) => {
                self.push(Mistake::new(path, format!("{raw:?} can't be read; allowed: {allowed}")));
                None
            }
        }
    }

    /// Every variable in `environment` that begins with `OUTRIGGER_` and is not in `known` is a mistake.
    pub fn unknown_environment(&mut self, environment: impl IntoIterator<Item = String>, known: &[&str]) {
        let mut names: Vec<String> = environment
            .into_iter()
            .filter(|name| name.starts_with(PREFIX))
            .filter(|name| !known.contains(&name.as_str()) && !EVERYWHERE.contains(&name.as_str()))
            .filter(|name| !of_a_service(name))
            .collect();
        names.sort();
        for name in names {
            let allowed = known.iter().chain(&EVERYWHERE).copied().collect::<Vec<_>>().join(", ");
            self.push(Mistake::new(name, format!("there is no such variable; allowed: {allowed}")));
        }
    }

    /// Reads a YAML file; what is wrong with it is a mistake each, with path and line.
    pub fn file<T: DeserializeOwned>(&mut self, path: &Path) -> Option<document::Document<T>> {
        // One byte beyond what a document may have, so that it says what is wrong.
        let bound = document::MAX_BYTES as u64 + 1;
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(bound).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(e) => {
                self.push(Mistake::new(path.display().to_string(), format!("can't be read: {e}")));
                return None;
            }
        };
        match document::read_bytes(&bytes) {
            Ok(document) => Some(document),
            Err(mistakes) => {
                self.extend(mistakes);
                None
            }
        }
    }

    /// Prints all of them to standard error and gives the exit status; `Ok` when there are none.
    ///
    /// # Errors
    ///
    /// The status [`EX_USAGE`] when there is at least one.
    pub fn finish(self, program: &str) -> Result<(), ExitCode> {
        if self.0.is_empty() {
            return Ok(());
        }
        for mistake in &self.0 {
            let _ = writeln!(std::io::stderr(), "{program}: {mistake}");
        }
        Err(ExitCode::from(EX_USAGE))
    }
}

/// Whether Kubernetes made this variable for a Service whose name begins like ours: it gives every pod those of all
/// Services of its namespace, `OUTRIGGER_GATEWAY_SERVICE_HOST` and `OUTRIGGER_GATEWAY_PORT_80_TCP` among them.
fn of_a_service(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.contains("_PORT_")
}

#[cfg(test)]
mod tests;
