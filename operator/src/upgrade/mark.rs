//! Which image a pod was given. Whoever admits pods may rewrite images (a tag to its digest, a registry to a mirror), so
//! the image that a pod shows does not tell; a label of ours does.

/// The label of the pods that bring an image to a node: which one, as [`mark`] of it.
pub(super) const PRE_PULL: &str = "outrigger.dev/pre-pull";
/// The label of a pod whose sidecar was swapped: which image it was given, as [`mark`] of it. Not of pods as they are
/// made: an image that somebody edits by hand is put right in those, and here it is not.
pub(super) const GIVEN: &str = "outrigger.dev/sidecar-given";

/// An image as a label's value, which can't hold its name.
pub fn mark(image: &str) -> String {
    format!("{:016x}", hash(image))
}

/// FNV-1a: tells long names with one beginning apart.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
