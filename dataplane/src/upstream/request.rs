//! The body of a request on its way upstream.

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};

/// The body of a request on its way upstream.
#[derive(Debug)]
pub struct RequestBody {
    pub(super) first: Bytes,
    pub(super) rest: Option<Incoming>,
    /// Bytes of `rest` that may still come.
    pub(super) allowed: u64,
    pub(super) taken: bool,
}

impl RequestBody {
    /// No body.
    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// A body that is whole. It can be sent any number of times.
    pub fn full(bytes: Bytes) -> Self {
        Self { first: bytes, rest: None, allowed: 0, taken: false }
    }

    /// A body that is passed on as it arrives, without a bound on its size.
    pub fn streamed(body: Incoming) -> Self {
        Self::with_rest(Bytes::new(), body, u64::MAX)
    }

    /// A body of which `first` was read already; `allowed` bytes may follow it.
    pub fn with_rest(first: Bytes, rest: Incoming, allowed: u64) -> Self {
        let rest = if rest.is_end_stream() { None } else { Some(rest) };
        Self { first, rest, allowed, taken: false }
    }

    /// Whether something of the streamed part was taken, so that this body can't be sent a second time.
    pub fn is_taken(&self) -> bool {
        self.taken
    }
}
