//! Free ports. Taken from below the range from which the kernel gives ports to outgoing connections: a port from that
//! range may be some connection's own just when its replica's engine is started again.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// The lowest port that is given: below are the ports that servers have by custom.
const LOWEST: u16 = 15_000;
/// Where outgoing connections begin when the kernel doesn't say: its own default.
const OUTGOING: u16 = 32_768;
/// How many ports are tried at random before the kernel is asked for any.
const TRIES: u32 = 200;

/// The ports that were given and not returned.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    given: BTreeSet<u16>,
}

impl Ports {
    /// A port on which nothing listens, on any address of this machine. It is not kept busy: whoever it is given to
    /// finds out when it is to listen there, and asks for another.
    ///
    /// # Errors
    /// When the machine has none.
    pub(crate) fn take(&mut self) -> io::Result<u16> {
        let end = outgoing_begin().clamp(LOWEST + 1, OUTGOING);
        for _ in 0..TRIES {
            let port = fastrand::u16(LOWEST..end);
            if !self.given.contains(&port) && is_free(port) {
                self.given.insert(port);
                return Ok(port);
            }
        }
        let port = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port();
        self.given.insert(port);
        Ok(port)
    }

    /// The port may be given again.
    pub(crate) fn give_back(&mut self, port: u16) {
        self.given.remove(&port);
    }
}

/// Whether one could listen on this port on every address.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

/// Whether one could listen at this address; the error says why not.
pub(crate) fn can_listen(address: SocketAddr) -> io::Result<()> {
    TcpListener::bind(address).map(drop)
}

fn outgoing_begin() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_ascii_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(OUTGOING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_each_port_once_and_outside_outgoing_ones() {
        let mut ports = Ports::default();
        let given: BTreeSet<u16> = (0..100).map(|_| ports.take().unwrap()).collect();
        assert_eq!(given.len(), 100);
        assert!(given.iter().all(|port| (LOWEST..outgoing_begin()).contains(port)), "{given:?}");
    }

    #[test]
    fn sees_what_is_taken() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = taken.local_addr().unwrap();
        assert!(!is_free(address.port()));
        assert!(can_listen(address).is_err());
        drop(taken);
        assert!(can_listen(address).is_ok());
    }
}
