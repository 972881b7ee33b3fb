//! The event that ends an event stream which broke.

use crate::upstream::Error;
use bytes::Bytes;
use outrigger_decide::protocol::Protocol;

/// Makes the error event of a broken event stream, in the shape of the protocol that was asked.
#[derive(Clone, Copy, Debug)]
pub struct ErrorEvent {
    protocol: Protocol,
    /// The last two bytes sent: whether the stream stands between two events.
    tail: [u8; 2],
}

impl ErrorEvent {
    /// For this protocol.
    pub fn of(protocol: Protocol) -> Self {
        // A stream that has not begun stands between events.
        Self { protocol, tail: *b"\n\n" }
    }

    pub(super) fn saw(&mut self, data: &[u8]) {
        match data {
            [.., a, b] => self.tail = [*a, *b],
            [b] => self.tail = [self.tail[1], *b],
            [] => {}
        }
    }

    /// The event, or `None` where the response is no event stream.
    pub(super) fn event(&self, is_event_stream: bool, error: &Error) -> Option<Bytes> {
        if !is_event_stream {
            return None;
        }
        // A blank line ends the event that broke off; what it held can't be unsent.
        let before = if self.tail == *b"\n\n" { "" } else { "\n\n" };
        let refusal = crate::refuse::Refusal::from(error);
        let json = self.protocol.error(refusal.status.as_u16(), refusal.reason, &refusal.message, None);
        Some(Bytes::from(format!("{before}data: {json}\n\n")))
    }
}
