//! Bodies of responses: whole or streamed from upstream, with hooks that hear of every end exactly once.

use crate::upstream::{self, Incoming};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

mod event;
mod read;

pub use event::ErrorEvent;
pub use read::{ReadError, read_request};

/// How a response ended.
#[derive(Debug)]
pub enum End {
    /// Its last byte was handed to the connection.
    Complete,
    /// Upstream broke or ran out of time after the response's head.
    Broke(upstream::Error),
    /// The client went away, or the connection to it broke or panicked, before the end.
    ClientGone,
}

/// What is told of a response's body. `end` is called exactly once on every path: completion, error, disconnect,
/// panic; so a token that is given back there (or in the hooks' own `Drop`) can't leak.
pub trait Hooks: 'static {
    /// The first byte of the body is about to be handed to the connection.
    fn first_byte(&mut self) {}

    /// This piece is about to be handed to the connection; for streams, one piece may hold several events.
    fn data(&mut self, _data: &Bytes) {}

    /// The response has ended.
    fn end(&mut self, _end: End) {}
}

impl Hooks for () {}

/// The body of a response. One enum, so that the data path allocates nothing for it.
#[derive(Debug)]
pub struct Body<H: Hooks = ()> {
    kind: Kind,
    begun: bool,
    hooks: Option<H>,
}

#[derive(Debug)]
enum Kind {
    Done,
    Full(Bytes),
    Upstream { from: Incoming, on_error: ErrorEvent },
}

// === impl Body ===

impl<H: Hooks> Body<H> {
    /// No bytes.
    pub fn empty() -> Self {
        Self { kind: Kind::Done, begun: false, hooks: None }
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let kind = if bytes.is_empty() { Kind::Done } else { Kind::Full(bytes) };
        Self { kind, begun: false, hooks: None }
    }

    /// What upstream sends. When it breaks off, the client gets `on_error` if the response is an event stream,
    /// else its connection is aborted (HTTP/2: the stream is reset); nothing is ever appended to another body.
    pub fn upstream(from: Incoming, on_error: ErrorEvent) -> Self {
        let kind = if from.is_end() { Kind::Done } else { Kind::Upstream { from, on_error } };
        Self { kind, begun: false, hooks: None }
    }

    /// The same body with these hooks; hooks that were there hear that the client is gone.
    #[must_use]
    pub fn with_hooks<K: Hooks>(mut self, hooks: K) -> Body<K> {
        let kind = std::mem::replace(&mut self.kind, Kind::Done);
        Body { kind, begun: self.begun, hooks: Some(hooks) }
    }

    fn ended(&mut self, end: End) {
        self.kind = Kind::Done;
        if let Some(mut hooks) = self.hooks.take() {
            hooks.end(end);
        }
    }

    fn hand_over(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, upstream::Error>>> {
        if let Some(hooks) = &mut self.hooks {
            if !self.begun {
                hooks.first_byte();
            }
            hooks.data(&data);
        }
        self.begun = true;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, upstream::Error>>> {
        match &mut self.kind {
            Kind::Done => {
                self.ended(End::Complete);
                Poll::Ready(None)
            }
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                let frame = self.hand_over(bytes);
                self.ended(End::Complete);
                frame
            }
            Kind::Upstream { from, on_error } => match std::task::ready!(from.poll_data(cx)) {
                Some(Ok(data)) => {
                    on_error.saw(&data);
                    let last = from.is_end();
                    let frame = self.hand_over(data);
                    if last {
                        self.ended(End::Complete);
                    }
                    frame
                }
                None => {
                    self.ended(End::Complete);
                    Poll::Ready(None)
                }
                Some(Err(error)) => {
                    let event = on_error.event(from.is_event_stream(), &error);
                    let copy = error.copy();
                    self.ended(End::Broke(error));
                    Poll::Ready(Some(match event {
                        Some(event) => Ok(Frame::data(event)),
                        None => Err(copy),
                    }))
                }
            },
        }
    }
}

impl<H: Hooks> Drop for Body<H> {
    fn drop(&mut self) {
        let end = if matches!(self.kind, Kind::Done) { End::Complete } else { End::ClientGone };
        self.ended(end);
    }
}

impl<H: Hooks + Unpin> http_body::Body for Body<H> {
    type Data = Bytes;
    type Error = upstream::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, upstream::Error>>> {
        self.get_mut().poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.kind, Kind::Done)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Done => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Upstream { from, .. } => {
                from.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}
