//! Restarts that were ordered, kept over the sidecar's own restarts: one that is replaced, or killed again and again,
//! must not have a prepaid restart each time.

use outrigger_decide::health::Order;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The file's name in the state directory.
const NAME: &str = "restarts.json";
/// A longer file is not ours.
const MOST: u64 = 64 << 10;

/// One order as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    number: u64,
    /// Milliseconds since 1970.
    at: u64,
}

/// Where orders are kept; nowhere without a state directory.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: Option<PathBuf>,
}

impl Ledger {
    /// In this directory.
    pub(crate) fn new(state_dir: Option<&Path>) -> Self {
        Self { path: state_dir.map(|folder| folder.join(NAME)) }
    }

    /// What a predecessor ordered, the newest last. What can't be read is as nothing, and is told.
    pub(crate) fn read(&self) -> Vec<Order> {
        let Some(path) = &self.path else { return Vec::new() };
        match read(path) {
            Ok(entries) => entries.into_iter().filter_map(order).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "earlier restarts are not known");
                Vec::new()
            }
        }
    }

    /// Keeps these.
    pub(crate) fn write(&self, orders: &[Order]) {
        let Some(path) = &self.path else { return };
        let entries: Vec<Entry> = orders.iter().map(entry).collect();
        let beside = path.with_extension("new");
        let written = serde_json::to_vec(&entries)
            .map_err(io::Error::from)
            .and_then(|text| std::fs::write(&beside, text))
            .and_then(|()| std::fs::rename(&beside, path));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "the ordered restart can't be kept");
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<Entry>> {
    if std::fs::metadata(path)?.len() > MOST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

fn entry(order: &Order) -> Entry {
    let at = SystemTime::now().checked_sub(order.at.elapsed()).unwrap_or(UNIX_EPOCH);
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Entry { number: order.number, at: at.as_millis() as u64 }
}

/// One that lies in the future, because a clock was set back, counts as made now. One from before this machine
/// started was of another run of the pod's.
fn order(entry: Entry) -> Option<Order> {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(entry.at))?;
    let age = SystemTime::now().duration_since(at).unwrap_or_default();
    Some(Order { number: entry.number, at: Instant::now().checked_sub(age)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_outlive_the_program_and_nonsense_is_as_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(Some(folder.path()));
        assert_eq!(ledger.read(), []);
        let ago = |seconds| Instant::now() - Duration::from_secs(seconds);
        ledger.write(&[Order { number: 5, at: ago(3) }, Order { number: 9, at: ago(1) }]);
        let found = Ledger::new(Some(folder.path())).read();
        assert_eq!(found.iter().map(|order| order.number).collect::<Vec<_>>(), [5, 9]);
        let age = found[0].at.elapsed().as_secs_f64();
        assert!((2.9..20.0).contains(&age), "{age}");
        std::fs::write(folder.path().join(NAME), "[{").unwrap();
        assert_eq!(ledger.read(), []);
        let later = Entry { number: 1, at: u64::MAX / 2 };
        assert!(order(later).is_none_or(|order| order.at.elapsed().as_secs() < 5));
        assert_eq!(Ledger::new(None).read(), []);
    }
}
