//! Signals: the first drains, the second aborts.

use crate::threads::DataThreads;
use std::io;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Everything in flight was finished.
    Finished,
    /// Something was cut: the bound passed.
    TimedOut,
    /// Something was cut: a second signal came.
    Aborted,
}

impl Signals {
    /// Listens from now on; within a runtime.
    ///
    /// # Errors
    ///
    /// When the handlers can't be installed.
    pub fn new() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one and gives its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }

    /// Drains the threads: waits until nothing is in flight, `bound` has passed or a signal comes, then aborts
    /// what is left.
    pub async fn drain(&mut self, threads: &DataThreads, bound: Duration) -> Drained {
        threads.drain();
        let how = tokio::select! {
            () = threads.ended() => return Drained::Finished,
            () = tokio::time::sleep(bound) => Drained::TimedOut,
            _ = self.next() => Drained::Aborted,
        };
        threads.abort();
        threads.ended().await;
        how
    }
}
