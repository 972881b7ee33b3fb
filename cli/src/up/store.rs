//! `--state DIR`: what outlives `up`. The spec, its generation, the status and the revisions, in one file that is
//! replaced as a whole; a lock, so that two `up`s don't share a directory.
//!
//! ```text
//! DIR/state.json   what a rollout resumes from
//! DIR/lock         held while `up` runs
//! DIR/logs/        what the children print, bounded
//! DIR/gateway/     the gateway's last table
//! DIR/replicas/    the sidecars' own, as long as they live
//! ```

use outrigger_crds::{ModelDeploymentSpec, ModelDeploymentStatus};
use outrigger_plan::{Revision, revision};
use outrigger_wire::DeploymentKey;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// The file's format; another one is not read.
const FORMAT: u32 = 1;
/// The largest file that is read, in bytes: eleven revisions of the largest allowed spec and more.
const MOST: u64 = 64 << 20;
/// Revisions that are kept beside those that the plan names: a rollback to one of these needs nobody's Git.
const HISTORY: usize = 10;
/// The longest directory for sockets, in bytes: a socket's path may have 107, its name here has five and a slash.
const LONGEST_SOCKETS: usize = 100;

/// Where everything is.
#[derive(Clone, Debug)]
pub(crate) struct Dirs {
    pub(crate) root: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) gateway: PathBuf,
    pub(crate) replicas: PathBuf,
    pub(crate) sockets: PathBuf,
}

impl Dirs {
    /// Makes them; what former children left behind is removed.
    fn make(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        let dirs = Self {
            logs: root.join("logs"),
            gateway: root.join("gateway"),
            replicas: root.join("replicas"),
            sockets: sockets(&root),
            root,
        };
        for old in [&dirs.replicas, &dirs.sockets] {
            match std::fs::remove_dir_all(old) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        for dir in [&dirs.logs, &dirs.gateway, &dirs.replicas, &dirs.sockets] {
            std::fs::create_dir_all(dir)?;
        }
        // Whoever can open a socket can start a drain.
        let only_me = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&dirs.sockets, only_me)?;
        Ok(dirs)
    }
}

/// Under the state directory, or where its path is too long for a socket, under one of the same user that is named
/// after it.
fn sockets(root: &Path) -> PathBuf {
    let near = root.join("run");
    if near.as_os_str().len() < LONGEST_SOCKETS {
        return near;
    }
    // The digest of a path, as of an engine.
    let name =
        outrigger_crds::Engine { args: vec![root.to_string_lossy().into_owned()], ..Default::default() };
    let user = rustix::process::getuid().as_raw();
    std::env::temp_dir().join(format!("outrigger-{user}-{}", revision::of(&name)))
}

/// What is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Stored {
    format: u32,
    /// Whose state it is.
    pub(crate) deployment: DeploymentKey,
    /// Grows with every change of the spec.
    pub(crate) generation: i64,
    /// What was asked for, last.
    pub(crate) spec: ModelDeploymentSpec,
    /// What the planner decided.
    pub(crate) status: ModelDeploymentStatus,
    /// What can be run again.
    pub(crate) revisions: Vec<Revision>,
}

impl Stored {
    /// A deployment of which nothing is known yet.
    pub(crate) fn new(deployment: DeploymentKey, spec: ModelDeploymentSpec) -> Self {
        let status = ModelDeploymentStatus::default();
        Self { format: FORMAT, deployment, generation: 1, spec, status, revisions: Vec::new() }
    }

    /// The same with another spec, which is another generation when it differs.
    pub(crate) fn declare(mut self, spec: &ModelDeploymentSpec) -> Self {
        if self.spec != *spec {
            self.spec = spec.clone();
            self.generation += 1;
        }
        self
    }

    /// The same with what was planned. Revisions that the plan doesn't name are history, of which the newest stay.
    pub(crate) fn planned(mut self, status: &ModelDeploymentStatus, named: &[Revision]) -> Self {
        self.status = status.clone();
        let mut history: Vec<Revision> =
            self.revisions.into_iter().filter(|old| named.iter().all(|new| new.id != old.id)).collect();
        history.sort_by_key(|revision| std::cmp::Reverse(revision.created));
        history.truncate(HISTORY);
        self.revisions = named.iter().cloned().chain(history).collect();
        self
    }
}

/// Why a state directory can't be used.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Another `up` uses it.
    InUse(PathBuf),
    /// The file can't be understood.
    Unreadable(PathBuf, String),
    /// The file system refuses.
    Io(PathBuf, io::Error),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InUse(dir) => write!(
                f,
                "another `outrigger up` uses the state in {}; end it, or give this one a directory with --state",
                dir.display()
            ),
            Self::Unreadable(file, why) => write!(
                f,
                "{} can't be read: {why}; to start anew without what it knows, move it away",
                file.display()
            ),
            Self::Io(path, why) => write!(f, "{}: {why}", path.display()),
        }
    }
}

impl std::error::Error for Refused {}

/// An opened state directory.
#[derive(Debug)]
pub(crate) struct Store {
    /// Where everything is.
    pub(crate) dirs: Dirs,
    file: PathBuf,
    written: Option<Stored>,
    /// Released by the kernel when `up` ends, however it ends.
    _lock: File,
}

impl Store {
    /// Takes the directory, making it where it isn't there, and reads what is stored.
    ///
    /// # Errors
    /// When another `up` uses it, or it can't be read or written.
    pub(crate) fn open(root: &Path) -> Result<Self, Refused> {
        let refused = |e| Refused::Io(root.to_owned(), e);
        std::fs::create_dir_all(root).map_err(refused)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join("lock"))
            .map_err(|e| Refused::Io(root.join("lock"), e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Refused::InUse(root.to_owned())),
            Err(TryLockError::Error(e)) => return Err(refused(e)),
        }
        let file = root.join("state.json");
        let written = read(&file)?;
        if written.is_none() {
            // A table that outlived its state could only be a higher serial than will come.
            let _ = std::fs::remove_dir_all(root.join("gateway"));
        }
        let dirs = Dirs::make(root).map_err(refused)?;
        Ok(Self { dirs, file, written, _lock: lock })
    }

    /// What is stored, as of the last write.
    pub(crate) fn stored(&self) -> Option<&Stored> {
        self.written.as_ref()
    }

    /// Removes what only living children need.
    pub(crate) fn sweep(&self) {
        let _ = std::fs::remove_dir_all(&self.dirs.replicas);
        let _ = std::fs::remove_dir_all(&self.dirs.sockets);
    }

    /// Stores it, durably, or leaves what is stored as it is. Nothing is written when nothing differs.
    ///
    /// # Errors
    /// When it can't be written; what was stored before is still there.
    pub(crate) fn write(&mut self, next: Stored) -> io::Result<()> {
        if self.written.as_ref() == Some(&next) {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&next)?;
        replace(&self.file, &text)?;
        self.written = Some(next);
        Ok(())
    }
}

/// A file is replaced as a whole: who reads it, and who reads it after a crash, finds the old one or the new one.
fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let new = file.with_extension("json.new");
    let mut handle = File::create(&new)?;
    handle.write_all(content)?;
    handle.sync_all()?;
    std::fs::rename(&new, file)?;
    // The name is durable only with its directory.
    match file.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

fn read(file: &Path) -> Result<Option<Stored>, Refused> {
    let mut text = Vec::new();
    match File::open(file).and_then(|f| f.take(MOST).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Refused::Io(file.to_owned(), e)),
    }
    let unreadable = |why: String| Refused::Unreadable(file.to_owned(), why);
    let stored: Stored = serde_json::from_slice(&text).map_err(|e| unreadable(e.to_string()))?;
    if stored.format != FORMAT {
        return Err(unreadable(format!("its format is {}; this program knows {FORMAT}", stored.format)));
    }
    Ok(Some(stored))
}

/// Where the state of a file's deployment is kept unless `--state` says otherwise: `.outrigger/NAME` in the present
/// directory, which no version control is to see.
///
/// # Errors
/// When it can't be made.
pub(crate) fn default_dir(deployment: &DeploymentKey) -> Result<PathBuf, Refused> {
    let all = PathBuf::from(".outrigger");
    let name = deployment.as_str().trim_start_matches("default/").replace('/', ".");
    let ignore = all.join(".gitignore");
    let made = std::fs::create_dir_all(&all).and_then(|()| match ignore.exists() {
        true => Ok(()),
        false => std::fs::write(&ignore, "*\n"),
    });
    made.map_err(|e| Refused::Io(all.clone(), e))?;
    Ok(all.join(name))
}
