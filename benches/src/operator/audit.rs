//! What the API server's audit log says of one user in one namespace: what was written, when, and how long it took.
//!
//! Looking there disturbs nobody: a list of a thousand objects each second would.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

/// Reads the log as it grows.
#[derive(Debug)]
pub(crate) struct Audit {
    file: File,
    /// The begin of a line whose end was not written yet.
    rest: Vec<u8>,
    user: String,
    namespace: String,
    /// What was seen so far.
    pub(crate) seen: Seen,
}

/// Requests that were seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Writes that succeeded, by what was done to what (`patch services`). Events are not among them: they are told
    /// to people, at a pace of their own, and bring nothing about.
    pub(crate) writes: BTreeMap<String, Kind>,
    /// Everything else: events, reads, watches, and writes that were refused, with the answer's code.
    pub(crate) others: BTreeMap<String, Kind>,
    /// When the first write came in.
    pub(crate) first: Option<Timestamp>,
    /// When the last write was answered.
    pub(crate) last: Option<Timestamp>,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kind {
    /// How many.
    pub(crate) count: usize,
    /// How long the API server worked on all of them, in seconds.
    pub(crate) worked: f64,
}

impl Seen {
    /// How many writes.
    pub(crate) fn count(&self) -> usize {
        self.writes.values().map(|kind| kind.count).sum()
    }

    /// From the first write to the last.
    pub(crate) fn took(&self) -> Duration {
        let between = self.first.zip(self.last).map(|(first, last)| last.duration_since(first));
        between.and_then(|between| Duration::try_from(between).ok()).unwrap_or_default()
    }

    /// How many of its writes the API server worked on at once, in the mean.
    pub(crate) fn at_once(&self) -> f64 {
        self.writes.values().map(|kind| kind.worked).sum::<f64>() / self.took().as_secs_f64()
    }

    fn take(&mut self, event: &Value) {
        let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let time = |path: &str| text(path).parse::<Timestamp>().ok();
        let (Some(began), Some(ended)) = (time("/requestReceivedTimestamp"), time("/stageTimestamp")) else {
            return;
        };
        let subresource = text("/objectRef/subresource");
        let slash = if subresource.is_empty() { "" } else { "/" };
        let name = format!("{} {}{slash}{subresource}", text("/verb"), text("/objectRef/resource"));
        let code = event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default();
        let verbs = ["create", "update", "patch", "delete", "deletecollection"];
        let writes = verbs.contains(&text("/verb")) && text("/objectRef/resource") != "events";
        let kind = match writes && code < 300 {
            true => {
                self.first = Some(self.first.map_or(began, |first| first.min(began)));
                self.last = Some(self.last.map_or(ended, |last| last.max(ended)));
                self.writes.entry(name).or_default()
            }
            false => self.others.entry(format!("{name} {code}")).or_default(),
        };
        kind.count += 1;
        kind.worked += ended.duration_since(began).as_secs_f64();
    }
}

impl Audit {
    /// From the log's present end on.
    pub(crate) fn follow(log: &Path, user: &str, namespace: &str) -> Result<Self> {
        let mut file = File::open(log).context("opening the audit log")?;
        file.seek(SeekFrom::End(0))?;
        let (user, namespace) = (user.to_owned(), namespace.to_owned());
        Ok(Self { file, rest: Vec::new(), user, namespace, seen: Seen::default() })
    }

    /// Takes in what was written since; whether there was a write among it.
    pub(crate) fn look(&mut self) -> Result<bool> {
        let before = self.seen.count();
        self.file.read_to_end(&mut self.rest)?;
        let end = memchr::memrchr(b'\n', &self.rest).map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..end).collect();
        let user = memchr::memmem::Finder::new(self.user.as_bytes());
        for line in lines.split(|byte| *byte == b'\n').filter(|line| user.find(line).is_some()) {
            let event: Value = serde_json::from_slice(line)?;
            let is = |path: &str, value: &str| event.pointer(path).and_then(Value::as_str) == Some(value);
            if is("/user/username", &self.user) && is("/objectRef/namespace", &self.namespace) {
                self.seen.take(&event);
            }
        }
        Ok(self.seen.count() > before)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::io::Write as _;

    fn line(user: &str, verb: &str, code: u16, second: u32) -> String {
        serde_json::json!({
            "stage": "ResponseComplete", "verb": verb, "user": {"username": user},
            "objectRef": {"resource": "services", "namespace": "here"}, "responseStatus": {"code": code},
            "requestReceivedTimestamp": format!("2026-01-01T00:00:{second:02}.000000Z"),
            "stageTimestamp": format!("2026-01-01T00:00:{second:02}.500000Z"),
        })
        .to_string()
    }

    #[test]
    fn whole_lines_of_one_user_count_once_each() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "{}", line("we", "patch", 200, 0)).unwrap();
        let mut audit = Audit::follow(file.path(), "we", "here").unwrap();
        let text = [line("we", "patch", 201, 1), line("they", "patch", 200, 2), line("we", "patch", 409, 3)];
        let last = line("we", "patch", 200, 5);
        let (begin, end) = last.split_at(40);
        write!(file, "{}\n{begin}", text.join("\n")).unwrap();
        assert!(audit.look().unwrap());
        assert!(!audit.look().unwrap(), "a line that has no end yet");
        writeln!(file, "{end}").unwrap();
        assert!(audit.look().unwrap());
        assert_eq!((audit.seen.count(), audit.seen.others["patch services 409"].count), (2, 1));
        assert_eq!(audit.seen.took(), Duration::from_millis(4_500));
    }
}
