//! Newline-delimited JSON: as a body that is sent, and cut out of one that is received.

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// The longest line that is read, in bytes: a deployment with a thousand endpoints has about 100 KiB.
const LONGEST_LINE: usize = 4 << 20;

/// A body that ends when its sender is dropped.
#[derive(Debug)]
pub(crate) struct LineBody(pub(crate) mpsc::Receiver<Bytes>);

impl Body for LineBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().0.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// Cuts a received body into lines.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    rest: BytesMut,
    /// Bytes of `rest` that are known to hold no end of a line.
    searched: usize,
}

impl Cutter {
    /// Takes in a piece; `Err` when a line has become too long.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), String> {
        if self.rest.len() + piece.len() > LONGEST_LINE {
            return Err(format!("a line is longer than {LONGEST_LINE} bytes"));
        }
        self.rest.extend_from_slice(piece);
        Ok(())
    }

    /// The next whole line, without its end.
    pub(crate) fn next_line(&mut self) -> Option<Bytes> {
        let found = self.rest.iter().skip(self.searched).position(|byte| *byte == b'\n');
        let Some(end) = found.map(|at| at + self.searched) else {
            self.searched = self.rest.len();
            return None;
        };
        self.searched = 0;
        let mut line = self.rest.split_to(end + 1);
        line.truncate(end);
        Some(line.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_pieces_end() {
        let mut cutter = Cutter::default();
        let mut lines = Vec::new();
        for piece in ["{\"a\"", ":1}\n{", "}\n\n", "tail"] {
            cutter.push(piece.as_bytes()).unwrap();
            lines.extend(std::iter::from_fn(|| cutter.next_line()));
        }
        assert_eq!(lines, ["{\"a\":1}", "{}", ""]);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut cutter = Cutter::default();
        let piece = vec![b'x'; 1 << 20];
        assert!((0..8).any(|_| cutter.push(&piece).is_err()));
    }
}
