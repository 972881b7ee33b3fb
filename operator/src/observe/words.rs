//! Making other programs' messages fit to be read: one line, no control characters, no more than a sentence.

/// The longest piece of a foreign message, in characters.
const LONGEST: usize = 240;

/// On one line, without control characters and doubled spaces.
pub(super) fn plain(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    words.join(" ")
}

/// Cut at the longest length, without the full stop at its end.
pub(super) fn sentence(text: &str) -> String {
    let text = text.trim().trim_end_matches('.');
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default().trim_end()),
        None => text.to_owned(),
    }
}

/// `1 node`, `2 nodes`.
pub(super) fn counted(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
