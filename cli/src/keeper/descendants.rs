//! Everything that descends from a process, whatever group or session it moved to, from `/proc`.

use rustix::process::{Pid, PidfdFlags, Signal};
use std::collections::BTreeMap;

/// A process at one moment: its id alone may belong to another one a moment later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) pid: Pid,
    pub(crate) parent: i32,
    /// In clock ticks since the machine started: tells two processes of one id apart.
    started: u64,
}

/// Every descendant of `root`, children first. Those that are made meanwhile are found the next time.
pub(crate) fn of(root: Pid) -> Vec<Seen> {
    descend(&all(), root.as_raw_nonzero().get())
}

/// The children of `root` alone.
pub(crate) fn children(root: Pid) -> Vec<Seen> {
    all().into_iter().filter(|seen| seen.parent == root.as_raw_nonzero().get()).collect()
}

/// Kills them, those that still are who they were.
pub(crate) fn kill(seen: impl IntoIterator<Item = Seen>) {
    for process in seen {
        // A descriptor first, then the check: what the descriptor names can't become another process.
        match rustix::process::pidfd_open(process.pid, PidfdFlags::empty()) {
            Ok(descriptor)
                if look(process.pid.as_raw_nonzero().get())
                    .is_some_and(|now| now.started == process.started) =>
            {
                let _ = rustix::process::pidfd_send_signal(descriptor, Signal::KILL);
            }
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                let _ = rustix::process::kill_process(process.pid, Signal::KILL);
            }
            // It is gone.
            Ok(_) | Err(_) => {}
        }
    }
}

fn all() -> Vec<Seen> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| look(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn look(pid: i32) -> Option<Seen> {
    // A process that ends while it is looked at is no longer of interest.
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse(&String::from_utf8_lossy(&stat))
}

/// `PID (NAME) STATE PARENT … STARTED …`, where NAME may hold anything, parentheses included.
fn parse(stat: &str) -> Option<Seen> {
    let (pid, _) = stat.split_once(' ')?;
    let (_, rest) = stat.rsplit_once(')')?;
    // The fields after the name, counted from the third of proc_pid_stat(5): the parent is its 4th, the start its 22nd.
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Seen { pid: Pid::from_raw(pid.parse().ok()?)?, parent, started })
}

fn descend(all: &[Seen], root: i32) -> Vec<Seen> {
    let mut by_parent: BTreeMap<i32, Vec<Seen>> = BTreeMap::new();
    for seen in all {
        by_parent.entry(seen.parent).or_default().push(*seen);
    }
    let mut found: Vec<Seen> = by_parent.remove(&root).unwrap_or_default();
    let mut next = 0;
    while let Some(seen) = found.get(next) {
        // Removed, so that a table that was read while it changed can't make a circle.
        let under = by_parent.remove(&seen.pid.as_raw_nonzero().get()).unwrap_or_default();
        found.extend(under);
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pid: i32, parent: i32) -> Seen {
        Seen { pid: Pid::from_raw(pid).unwrap(), parent, started: 0 }
    }

    #[test]
    fn a_name_can_hold_anything() {
        let stat =
            "42 (a) b) R 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 9001 4096 1 18446744073709551615";
        let found = parse(stat).unwrap();
        assert_eq!((found.pid.as_raw_nonzero().get(), found.parent, found.started), (42, 7, 9001));
        assert!(parse("42 (truncated").is_none());
        assert!(parse("").is_none());
    }

    #[test]
    fn finds_all_that_descend_and_nobody_else() {
        let all = [seen(2, 1), seen(3, 2), seen(4, 3), seen(5, 1), seen(6, 5), seen(7, 7)];
        let found: Vec<i32> = descend(&all, 2).iter().map(|s| s.pid.as_raw_nonzero().get()).collect();
        assert_eq!(found, [3, 4]);
        assert_eq!(descend(&all, 7), [seen(7, 7)], "a circle ends");
        assert!(descend(&all, 99).is_empty());
    }

    #[test]
    fn sees_its_own_children() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let own = rustix::process::getpid();
        let found: Vec<_> = of(own).into_iter().filter(|s| s.pid == Pid::from_child(&child)).collect();
        assert_eq!(found.len(), 1);
        kill(found);
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn spares_who_has_taken_over_the_id() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let mut found = look(pid.as_raw_nonzero().get()).unwrap();
        found.started += 1;
        kill([found]);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
