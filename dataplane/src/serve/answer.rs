//! One request on its way through a service: refused heads, panics, and the end of its answer.

use super::connection::{Connection, InFlight};
use super::drive::Local;
use super::{Request, Service};
use crate::body::{Body, Hooks};
use crate::refuse::Refusal;
use crate::upstream;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Frame, SizeHint};
use outrigger_decide::protocol::Protocol;
use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

/// A body that holds its request's place until it ends.
#[derive(Debug)]
pub(super) struct Answer<H: Hooks> {
    body: Body<H>,
    /// Dropped after the body.
    _in_flight: InFlight,
}

/// Answers one request.
pub(super) async fn answer<S: Service>(
    service: Rc<S>,
    connection: Rc<Connection>,
    local: Rc<Local>,
    request: Request,
) -> Result<Response<Answer<S::Hooks>>, Infallible> {
    if connection.http2.get() {
        // With HTTP/1.1 the request began when its head had passed the check.
        connection.begin();
    }
    let in_flight = InFlight(Rc::clone(&connection));
    let mut response = match connection.refused.get() {
        Some(bad) => {
            service.refused_head(bad.reason());
            let status = StatusCode::from_u16(bad.status()).unwrap_or(StatusCode::BAD_REQUEST);
            Refusal::new(status, bad.reason(), bad.message()).response(Protocol::default())
        }
        None => {
            let protocol = Protocol::of(request.uri().path());
            let call = service.call(request, Rc::clone(&connection));
            caught(call).await.unwrap_or_else(|Panicked| {
                tracing::error!(peer = %connection.peer(), "a request panicked");
                let message = "an internal error; the request was not answered";
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message).response(protocol)
            })
        }
    };
    if local.is_draining() && !connection.http2.get() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Answer { body, _in_flight: in_flight }))
}

/// A future panicked.
struct Panicked;

/// Runs a future; one that panics is dropped and not polled again.
async fn caught<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(_) => Poll::Ready(Err(Panicked)),
    })
    .await
}

impl<H: Hooks + Unpin> http_body::Body for Answer<H> {
    type Data = Bytes;
    type Error = upstream::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, upstream::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
