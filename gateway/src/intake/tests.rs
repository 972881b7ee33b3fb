//! How bodies are kept, and how long they may take.

use super::*;

fn pieces(sizes: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let mut pieces = Pieces::default();
    sizes.into_iter().for_each(|size| pieces.push(vec![b'x'; size].into()));
    pieces.finish().iter().map(Bytes::len).collect()
}

#[test]
fn a_body_of_crumbs_is_kept_in_few_pieces() {
    assert_eq!(pieces([]), Vec::<usize>::new());
    assert_eq!(pieces([5]), [5]);
    assert_eq!(pieces([5, 6, 7]), [5, 13]);
    // One byte at a time: a handful of blocks rather than a million pieces.
    assert_eq!(pieces((0..4 * BLOCK + 1).map(|_| 1)), [1, BLOCK, BLOCK, BLOCK, BLOCK]);
    // What is large already isn't copied once more.
    assert_eq!(pieces([1, BLOCK, BLOCK + 7, 2]), [1, BLOCK, BLOCK + 7, 2]);
}

#[test]
fn the_order_of_bytes_is_kept() {
    let mut pieces = Pieces::default();
    let whole: Vec<u8> = (0..3 * BLOCK).map(|i| (i % 251) as u8).collect();
    for piece in whole.chunks(16_381) {
        pieces.push(Bytes::copy_from_slice(piece));
    }
    assert_eq!(pieces.finish().concat(), whole);
}

#[test]
fn only_what_came_adds_time() {
    let patience = Duration::from_secs(30);
    assert_eq!(allowance(0, patience), patience);
    assert_eq!(allowance(RATE - 1, patience), patience);
    assert_eq!(allowance(1 << 20, patience), patience + Duration::from_secs(64));
}

#[test]
fn the_first_bodies_without_room_are_told_why() {
    let limits = Limits {
        max_body: 1 << 30,
        max_buffered: 1000,
        max_sought: 1 << 20,
        patience: Duration::ZERO,
        max_connections: 1,
        max_in_flight: 1,
    };
    for (why, length, sought, status, reason) in [
        (NoRoom::Connection, 501, true, 413, "model_too_late"),
        (NoRoom::Connection, 501, false, 413, "body_too_large"),
        (NoRoom::Connection, 500, true, 429, "buffers_full"),
        (NoRoom::Thread, 501, true, 429, "buffers_full"),
    ] {
        let refusal = no_room(why, length, sought, &limits);
        assert_eq!((refusal.status.as_u16(), refusal.reason), (status, reason), "{why:?} {length} {sought}");
    }
}
