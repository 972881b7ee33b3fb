//! Where things stand in a JSON text: a scanner that gives places, not values.
//!
//! [`validate`] is the only strict part; all others expect a text that has passed it, and still never panic and
//! never recurse on one that has not.

use std::ops::Range;

/// How deep a body that is merged may be nested. Tensors have a handful of dimensions; a Python engine gives up
/// at about a thousand, and then not only for the one who sent it.
pub const MAX_DEPTH: usize = 32;

/// Whether the whole of it is one JSON value in UTF-8. Bounded in memory and iterative, however deep it is nested.
pub fn validate(text: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(text).is_ok()
}

/// A field of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name, without quotes.
    pub name: Range<usize>,
    /// Its value.
    pub value: Range<usize>,
}

/// The fields of the object at `at`, in order. `None`: it is not an object, or a name is escaped or occurs twice
/// (readers differ in what they make of those), or it is nested too deep.
pub fn fields(text: &[u8], at: usize) -> Option<(Vec<Field>, usize)> {
    let mut pos = expect(text, at, b'{')?;
    let mut found: Vec<Field> = Vec::with_capacity(4);
    pos = blank(text, pos);
    if text.get(pos) == Some(&b'}') {
        return Some((found, pos + 1));
    }
    loop {
        pos = blank(text, pos);
        let end = string_end(text, pos)?;
        let name = pos + 1..end - 1;
        let bytes = text.get(name.clone())?;
        if bytes.contains(&b'\\') || found.iter().any(|f| text.get(f.name.clone()) == Some(bytes)) {
            return None;
        }
        pos = expect(text, end, b':')?;
        let start = blank(text, pos);
        let end = value_end(text, start)?;
        found.push(Field { name, value: start..end });
        pos = blank(text, end);
        match text.get(pos)? {
            b',' => pos += 1,
            b'}' => return Some((found, pos + 1)),
            _ => return None,
        }
    }
}

/// The value of the field of this name.
pub fn get<'a>(text: &[u8], fields: &'a [Field], name: &str) -> Option<&'a Range<usize>> {
    fields
        .iter()
        .find(|field| text.get(field.name.clone()) == Some(name.as_bytes()))
        .map(|field| &field.value)
}

/// Where each element of the array at `at` stands. `None`: it is not an array, or it is nested too deep.
pub fn elements(text: &[u8], at: usize) -> Option<Vec<Range<usize>>> {
    let mut pos = blank(text, expect(text, at, b'[')?);
    let mut found = Vec::new();
    if text.get(pos) == Some(&b']') {
        return Some(found);
    }
    loop {
        pos = blank(text, pos);
        let end = value_end(text, pos)?;
        found.push(pos..end);
        pos = blank(text, end);
        match text.get(pos)? {
            b',' => pos += 1,
            b']' => return Some(found),
            _ => return None,
        }
    }
}

/// Where the value that starts at `start` ends. `None`: the text ends before it, or it is nested too deep.
pub fn value_end(text: &[u8], start: usize) -> Option<usize> {
    let mut pos = start;
    let mut depth = 0usize;
    loop {
        match text.get(pos)? {
            b'"' => pos = string_end(text, pos)?,
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return None;
                }
                pos += 1;
                continue;
            }
            b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                pos += 1;
            }
            b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' if depth > 0 => {
                pos += 1;
                continue;
            }
            b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' => return None,
            _ => pos = scalar_end(text, pos),
        }
        if depth == 0 {
            return Some(pos);
        }
    }
}

/// The number of an array's shape or the like: digits only.
pub fn count(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The first place from `pos` that is not white space.
pub fn blank(text: &[u8], mut pos: usize) -> usize {
    while matches!(text.get(pos), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        pos += 1;
    }
    pos
}

fn expect(text: &[u8], pos: usize, byte: u8) -> Option<usize> {
    let pos = blank(text, pos);
    (text.get(pos) == Some(&byte)).then_some(pos + 1)
}

/// Past the closing quote of the string that starts at `start`.
fn string_end(text: &[u8], start: usize) -> Option<usize> {
    if text.get(start) != Some(&b'"') {
        return None;
    }
    let mut pos = start + 1;
    loop {
        pos += memchr::memchr2(b'"', b'\\', text.get(pos..)?)?;
        if text.get(pos) == Some(&b'"') {
            return Some(pos + 1);
        }
        pos += 2;
    }
}

fn scalar_end(text: &[u8], mut pos: usize) -> usize {
    while let Some(byte) = text.get(pos) {
        if matches!(byte, b',' | b']' | b'}' | b':' | b' ' | b'\t' | b'\n' | b'\r' | b'"' | b'[' | b'{') {
            break;
        }
        pos += 1;
    }
    pos
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(text: &str, ranges: Vec<Range<usize>>) -> Vec<&str> {
        ranges.into_iter().map(|range| text.get(range).unwrap()).collect()
    }

    #[test]
    fn finds_fields_and_elements() {
        let text = r#" { "a" : [1, "x,]\"" , {"b":[2]}, null ] ,"c":-1e9}"#;
        let (fields, end) = fields(text.as_bytes(), 0).unwrap();
        assert_eq!(end, text.len());
        let a = get(text.as_bytes(), &fields, "a").unwrap().clone();
        let found = elements(text.as_bytes(), a.start).unwrap();
        assert_eq!(texts(text, found), ["1", r#""x,]\"""#, r#"{"b":[2]}"#, "null"]);
        assert_eq!(text.get(get(text.as_bytes(), &fields, "c").unwrap().clone()), Some("-1e9"));
        assert_eq!(get(text.as_bytes(), &fields, "b"), None);
    }

    #[test]
    fn doubtful_objects_are_none() {
        for text in
            [r#"{"a":1,"a":2}"#, r#"{"\u0061":1}"#, "[]", "", "{", r#"{"a"}"#, r#"{"a":1"#, r#"{"a":"#]
        {
            assert_eq!(fields(text.as_bytes(), 0), None, "{text}");
        }
    }

    /// proves B.10
    #[test]
    fn depth_is_bounded_without_recursion() {
        let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(validate(deep.as_bytes()), "it is JSON");
        assert_eq!(elements(deep.as_bytes(), 0), None, "but it is not merged");
        let unclosed = "[{\"a\":".repeat(100_000);
        assert!(!validate(unclosed.as_bytes()));
        assert_eq!(value_end(unclosed.as_bytes(), 0), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>, at in 0usize..64) {
            let _ = (fields(&text, at), elements(&text, at), value_end(&text, at), validate(&text));
        }

        #[test]
        fn near_json_is_survived(text in "[\\[\\]{}\",:\\\\ a1]{0,64}") {
            let text = text.as_bytes();
            if validate(text) && let Some(found) = elements(text, 0) {
                let values: Vec<serde_json::Value> = serde_json::from_slice(text).unwrap();
                prop_assert_eq!(values.len(), found.len());
                for (value, range) in values.iter().zip(found) {
                    prop_assert_eq!(value, &serde_json::from_slice::<serde_json::Value>(&text[range]).unwrap());
                }
            }
        }
    }
}
