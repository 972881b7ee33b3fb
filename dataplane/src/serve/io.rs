//! Between the socket and hyper: every byte of HTTP/1.1 passes here first.

use super::connection::{Connection, Waiting};
use crate::head::{self, Bad, Chunked, Framing, Limits, Scan};
use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// What every HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Read at once, at most.
const SCRATCH: usize = 16 * 1024;

/// Pipelined bytes held back, at most; a client that sends more has its connection closed after the answer at
/// hand.
const MAX_PIPELINED: usize = 16 * 1024;

/// Bytes that a refused client may go on sending.
const MAX_LINGER: usize = 4 * 1024 * 1024;

/// Stands for a refused request, so that its refusal comes in turn, after the answers before it.
const REFUSED: &[u8] = b"GET /refused HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

thread_local! {
    /// One buffer for all connections of a thread: an idle connection holds no memory for reading.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// The socket with the check in front of it.
#[derive(Debug)]
pub(super) struct Io {
    stream: TcpStream,
    shared: Rc<Connection>,
    limits: Limits,
    place: Place,
    /// Read and not yet judged: a part of a head, or requests whose turn has not come.
    held: BytesMut,
    /// Whether what is held waits for its turn.
    pipelined: bool,
    /// Judged and not yet given to hyper.
    ready: BytesMut,
    lingered: usize,
    /// What is wrong with a body's framing, told when what came before it was given.
    broken: Option<Bad>,
}

/// Where in the stream of bytes the next one stands.
#[derive(Debug)]
enum Place {
    /// HTTP/2: hyper's own checks hold.
    Unchecked,
    Head,
    Body(u64),
    Chunks(Chunked),
    /// After a refusal, or more was pipelined than is held: nothing further is given to hyper.
    Over,
}

/// Which protocol the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

impl Io {
    pub(super) fn new(stream: TcpStream, shared: Rc<Connection>) -> Self {
        let limits = Limits { bytes: shared.options.max_head, fields: shared.options.max_headers };
        Self {
            stream,
            shared,
            limits,
            place: Place::Head,
            held: BytesMut::new(),
            pipelined: false,
            ready: BytesMut::new(),
            lingered: 0,
            broken: None,
        }
    }

    /// Reads until it is clear which protocol is spoken; `None` when the client left before.
    pub(super) fn poll_version(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Version>>> {
        loop {
            let begin = self.held.get(..self.held.len().min(PREFACE.len())).unwrap_or_default();
            if begin == PREFACE {
                self.place = Place::Unchecked;
                self.ready = std::mem::take(&mut self.held);
                return Poll::Ready(Ok(Some(Version::Two)));
            }
            if !begin.is_empty() && !PREFACE.starts_with(begin) {
                // What is held waits to be judged, as a pipelined request does.
                self.pipelined = true;
                return Poll::Ready(Ok(Some(Version::One)));
            }
            let first = self.held.is_empty();
            let (stream, held) = (&mut self.stream, &mut self.held);
            let n = ready!(read(stream, cx, SCRATCH, |bytes| held.extend_from_slice(bytes)))?;
            if n == 0 {
                return Poll::Ready(Ok(None));
            }
            if first {
                self.shared.waiting.set(Waiting::Head(Instant::now()));
            }
        }
    }

    fn refuse(&mut self, bad: Bad) {
        self.shared.refused.set(Some(bad));
        self.shared.begin();
        self.place = Place::Over;
        self.ready.extend_from_slice(REFUSED);
    }

    /// Judges bytes in the order in which they came: what has passed goes to hyper, what can't be judged yet is
    /// held.
    fn judge(&mut self, fresh: &[u8], out: &mut ReadBufCursor<'_>, cx: &Context<'_>) {
        if self.held.is_empty() {
            let judged = self.judge_all(fresh, out);
            let rest = fresh.get(judged..).unwrap_or_default();
            if !rest.is_empty() {
                self.held.extend_from_slice(rest);
            }
        } else {
            let mut held = std::mem::take(&mut self.held);
            held.extend_from_slice(fresh);
            let judged = self.judge_all(&held, out);
            held.advance(judged);
            if !held.is_empty() {
                self.held = held;
            }
        }
        self.hold(cx);
    }

    /// Notes why something is held.
    fn hold(&mut self, cx: &Context<'_>) {
        self.pipelined = false;
        if self.held.is_empty() || !matches!(self.place, Place::Head) {
            return;
        }
        if self.shared.is_idle() {
            if !matches!(self.shared.waiting.get(), Waiting::Head(_)) {
                self.shared.waiting.set(Waiting::Head(Instant::now()));
            }
            return;
        }
        *self.shared.next.borrow_mut() = Some(cx.waker().clone());
        if self.held.len() > MAX_PIPELINED {
            self.held = BytesMut::new();
            self.place = Place::Over;
        } else {
            self.pipelined = true;
        }
    }

    /// Gives the number of bytes that need not be held.
    fn judge_all(&mut self, bytes: &[u8], out: &mut ReadBufCursor<'_>) -> usize {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let passed = match &mut self.place {
                Place::Unchecked => rest.len(),
                Place::Over => {
                    self.lingered += rest.len();
                    return bytes.len();
                }
                Place::Body(left) => {
                    let here = (rest.len() as u64).min(*left);
                    *left -= here;
                    here as usize
                }
                Place::Chunks(chunked) => match chunked.advance(rest) {
                    Ok(here) => here,
                    Err(bad) => {
                        self.place = Place::Over;
                        self.broken = Some(bad);
                        return bytes.len();
                    }
                },
                // The next request waits for its turn.
                Place::Head if !self.shared.is_idle() => break,
                Place::Head => match head::scan(rest, self.limits) {
                    Ok(Scan::Partial) => break,
                    Ok(Scan::Head { start, end, framing }) => {
                        self.shared.begin();
                        self.place = match framing {
                            Framing::Length(length) => Place::Body(length),
                            Framing::Chunked => Place::Chunks(Chunked::default()),
                        };
                        at += start;
                        end - start
                    }
                    Err(bad) => {
                        self.refuse(bad);
                        continue;
                    }
                },
            };
            self.give(bytes.get(at..at + passed).unwrap_or_default(), out);
            at += passed;
            let over = match &self.place {
                Place::Body(left) => *left == 0,
                Place::Chunks(chunked) => chunked.is_done(),
                _ => false,
            };
            if over {
                self.place = Place::Head;
            }
        }
        at
    }

    fn give(&mut self, bytes: &[u8], out: &mut ReadBufCursor<'_>) {
        if self.ready.is_empty() && bytes.len() <= out.remaining() {
            out.put_slice(bytes);
        } else {
            self.ready.extend_from_slice(bytes);
        }
    }

    fn give_ready(&mut self, out: &mut ReadBufCursor<'_>) {
        let n = self.ready.len().min(out.remaining());
        out.put_slice(self.ready.get(..n).unwrap_or_default());
        self.ready.advance(n);
        if self.ready.is_empty() {
            self.ready = BytesMut::new();
        }
    }

    /// The client is waited for.
    fn waits(&self) {
        let in_body = match self.place {
            Place::Body(_) | Place::Chunks(_) => true,
            Place::Unchecked | Place::Head | Place::Over => false,
        };
        if in_body && !matches!(self.shared.waiting.get(), Waiting::Body(_)) {
            self.shared.waiting.set(Waiting::Body(Instant::now()));
        }
    }

    /// Reads and throws away until the client has closed, so that it reads its refusal before a reset.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let unread = matches!(self.place, Place::Over | Place::Body(1..) | Place::Chunks(_));
        if !unread {
            return Poll::Ready(());
        }
        if !matches!(self.shared.waiting.get(), Waiting::Close(_)) {
            self.shared.waiting.set(Waiting::Close(Instant::now()));
        }
        while self.lingered < MAX_LINGER {
            match ready!(read(&mut self.stream, cx, SCRATCH, |_| {})) {
                Ok(0) | Err(_) => break,
                Ok(n) => self.lingered += n,
            }
        }
        Poll::Ready(())
    }
}

/// Reads once into the thread's buffer and shows what came.
fn read(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    limit: usize,
    show: impl FnOnce(&[u8]),
) -> Poll<io::Result<usize>> {
    BUFFER.with_borrow_mut(|buffer| {
        let limit = limit.min(buffer.len());
        let mut buffer = ReadBuf::new(buffer.get_mut(..limit).unwrap_or_default());
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        show(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    })
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.shared.late.take() && matches!(this.place, Place::Head) && !this.held.is_empty() {
            this.held = BytesMut::new();
            this.refuse(Bad::HeadTimeout);
        }
        if !this.ready.is_empty() {
            this.give_ready(&mut out);
            return Poll::Ready(Ok(()));
        }
        let room = out.remaining();
        if this.pipelined && this.shared.is_idle() {
            this.judge(&[], &mut out, cx);
        }
        loop {
            if !this.ready.is_empty() {
                this.give_ready(&mut out);
            }
            if out.remaining() < room {
                if matches!(this.shared.waiting.get(), Waiting::Body(_)) {
                    this.shared.waiting.set(Waiting::No);
                }
                return Poll::Ready(Ok(()));
            }
            if let Some(bad) = this.broken.take() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, bad)));
            }
            // After a refusal its answer is all that is left to do, and hyper ends with that.
            if matches!(this.place, Place::Over) && this.shared.is_idle() {
                return Poll::Ready(Ok(()));
            }
            if this.lingered > MAX_LINGER {
                return Poll::Pending;
            }
            let polled = BUFFER.with_borrow_mut(|buffer| {
                let limit = room.min(buffer.len());
                let mut buffer = ReadBuf::new(buffer.get_mut(..limit).unwrap_or_default());
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer))?;
                this.judge(buffer.filled(), &mut out, cx);
                Poll::Ready(io::Result::Ok(buffer.filled().len()))
            });
            match polled {
                Poll::Pending => {
                    this.waits();
                    return Poll::Pending;
                }
                // A client that closed its side after a bad request still gets the refusal.
                Poll::Ready(Ok(0)) if this.shared.refused.get().is_some() => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, data);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A TCP socket holds nothing back but what Nagle would, and that is off.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        this.poll_linger(cx).map(Ok)
    }
}

impl Io {
    /// Notes whether the client takes what is written.
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let stuck = &self.shared.stuck_since;
        match (written.is_pending(), stuck.get()) {
            (true, None) => stuck.set(Some(Instant::now())),
            (false, Some(_)) => stuck.set(None),
            _ => {}
        }
        written
    }
}
