//! What a child prints: into a file that can't grow for ever, its last lines at hand for when it crashes.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A log of this many bytes becomes `NAME.log.1` and a new one begins: enough for an engine's start-up, its
/// traceback and the hour before.
const MOST_BYTES: u64 = 1 << 20;
/// Logs, counted without their `.1`, beyond which the oldest are removed: replicas have new names every time.
const MOST_FILES: usize = 64;
/// How many of the last lines are kept at hand.
const TAIL_LINES: usize = 12;
/// A longer line is cut there, in bytes.
const TAIL_WIDTH: usize = 400;

/// One child's log.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: Option<File>,
    written: u64,
    tail: VecDeque<String>,
    line: Vec<u8>,
}

impl Log {
    /// Opens `NAME.log` in this directory, to be continued.
    ///
    /// # Errors
    /// When it can't be opened.
    pub(crate) fn open(dir: &Path, name: &str) -> io::Result<Self> {
        let path = dir.join(format!("{name}.log"));
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { path, file: Some(file), written, tail: VecDeque::new(), line: Vec::new() })
    }

    /// Takes in what the child printed. A full disk doesn't stop the child: what can't be written is lost.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if self.written.saturating_add(bytes.len() as u64) > MOST_BYTES {
            self.rotate();
        }
        if let Some(file) = &mut self.file
            && file.write_all(bytes).is_ok()
        {
            self.written += bytes.len() as u64;
        }
        for &byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                _ if self.line.len() < TAIL_WIDTH => self.line.push(byte),
                _ => {}
            }
        }
    }

    /// The last lines, oldest first, without control characters.
    pub(crate) fn tail(&self) -> Vec<String> {
        let unfinished = (!self.line.is_empty()).then(|| readable(&self.line));
        self.tail.iter().cloned().chain(unfinished).collect()
    }

    fn end_line(&mut self) {
        let line = readable(&std::mem::take(&mut self.line));
        if !line.is_empty() {
            self.tail.push_back(line);
        }
        if self.tail.len() > TAIL_LINES {
            self.tail.pop_front();
        }
    }

    fn rotate(&mut self) {
        let old = PathBuf::from(format!("{}.1", self.path.display()));
        // Without the old one's name free, or a new one, the present file goes on from its beginning.
        let _ = std::fs::rename(&self.path, old);
        self.file = OpenOptions::new().create(true).append(true).open(&self.path).ok();
        self.written = 0;
    }
}

fn readable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.chars().filter(|c| !c.is_control()).collect::<String>().trim_end().to_owned()
}

/// Removes the oldest logs of this directory beyond [`MOST_FILES`].
pub(crate) fn prune(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let mut logs: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "log"))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    logs.sort();
    let excess = logs.len().saturating_sub(MOST_FILES);
    for (_, path) in logs.iter().take(excess) {
        let _ = std::fs::remove_file(path);
        let _ = std::fs::remove_file(format!("{}.1", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines_readable() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), "engine").unwrap();
        for i in 0..100 {
            log.write(format!("line {i}\r\n").as_bytes());
        }
        log.write(b"\x1b[31mhalf");
        log.write(b" a line \xff");
        let tail = log.tail();
        assert_eq!(tail.len(), TAIL_LINES + 1);
        assert_eq!(tail[0], "line 88");
        assert_eq!(tail[TAIL_LINES], "[31mhalf a line \u{fffd}");
        log.write(&[b'x'; 100_000]);
        assert!(log.tail().iter().all(|line| line.len() <= TAIL_WIDTH + 3));
    }

    #[test]
    fn never_grows_beyond_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), "engine").unwrap();
        for _ in 0..50 {
            log.write(&[b'a'; 100_000]);
        }
        let sizes: u64 =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(sizes <= 2 * MOST_BYTES, "{sizes}");
    }

    #[test]
    fn old_logs_go() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..MOST_FILES + 9 {
            std::fs::write(dir.path().join(format!("{i}.log")), "").unwrap();
        }
        std::fs::write(dir.path().join("state.json"), "").unwrap();
        prune(dir.path());
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, MOST_FILES + 1);
    }
}
