//! Reading a request's body whole, within a bound.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It has more bytes than are allowed: 413.
    #[error("the body is larger than the {allowed} bytes that are allowed")]
    TooLarge {
        /// The bound, in bytes.
        allowed: usize,
    },
    /// The client went away or stopped sending: nobody to answer.
    #[error("the client went away within its request: {0}")]
    Gone(#[source] hyper::Error),
}

/// Reads the body, at most `allowed` bytes of it. A body in one piece is not copied.
pub async fn read_request(mut body: Incoming, allowed: usize) -> Result<Bytes, ReadError> {
    // What is announced as too large is refused before any of it is read.
    if body.size_hint().lower() > allowed as u64 {
        return Err(ReadError::TooLarge { allowed });
    }
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ReadError::Gone)?.into_data() else { continue };
        if first.len() + all.len() + data.len() > allowed {
            return Err(ReadError::TooLarge { allowed });
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
