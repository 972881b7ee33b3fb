//! The one table from what went wrong to the response that says so.

use crate::body::{Body, Hooks, ReadError};
use crate::head::Bad;
use crate::upstream::{Cause, Error};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use outrigger_decide::protocol::Protocol;
use std::borrow::Cow;
use std::io;
use std::time::Duration;

/// The header that says in one word why a proxy answered by itself.
pub const REASON: HeaderName = HeaderName::from_static("x-outrigger-reason");

/// A response that a proxy makes itself.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The status: 400, 413, 431 for bad requests, 429 for load, 503 when nothing can serve, 504 for deadlines,
    /// 502 for a broken upstream.
    pub status: StatusCode,
    /// One word in snake case, the same in headers, errors and metrics.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: Cow<'static, str>,
    /// When to come again; always there with 429.
    pub retry_after: Option<Duration>,
    /// The field of the request that is wrong.
    pub param: Option<&'static str>,
    /// The methods that are allowed, with 405.
    pub allow: Option<&'static str>,
}

impl Refusal {
    /// A refusal.
    pub fn new(status: StatusCode, reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        // RFC 9110: with 429 clients back off for what they are told; without it many retry at once.
        let retry_after = (status == StatusCode::TOO_MANY_REQUESTS).then(|| Duration::from_secs(1));
        Self { status, reason, message: message.into(), retry_after, param: None, allow: None }
    }

    /// Shed for load: 429.
    pub fn shed(reason: &'static str, message: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(StatusCode::TOO_MANY_REQUESTS, reason, message) }
    }

    /// Nothing can serve: 503.
    pub fn unavailable(reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, message)
    }

    /// Ran out of time: 504.
    pub fn deadline(reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, reason, message)
    }

    /// The request is wrong: 400.
    pub fn bad(reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, message)
    }

    /// The same, naming the request's field that is wrong.
    #[must_use]
    pub fn param(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }

    /// The response, its body in the protocol's shape.
    pub fn response<H: Hooks>(&self, protocol: Protocol) -> Response<Body<H>> {
        let json = protocol.error(self.status.as_u16(), self.reason, &self.message, self.param);
        let mut response = Response::new(Body::full(json));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(REASON, HeaderValue::from_static(self.reason));
        if let Some(after) = self.retry_after {
            // Whole seconds, at least one: zero would ask for a retry at once.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        let message = error.to_string();
        match error.cause() {
            Cause::NeverSent(why) => Self::unavailable(why.reason(), message),
            Cause::BrokeBeforeFirstByte => Self::new(StatusCode::BAD_GATEWAY, "upstream_broke", message),
            Cause::BrokeMidStream => Self::new(StatusCode::BAD_GATEWAY, "upstream_broke_mid_stream", message),
            Cause::BadResponse => Self::new(StatusCode::BAD_GATEWAY, "upstream_bad_response", message),
            Cause::FirstByteTimeout => Self::deadline("first_byte_timeout", message),
            Cause::IdleTimeout => Self::deadline("idle_timeout", message),
            Cause::TotalTimeout => Self::deadline("total_timeout", message),
            Cause::RequestBodyTooLarge => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message).param("body")
            }
            Cause::RequestBodyRefused => Self::bad("body_malformed", message),
            Cause::ClientGone => match bad(error) {
                Some(bad) => Self::bad(bad.reason(), bad.message()),
                None => Self::bad("request_incomplete", message),
            },
        }
    }
}

impl From<&ReadError> for Refusal {
    fn from(error: &ReadError) -> Self {
        match error {
            ReadError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", error.to_string()).param("body")
            }
            ReadError::Gone(error) => Self::from(error),
        }
    }
}

/// Why the rest of a request's body can't be had: its framing is broken, or the client went away.
impl From<&hyper::Error> for Refusal {
    fn from(error: &hyper::Error) -> Self {
        match bad(error) {
            Some(bad) => Self::bad(bad.reason(), bad.message()),
            None => Self::bad("request_incomplete", "the client went away within its request"),
        }
    }
}

/// What the check of the connection's bytes found, where that is at the bottom of the error.
fn bad(error: &(dyn std::error::Error + 'static)) -> Option<Bad> {
    let errors = std::iter::successors(Some(error), |error| error.source());
    // An `io::Error` gives its inner error's source for its own, never that error itself.
    let mut inner = errors.filter_map(|error| error.downcast_ref::<io::Error>()?.get_ref());
    inner.find_map(|inner| {
        let inner: &(dyn std::error::Error + 'static) = inner;
        inner.downcast_ref::<Bad>().copied().or_else(|| bad(inner))
    })
}
