//! What can go wrong upstream, cut by what a caller may do next.

use std::io;

/// Why nothing of a request was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NeverSent {
    /// The connection was refused: nothing listens there.
    Refused,
    /// No connection within `timeouts.connect`.
    ConnectTimeout,
    /// The address could not be resolved or reached.
    Unreachable,
    /// A connection was made and broke before the first byte of the request was written.
    ClosedBeforeWrite,
}

impl NeverSent {
    /// One word, as in `x-outrigger-reason`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Refused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Unreachable => "connect_failed",
            Self::ClosedBeforeWrite => "closed_before_write",
        }
    }
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Not one byte of the request was written: it may be sent elsewhere, whatever it asks for.
    NeverSent(NeverSent),
    /// The connection broke after something of the request was written and before any byte of a response.
    BrokeBeforeFirstByte,
    /// The connection broke within the response.
    BrokeMidStream,
    /// Upstream sent what is not HTTP, or more than is allowed.
    BadResponse,
    /// No byte of a response within `timeouts.first_byte`.
    FirstByteTimeout,
    /// No byte within `timeouts.idle` of the one before.
    IdleTimeout,
    /// Not done within `timeouts.total`.
    TotalTimeout,
    /// The request's body exceeded its bound while it was streamed.
    RequestBodyTooLarge,
    /// What looked at the request's body while it was streamed refused it.
    RequestBodyRefused,
    /// The request's body ended early: the client is gone.
    ClientGone,
}

/// An error with its cause and, where there is one, the system's own words.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    cause: Cause,
    #[source]
    source: Option<io::Error>,
}

impl Error {
    /// An error.
    pub fn new(cause: Cause, source: Option<io::Error>) -> Self {
        Self { cause, source }
    }

    /// What went wrong.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Whether nothing was written.
    pub fn never_sent(&self) -> bool {
        matches!(self.cause, Cause::NeverSent(_))
    }

    /// The same error once more, for hooks and connection alike; the system's words are kept.
    pub(crate) fn copy(&self) -> Self {
        let source = self.source.as_ref().map(|e| io::Error::new(e.kind(), e.to_string()));
        Self { cause: self.cause, source }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.cause {
            Cause::NeverSent(NeverSent::Refused) => "upstream refused the connection",
            Cause::NeverSent(NeverSent::ConnectTimeout) => "upstream could not be connected to in time",
            Cause::NeverSent(NeverSent::Unreachable) => "upstream could not be reached",
            Cause::NeverSent(NeverSent::ClosedBeforeWrite) => {
                "upstream closed the connection before the request"
            }
            Cause::BrokeBeforeFirstByte => "upstream closed the connection before it answered",
            Cause::BrokeMidStream => "upstream closed the connection within its answer",
            Cause::BadResponse => "upstream's answer is not valid HTTP, or is too large",
            Cause::FirstByteTimeout => "upstream did not begin to answer in time",
            Cause::IdleTimeout => "upstream stopped within its answer",
            Cause::TotalTimeout => "upstream did not finish in time",
            Cause::RequestBodyTooLarge => "the request's body is larger than is allowed",
            Cause::RequestBodyRefused => "the request's body is not what it began as",
            Cause::ClientGone => "the client went away within its request",
        })?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}
