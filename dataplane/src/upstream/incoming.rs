//! A response's body as it arrives from upstream.

use super::Endpoint;
use super::conn::Conn;
use super::decode::{Decoded, Decoder};
use super::error::{Cause, Error};
use bytes::{Bytes, BytesMut};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;

/// A response's body as it arrives. Dropping it before its end closes the connection to upstream.
#[derive(Debug)]
pub struct Incoming {
    /// There until the last byte has arrived.
    conn: Option<Box<Conn>>,
    /// Whose the connection is afterwards; absent when it can't be kept.
    keep: Option<Rc<Endpoint>>,
    decoder: Decoder,
    /// Data that arrived with the head, when that was all of it.
    whole: Option<Bytes>,
    events: bool,
    idle: Duration,
    total: Instant,
    /// Since when the next byte is waited for. Not from the last one: a client that reads slowly is no fault of
    /// upstream's.
    waiting_since: Option<Instant>,
}

impl Incoming {
    pub(super) fn new(
        conn: Box<Conn>,
        decoder: Decoder,
        keep: Option<Rc<Endpoint>>,
        events: bool,
        idle: Duration,
        total: Instant,
    ) -> Self {
        let mut this =
            Self { conn: Some(conn), keep, decoder, whole: None, events, idle, total, waiting_since: None };
        this.take_whole();
        this
    }

    /// A small answer has arrived with its head: the connection is free for the next request already.
    fn take_whole(&mut self) {
        let Some(conn) = &mut self.conn else { return };
        if let Some(left) = self.decoder.remaining()
            && left <= conn.buffer.len() as u64
        {
            if let Ok(Decoded::Data(data)) = self.decoder.decode(&mut conn.buffer) {
                self.whole = Some(data);
            }
            self.release();
        }
    }

    /// Gives the connection back, or closes it.
    fn release(&mut self) {
        let conn = self.conn.take();
        if let (Some(conn), Some(endpoint)) = (conn, self.keep.take())
            && conn.buffer.is_empty()
        {
            endpoint.keep(conn);
        }
    }

    /// The next bytes: everything that has arrived, framing removed. `None` at the end.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if let Some(data) = self.whole.take() {
            return Poll::Ready(Some(Ok(data)));
        }
        let Some(conn) = &mut self.conn else { return Poll::Ready(None) };
        loop {
            match self.decoder.decode(&mut conn.buffer) {
                Ok(Decoded::Data(data)) => {
                    self.waiting_since = None;
                    if self.decoder.is_done() {
                        self.release();
                    }
                    return Poll::Ready(Some(Ok(data)));
                }
                Ok(Decoded::End) => {
                    self.release();
                    return Poll::Ready(None);
                }
                Ok(Decoded::More) => {}
                Err(why) => {
                    let source = io::Error::new(io::ErrorKind::InvalidData, why);
                    return self.fail(Cause::BadResponse, Some(source));
                }
            }
            match conn.poll_read(cx) {
                Poll::Ready(Ok(0)) if self.decoder.ends_at_close() => {
                    self.conn = None;
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0)) => return self.fail(Cause::BrokeMidStream, None),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return self.fail(Cause::BrokeMidStream, Some(e)),
                Poll::Pending => {
                    let since = *self.waiting_since.get_or_insert_with(Instant::now);
                    let idle = since + self.idle;
                    if !conn.timer.passed(idle.min(self.total), cx) {
                        return Poll::Pending;
                    }
                    let cause = if self.total <= idle { Cause::TotalTimeout } else { Cause::IdleTimeout };
                    return self.fail(cause, None);
                }
            }
        }
    }

    /// Ends with an error; the connection is closed.
    fn fail(&mut self, cause: Cause, source: Option<io::Error>) -> Poll<Option<Result<Bytes, Error>>> {
        self.conn = None;
        Poll::Ready(Some(Err(Error::new(cause, source))))
    }

    /// Whether the end was reached, so that there is nothing more to poll for.
    pub fn is_end(&self) -> bool {
        self.conn.is_none() && self.whole.is_none()
    }

    /// Bytes still to come, where upstream announced a length.
    pub fn remaining(&self) -> Option<u64> {
        match &self.whole {
            Some(data) => Some(data.len() as u64),
            None => self.decoder.remaining(),
        }
    }

    /// Whether the response's type is `text/event-stream`.
    pub fn is_event_stream(&self) -> bool {
        self.events
    }

    /// The body, when all of it arrived with the head, without waiting.
    pub fn whole(&self) -> Option<&Bytes> {
        self.whole.as_ref()
    }

    /// Reads the rest, at most `allowed` bytes of it. A body in one piece is not copied.
    ///
    /// # Errors
    ///
    /// As the stream's; [`Cause::BadResponse`] when there is more than `allowed`.
    pub async fn read(mut self, allowed: usize) -> Result<Bytes, Error> {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(data) = poll_fn(|cx| self.poll_data(cx)).await {
            let data = data?;
            if first.len() + all.len() + data.len() > allowed {
                let why = format!("the body is larger than the {allowed} bytes that are allowed");
                let source = io::Error::new(io::ErrorKind::InvalidData, why);
                return Err(Error::new(Cause::BadResponse, Some(source)));
            }
            if first.is_empty() && all.is_empty() {
                first = data;
            } else {
                if all.is_empty() {
                    all.extend_from_slice(&std::mem::take(&mut first));
                }
                all.extend_from_slice(&data);
            }
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }
}
