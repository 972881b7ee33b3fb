//! Bodies arrive whole however they are cut.

use super::*;
use proptest::prelude::*;

/// The data, the number of pieces that it came in, what was left, and whether the end was reached.
type Fed = (Vec<u8>, usize, Vec<u8>, bool);

/// Feeds the pieces one after another.
fn feed(mut decoder: Decoder, pieces: &[&[u8]]) -> Result<Fed, &'static str> {
    let (mut buffer, mut data, mut count) = (BytesMut::new(), Vec::new(), 0);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Decoded::Data(bytes) = decoder.decode(&mut buffer)? {
            assert!(!bytes.is_empty());
            data.extend_from_slice(&bytes);
            count += 1;
        }
    }
    Ok((data, count, buffer.to_vec(), decoder.is_done()))
}

#[test]
fn chunks_that_arrived_together_leave_together() {
    let body = b"5\r\nhello\r\n1;x=y\r\n \r\n5\r\nworld\r\n0\r\nT: v\r\n\r\nNEXT";
    let (data, count, left, done) = feed(Decoder::chunked(), &[body]).unwrap();
    assert_eq!((data.as_slice(), count, left.as_slice(), done), (&b"hello world"[..], 1, &b"NEXT"[..], true));
}

#[test]
fn lengths_end_where_they_say() {
    let (data, _, left, done) = feed(Decoder::length(5), &[b"he", b"lloNEXT"]).unwrap();
    assert_eq!((data.as_slice(), left.as_slice(), done), (&b"hello"[..], &b"NEXT"[..], true));
    assert!(Decoder::length(0).is_done());
    let (data, _, _, done) = feed(Decoder::until_close(), &[b"he", b"llo"]).unwrap();
    assert_eq!((data.as_slice(), done), (&b"hello"[..], false));
}

#[test]
fn broken_framing_is_refused() {
    for body in [
        &b"x\r\n"[..],
        b"\r\n\r\n",
        b"5\nhello",
        b"5\r\nhelloworld",
        b"fffffffffffff\r\n",
        b"0\r\nT: v\n\r\n",
        &[b'1'; MAX_LINE + 2],
    ] {
        assert!(feed(Decoder::chunked(), &[body]).is_err(), "{:?}", String::from_utf8_lossy(body));
    }
}

proptest! {
    #[test]
    fn cuts_change_nothing(sizes in prop::collection::vec(1usize..50, 0..8), cuts in prop::collection::vec(1usize..60, 0..12)) {
        let (mut body, mut expected) = (Vec::new(), Vec::new());
        for (i, size) in sizes.iter().enumerate() {
            let data = vec![b'a' + (i as u8); *size];
            body.extend_from_slice(format!("{size:x}\r\n").as_bytes());
            body.extend_from_slice(&data);
            body.extend_from_slice(b"\r\n");
            expected.extend_from_slice(&data);
        }
        body.extend_from_slice(b"0\r\n\r\n");
        let mut pieces = Vec::new();
        let mut rest = body.as_slice();
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        let (data, _, left, done) = feed(Decoder::chunked(), &pieces).unwrap();
        prop_assert_eq!(data, expected);
        prop_assert!(done && left.is_empty());
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = feed(Decoder::chunked(), &[&bytes]);
    }
}
