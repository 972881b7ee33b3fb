//! What serde says, in the words of someone who writes YAML.

use crate::Mistake;

/// A refusal by `serde_yaml` itself.
pub(super) fn syntax(error: &serde_yaml::Error) -> Mistake {
    let line = error.location().map(|at| at.line() as u32);
    Mistake { path: String::new(), line, message: format!("this is not valid YAML: {error}") }
}

/// The field of a "missing field" message.
pub(super) fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.split('`').next()
}

/// Said of a field that must be there.
pub(super) fn missing() -> &'static str {
    "this field is required and missing"
}

/// Said of a value that was refused.
pub(super) fn refused(message: &str) -> String {
    if let Some((found, wanted)) = split(message, "invalid type: ") {
        let plain = ["integer", "boolean", "floating"].iter().any(|kind| found.starts_with(kind));
        let hint = match wanted {
            "a string" if plain => "; put it in quotes if it is meant as text",
            _ => "",
        };
        return format!("found {}, expected {}{hint}", found_words(found), expected(wanted));
    }
    if let Some((found, wanted)) = split(message, "invalid value: ") {
        return format!("{} is not allowed; expected {}", value_alone(found), expected(wanted));
    }
    if let Some((found, wanted)) = split(message, "unknown variant ") {
        let allowed = wanted.strip_prefix("one of ").unwrap_or(wanted).replace('`', "");
        let close = closest(found.trim_matches('`'), allowed.split(", ").flat_map(|w| w.split(" or ")));
        return match close {
            Some(close) => format!("{found} is not known, did you mean `{close}`? Allowed: {allowed}"),
            None => format!("{found} is not known; allowed: {allowed}"),
        };
    }
    message.to_owned()
}

/// Said of a field that the type does not have.
pub(super) fn unknown_field(name: &str, known: &[&'static str]) -> String {
    match closest(name, known.iter().copied()) {
        Some(close) => format!("unknown field `{name}`, did you mean `{close}`?"),
        None if known.is_empty() => format!("unknown field `{name}`"),
        None => format!("unknown field `{name}`; known here: {}", known.join(", ")),
    }
}

/// `invalid type: FOUND, expected WANTED`.
fn split<'a>(message: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    message.strip_prefix(prefix)?.split_once(", expected ")
}

fn found_words(found: &str) -> String {
    match found {
        "sequence" => "a list".to_owned(),
        "map" => "a mapping".to_owned(),
        "unit value" | "unit" | "Option value" => "nothing".to_owned(),
        other => match other.strip_prefix("string ") {
            Some(text) => format!("the text {}", shortened(text)),
            None => format!("the {}", other.replace("floating point", "number")),
        },
    }
}

/// ``integer `300` `` is `300`.
fn value_alone(found: &str) -> String {
    match found.split_once(' ') {
        Some((_, value)) => shortened(value),
        None => found.to_owned(),
    }
}

/// A value may be as long as the file.
fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    let head: String = text.chars().take(MOST).collect();
    format!("{head}…")
}

fn expected(wanted: &str) -> String {
    let words = match wanted {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a mapping",
        "a Value::Tagged enum" => "one of the words that are allowed here",
        other => match other.strip_prefix("struct ") {
            Some(_) => "a mapping of fields",
            None => other,
        },
    };
    words.to_owned()
}

/// The known name that was probably meant: at most a third of it differs.
fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > 64 {
        return None;
    }
    known
        .map(|candidate| (distance(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}
