//! Data threads: each a current-thread runtime with its own listener on the one port.

use crate::serve::{ServeOptions, Service};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

/// A port that is ours: bound and listening, so that a second instance has failed or will fail, while clients
/// wait in the backlog until threads are started.
#[derive(Debug)]
pub struct Bound {
    listener: std::net::TcpListener,
    address: SocketAddr,
}

/// Which data thread something runs on.
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub of: usize,
}

/// The running data threads. Dropping this aborts them.
#[derive(Debug)]
pub struct DataThreads {
    address: SocketAddr,
}

impl Bound {
    /// Binds and listens; port 0 asks for a free one.
    ///
    /// # Errors
    ///
    /// `AddrInUse` when anything, another instance included, has the port.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens, the port filled in.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl DataThreads {
    /// Starts `threads` threads. `make` runs once on each of them, within its runtime (so it may
    /// `tokio::task::spawn_local`), and gives the service that answers there.
    ///
    /// # Errors
    ///
    /// When a listener, a runtime or a thread can't be made.
    pub fn start<S: Service>(
        bound: Bound,
        _threads: usize,
        _options: ServeOptions,
        _make: impl Fn(Thread) -> Rc<S> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        drop(bound.listener);
        Ok(Self { address: bound.address })
    }

    /// Where they listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new connection, tells clients to leave (HTTP/1.1 `connection: close`, HTTP/2 GOAWAY) and finishes
    /// what is in flight.
    pub fn drain(&self) {}

    /// Drops whatever is in flight.
    pub fn abort(&self) {}

    /// Open connections over all threads.
    pub fn connections(&self) -> usize {
        0
    }

    /// Waits until every thread has ended: after [`Self::drain`] or [`Self::abort`].
    pub async fn ended(&self) {}
}
