//! One connection to upstream: the socket, what was read ahead, and its timer.

use super::error::{Cause, Error, NeverSent};
use crate::timer::Timer;
use bytes::{Bytes, BytesMut};
use rustix::net::RecvFlags;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Read at once, at most. Head and body of a small answer fit many times; large bodies come in pieces of this.
const READ_SIZE: usize = 16 * 1024;
/// Read at once where answers are large: fewer calls.
const READ_SIZE_LARGE: usize = 64 * 1024;

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    stream: TcpStream,
    /// Read and not yet consumed.
    pub(super) buffer: BytesMut,
    /// Head and framing on their way out.
    pub(super) out: Vec<u8>,
    /// How much of `out` was written.
    out_at: usize,
    /// Data behind `out`.
    pub(super) data: Bytes,
    pub(super) timer: Timer,
    pub(super) idle_since: Instant,
    read_size: usize,
}

impl Conn {
    /// Connects by `deadline`.
    pub(super) async fn connect(address: &str, deadline: Instant) -> Result<Box<Self>, Error> {
        let never = |why, source| Error::new(Cause::NeverSent(why), source);
        // An address in figures needs no resolver, which would take a thread.
        let connected = match address.parse::<SocketAddr>() {
            Ok(address) => timeout_at(deadline, TcpStream::connect(address)).await,
            Err(_) => timeout_at(deadline, TcpStream::connect(address)).await,
        };
        let stream = match connected {
            Err(_) => return Err(never(NeverSent::ConnectTimeout, None)),
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(never(NeverSent::Refused, Some(e)));
            }
            Ok(Err(e)) => return Err(never(NeverSent::Unreachable, Some(e))),
            Ok(Ok(stream)) => stream,
        };
        // Without it a small write after another waits up to 40 ms for the peer's delayed acknowledgement.
        stream.set_nodelay(true).map_err(|e| never(NeverSent::Unreachable, Some(e)))?;
        Ok(Box::new(Self {
            stream,
            buffer: BytesMut::new(),
            out: Vec::with_capacity(512),
            out_at: 0,
            data: Bytes::new(),
            timer: Timer::default(),
            idle_since: Instant::now(),
            read_size: READ_SIZE,
        }))
    }

    /// Whether an idle connection is still worth writing to. Asked of the kernel itself: the runtime learns of a
    /// close only when it next looks, and between the two a request would be lost.
    pub(super) fn is_open(&self) -> bool {
        let mut byte = [0u8; 1];
        // Bytes that nobody asked for are no better than an end.
        matches!(
            rustix::net::recv(&self.stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT),
            Err(rustix::io::Errno::AGAIN)
        )
    }

    /// Writes what is in `out` and `data`; `written` counts the bytes.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, written: &mut u64) -> Poll<io::Result<()>> {
        loop {
            let head = self.out.get(self.out_at..).unwrap_or_default();
            if head.is_empty() && self.data.is_empty() {
                self.out.clear();
                self.out_at = 0;
                return Poll::Ready(Ok(()));
            }
            let in_head = head.len();
            let slices = [IoSlice::new(head), IoSlice::new(&self.data)];
            let slices = if head.is_empty() { slices.get(1..) } else { slices.get(..) };
            let n = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices.unwrap_or_default()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *written += n as u64;
            self.out_at += n.min(in_head);
            bytes::Buf::advance(&mut self.data, n.saturating_sub(in_head));
        }
    }

    /// Whether everything given to write was written.
    pub(super) fn is_flushed(&self) -> bool {
        self.out.is_empty() && self.data.is_empty()
    }

    /// Reads what has arrived into `buffer`; 0 is the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() - self.buffer.len() < 1024 {
            self.buffer.reserve(self.read_size);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let n = ready!(tokio_util::io::poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.buffer))?;
        if n == room {
            self.read_size = READ_SIZE_LARGE;
        }
        Poll::Ready(Ok(n))
    }

    /// Makes an idle connection of it: nothing half-written, nothing read ahead.
    pub(super) fn rest(&mut self, now: Instant) {
        self.idle_since = now;
        self.read_size = READ_SIZE;
        if self.buffer.capacity() > READ_SIZE_LARGE {
            self.buffer = BytesMut::new();
        }
    }
}
