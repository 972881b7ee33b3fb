//! One request and its response's head on one connection.

use super::conn::Conn;
use super::encode::{self, Framing};
use super::error::{Cause, Error, NeverSent};
use super::incoming::Incoming;
use super::parse;
use super::request::{Piece, RequestBody};
use super::{Endpoint, Timeouts};
use http::request::Parts;
use http::{Response, header};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// The future of one exchange. Dropping it closes the connection.
pub(super) struct Exchange<'a> {
    endpoint: &'a Rc<Endpoint>,
    head: &'a Parts,
    body: &'a mut RequestBody,
    /// There until the exchange is over.
    conn: Option<Box<Conn>>,
    framing: Framing,
    /// Bytes of this request that the kernel took.
    written: u64,
    /// Whether the body's last byte was given to the connection.
    sent: bool,
    /// Whether a failed write ended sending; what upstream said before is still read.
    broken: Option<io::Error>,
    timeouts: &'a Timeouts,
    /// Absent while the body is still on its way: the client's pace is not upstream's fault.
    first_byte: Option<Instant>,
    total: Instant,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(
        endpoint: &'a Rc<Endpoint>,
        mut conn: Box<Conn>,
        head: &'a Parts,
        body: &'a mut RequestBody,
        timeouts: &'a Timeouts,
        total: Instant,
    ) -> Self {
        let framing = match body.length() {
            Some(0) if !encode::wants_length(&head.method) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        encode::head(&mut conn.out, head, &endpoint.address, framing);
        body.begin();
        Self {
            endpoint,
            head,
            body,
            conn: Some(conn),
            framing,
            written: 0,
            sent: false,
            broken: None,
            timeouts,
            first_byte: None,
            total,
        }
    }

    /// Writes until nothing is left or something must be waited for.
    fn poll_send(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> Result<(), Error> {
        loop {
            if conn.is_flushed() && self.sent {
                return Ok(());
            }
            // Small bodies join the head in one write.
            if !self.sent && conn.data.is_empty() {
                match self.body.poll_piece(cx)? {
                    Poll::Ready(Piece::Data(data)) => {
                        if self.framing == Framing::Chunked {
                            // The end of the chunk before is written with the head of this one.
                            conn.out.extend_from_slice(self.body.chunk_head(data.len()).as_bytes());
                        }
                        conn.data = data;
                    }
                    Poll::Ready(Piece::End) => {
                        if self.framing == Framing::Chunked {
                            conn.out.extend_from_slice(self.body.last_chunk().as_bytes());
                        }
                        self.sent = true;
                    }
                    Poll::Pending if conn.is_flushed() => return Ok(()),
                    Poll::Pending => {}
                }
            }
            match conn.poll_write(cx, &mut self.written) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(e)) => {
                    if self.written == 0 {
                        return Err(Error::new(Cause::NeverSent(NeverSent::ClosedBeforeWrite), Some(e)));
                    }
                    self.broken = Some(e);
                    return Ok(());
                }
                Poll::Pending => return Ok(()),
            }
        }
    }

    fn poll_head(&mut self, conn: &mut Conn, cx: &mut Context<'_>) -> Poll<Result<parse::Head, Error>> {
        loop {
            match conn.poll_read(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.closed(conn, None))),
                Poll::Ready(Ok(_)) => {
                    match parse::take(&mut conn.buffer, &self.head.method, self.endpoint.options.max_head) {
                        Ok(Some(head)) => return Poll::Ready(Ok(head)),
                        Ok(None) => {}
                        Err(why) => {
                            let source = io::Error::new(io::ErrorKind::InvalidData, why);
                            return Poll::Ready(Err(Error::new(Cause::BadResponse, Some(source))));
                        }
                    }
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(self.closed(conn, Some(e)))),
                Poll::Pending => {
                    if let Some(e) = self.broken.take() {
                        return Poll::Ready(Err(self.closed(conn, Some(e))));
                    }
                    if self.first_byte.is_none() && self.sent {
                        self.first_byte = Some(Instant::now() + self.timeouts.first_byte);
                    }
                    let first_byte = self.first_byte.unwrap_or(self.total);
                    if conn.timer.passed(first_byte.min(self.total), cx) {
                        let total = self.total <= first_byte;
                        let cause = if total { Cause::TotalTimeout } else { Cause::FirstByteTimeout };
                        return Poll::Ready(Err(Error::new(cause, None)));
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// The connection ended before a head had come.
    fn closed(&self, conn: &Conn, source: Option<io::Error>) -> Error {
        let cause = match (self.written, conn.buffer.is_empty()) {
            (0, _) => Cause::NeverSent(NeverSent::ClosedBeforeWrite),
            (_, true) => Cause::BrokeBeforeFirstByte,
            (_, false) => Cause::BrokeMidStream,
        };
        Error::new(cause, source)
    }

    fn finish(&mut self, conn: Box<Conn>, head: parse::Head) -> Response<Incoming> {
        // An answer before the request's end leaves the connection within a request. After a 500 some engines
        // (those on uvicorn) close a moment later without having said so, and the next request would break on it.
        let failed = head.status == http::StatusCode::INTERNAL_SERVER_ERROR;
        let keep = head.keep_alive && !failed && self.sent && conn.is_flushed() && self.broken.is_none();
        let content_type = head.headers.get(header::CONTENT_TYPE);
        let events = content_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        let keep = keep.then(|| Rc::clone(self.endpoint));
        let incoming = Incoming::new(conn, head.body, keep, events, self.timeouts.idle, self.total);
        let mut response = Response::new(incoming);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        response
    }
}

impl Future for Exchange<'_> {
    type Output = Result<Response<Incoming>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(mut conn) = this.conn.take() else { return Poll::Pending };
        if this.broken.is_none()
            && let Err(e) = this.poll_send(&mut conn, cx)
        {
            return Poll::Ready(Err(e));
        }
        match this.poll_head(&mut conn, cx) {
            Poll::Ready(Ok(head)) => Poll::Ready(Ok(this.finish(conn, head))),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => {
                this.conn = Some(conn);
                Poll::Pending
            }
        }
    }
}
