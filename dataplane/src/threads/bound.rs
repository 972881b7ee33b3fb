//! One port, exclusively, and then shared between our own threads.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Connections that wait to be accepted, at most, per thread; the kernel may allow fewer.
const BACKLOG: i32 = 1024;

/// A port that is ours: bound and listening, so that a second instance has failed or will fail, while clients
/// wait in the backlog until threads are started.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    address: SocketAddr,
}

impl Bound {
    /// Binds and listens; port 0 asks for a free one.
    ///
    /// The socket is bound, and listens, *without* `SO_REUSEPORT`: the kernel then refuses it whenever anything
    /// has the port, and while it listens refuses everybody else. Only afterwards the option is set on it, which
    /// lets the other threads' sockets join. The port is never let go of in between, so there is no race: of two
    /// instances that start together, the kernel lets one listen.
    ///
    /// # Errors
    ///
    /// `AddrInUse` when anything, another instance included, has the port.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Self::socket(address)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { socket, address })
    }

    /// Where it listens, the port filled in.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// One listener for each of `count` threads.
    pub(super) fn share(self, count: usize) -> io::Result<Vec<TcpListener>> {
        let Self { socket, address } = self;
        if count > 1 {
            socket.set_reuse_port(true)?;
        }
        let mut listeners = vec![socket.into()];
        for _ in 1..count {
            let socket = Self::socket(address)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            listeners.push(socket.into());
        }
        Ok(listeners)
    }

    fn socket(address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of an instance before that are still being closed don't hold the port.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}
