//! The file that says what is wanted: read, checked, watched.

use outrigger_plan::{Declaration, check_local, document};
use outrigger_wire::Mistake;
use outrigger_wire::document::MAX_BYTES;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[cfg(test)]
mod tests;

/// What became of the file since the last look.
#[derive(Debug)]
pub(crate) enum Change {
    /// Nothing, or it is still being written.
    Nothing,
    /// It says something else, and it is in order.
    Declared(Box<Declaration>),
    /// It says something that can't be.
    Broken(Vec<Mistake>),
    /// It can't be read any more.
    Gone(io::Error),
}

/// Tells one state of a file from another without reading it: an editor may write in place, or rename a new file
/// over the old one.
#[derive(Clone, Debug, PartialEq)]
struct Print {
    modified: SystemTime,
    length: u64,
    inode: u64,
}

/// A watched file. Looked at a few times a second: what a file system tells of itself differs between them, and a
/// look costs nothing.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    seen: Option<Print>,
    /// It changed at the last look: it is read when it has stood still for one, for half a file may be in order too.
    moving: bool,
    taken: Vec<u8>,
}

impl Watched {
    /// Reads the file.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub(crate) fn open(path: &Path) -> Result<(Self, Declaration), Vec<Mistake>> {
        let cannot = |e: io::Error| vec![Mistake::new("", e.to_string())];
        let seen = print(path).map_err(cannot)?;
        let taken = bytes(path).map_err(cannot)?;
        let declaration = check(&taken)?;
        Ok((Self { path: path.to_owned(), seen: Some(seen), moving: false, taken }, declaration))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at it.
    pub(crate) fn look(&mut self) -> Change {
        let now = match print(&self.path) {
            Ok(now) => now,
            // Told once; between an editor's removal and its new file is a moment.
            Err(e) => return if self.seen.take().is_some() { Change::Gone(e) } else { Change::Nothing },
        };
        let stands = self.seen.as_ref() == Some(&now);
        self.seen = Some(now);
        if !stands {
            self.moving = true;
            return Change::Nothing;
        }
        if !std::mem::take(&mut self.moving) {
            return Change::Nothing;
        }
        match bytes(&self.path) {
            Ok(content) if content == self.taken => Change::Nothing,
            Ok(content) => {
                self.taken = content;
                match check(&self.taken) {
                    Ok(declaration) => Change::Declared(Box::new(declaration)),
                    Err(mistakes) => Change::Broken(mistakes),
                }
            }
            Err(e) => {
                self.seen = None;
                Change::Gone(e)
            }
        }
    }
}

/// Reads a declaration that is to run on this machine.
///
/// # Errors
/// Everything that is wrong with it, at once, each with path and line.
pub(crate) fn check(content: &[u8]) -> Result<Declaration, Vec<Mistake>> {
    let declaration = document::read(content)?;
    let mistakes = check_local(&declaration.spec);
    if mistakes.is_empty() { Ok(declaration) } else { Err(declaration.locate(mistakes)) }
}

fn print(path: &Path) -> io::Result<Print> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("this is no file"));
    }
    Ok(Print { modified: metadata.modified()?, length: metadata.len(), inode: metadata.ino() })
}

fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    // One more than allowed, so that the reader refuses what is too long.
    File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}
