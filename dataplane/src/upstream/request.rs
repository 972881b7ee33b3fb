//! The body of a request on its way upstream.

use super::error::{Cause, Error};
use bytes::Bytes;
use http_body::Body as _;
use hyper::body::Incoming;
use std::fmt::{self, Write};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The body of a request on its way upstream.
#[derive(Debug)]
pub struct RequestBody {
    first: Vec<Bytes>,
    rest: Option<Incoming>,
    /// Bytes of `rest` that may still come.
    allowed: u64,
    /// How many pieces of `first` were given to the connection at hand.
    given: usize,
    /// Whether something of `rest` was taken.
    taken: bool,
    /// Whether a chunk stands before the next one.
    chunks: bool,
    inspect: Option<Inspect>,
}

/// Looks at what is streamed; says whether it may pass.
struct Inspect(Box<Look>);

type Look = dyn FnMut(&[u8]) -> bool;

impl fmt::Debug for Inspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inspect")
    }
}

/// What the connection writes next.
#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes),
    End,
}

impl RequestBody {
    /// No body.
    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// A body that is whole. It can be sent any number of times.
    pub fn full(bytes: Bytes) -> Self {
        Self::pieces(vec![bytes])
    }

    /// The same, in pieces: each is written as it is, so that a large body isn't there a second time.
    pub fn pieces(first: Vec<Bytes>) -> Self {
        Self { first, rest: None, allowed: 0, given: 0, taken: false, chunks: false, inspect: None }
    }

    /// A body that is passed on as it arrives, without a bound on its size.
    pub fn streamed(body: Incoming) -> Self {
        Self::with_rest(Vec::new(), body, u64::MAX)
    }

    /// A body of which `first` was read already; at most `allowed` bytes may follow it.
    pub fn with_rest(first: Vec<Bytes>, rest: Incoming, allowed: u64) -> Self {
        let rest = (!rest.is_end_stream()).then_some(rest);
        Self { rest, allowed, ..Self::pieces(first) }
    }

    /// Shows each piece of the streamed part to `inspect` before it is passed on; where that says no, the request
    /// ends with [`Cause::RequestBodyRefused`].
    #[must_use]
    pub fn inspected(mut self, inspect: impl FnMut(&[u8]) -> bool + 'static) -> Self {
        self.inspect = Some(Inspect(Box::new(inspect)));
        self
    }

    /// Whether something of the streamed part was taken, so that this body can't be sent a second time.
    pub fn is_taken(&self) -> bool {
        self.taken
    }

    /// How many bytes there are in all, where that is known beforehand.
    pub(super) fn length(&self) -> Option<u64> {
        let rest = match &self.rest {
            Some(rest) => rest.size_hint().exact()?,
            None => 0,
        };
        Some(self.first.iter().map(|piece| piece.len() as u64).sum::<u64>() + rest)
    }

    /// A connection begins to send this body.
    pub(super) fn begin(&mut self) {
        self.given = 0;
        self.chunks = false;
    }

    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Result<Poll<Piece>, Error> {
        while let Some(piece) = self.first.get(self.given) {
            self.given += 1;
            // An empty chunk would be the last one.
            if !piece.is_empty() {
                return Ok(Poll::Ready(Piece::Data(piece.clone())));
            }
        }
        let Some(rest) = &mut self.rest else { return Ok(Poll::Ready(Piece::End)) };
        loop {
            match Pin::new(&mut *rest).poll_frame(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(None) => {
                    self.rest = None;
                    return Ok(Poll::Ready(Piece::End));
                }
                Poll::Ready(Some(Err(e))) => {
                    return Err(Error::new(Cause::ClientGone, Some(io::Error::other(e))));
                }
                Poll::Ready(Some(Ok(frame))) => {
                    self.taken = true;
                    // Trailers stay behind: they describe this connection's framing.
                    let Ok(data) = frame.into_data() else { continue };
                    if data.is_empty() {
                        continue;
                    }
                    let Some(left) = self.allowed.checked_sub(data.len() as u64) else {
                        return Err(Error::new(Cause::RequestBodyTooLarge, None));
                    };
                    self.allowed = left;
                    if self.inspect.as_mut().is_some_and(|inspect| !inspect.0(&data)) {
                        return Err(Error::new(Cause::RequestBodyRefused, None));
                    }
                    return Ok(Poll::Ready(Piece::Data(data)));
                }
            }
        }
    }

    /// What stands before a chunk of this size; the end of the chunk before included.
    pub(super) fn chunk_head(&mut self, size: usize) -> String {
        let mut head = String::with_capacity(12);
        if std::mem::replace(&mut self.chunks, true) {
            head.push_str("\r\n");
        }
        // Writing into a string can't fail.
        let _ = write!(head, "{size:x}\r\n");
        head
    }

    /// What ends a chunked body.
    pub(super) fn last_chunk(&self) -> &'static str {
        if self.chunks { "\r\n0\r\n\r\n" } else { "0\r\n\r\n" }
    }
}
