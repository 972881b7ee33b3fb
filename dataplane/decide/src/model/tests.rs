//! The scanner against a full parser, and what hostile bodies get.

use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn scan(body: &[u8], piece: usize) -> Result<Model, Fault> {
    let mut scanner = Scanner::new();
    body.chunks(piece.max(1)).try_for_each(|chunk| scanner.feed(chunk))?;
    scanner.finish()
}

/// The same answer however the body is cut.
fn check(body: &str) -> Result<String, Fault> {
    let whole = scan(body.as_bytes(), usize::MAX);
    for piece in [1, 2, 3, 7] {
        assert_eq!(scan(body.as_bytes(), piece), whole, "{body} in pieces of {piece}");
    }
    if let Ok(model) = &whole {
        let text = body.get(model.at.start as usize..model.at.end as usize).unwrap();
        assert_eq!(serde_json::from_str::<String>(text).unwrap(), model.name);
    }
    whole.map(|model| model.name)
}

#[test]
fn a_name_is_found_wherever_it_stands() {
    for body in [
        r#"{"model":"m"}"#,
        " \r\n\t{ \"model\" : \"m\" , \"n\" : 1 } \n",
        r#"{"messages":[{"role":"user","content":"say \"model\": \"no\" }]"}],"model":"m"}"#,
        r#"{"a":{"model":"inner","b":[{"model":"deeper"}]},"model":"m","z":[]}"#,
        r#"{"t":-1.5e+3,"b":true,"n":null,"model":"m"}"#,
        r#"{"\u006d\u006F\u0064\u0065\u006c":"m"}"#,
        r#"{"model":"\u006d"}"#,
        r#"{"":"","\\":"\\","model":"m","models":"no"}"#,
        r#"{"a":"\\","model":"m","b":"\\\""}"#,
    ] {
        assert_eq!(check(body).as_deref(), Ok("m"), "{body}");
    }
    assert_eq!(check(r#"{"model":"a/b \"c\" \ud83d\ude80é"}"#).as_deref(), Ok("a/b \"c\" 🚀é"));
}

#[test]
fn hostile_bodies_are_refused_by_name() {
    for (body, fault) in [
        ("", Fault::Truncated),
        ("{", Fault::Truncated),
        (r#"{"model":"m""#, Fault::Truncated),
        (r#"{"model":"m"#, Fault::Truncated),
        (r#"{"a":[1,2"#, Fault::Truncated),
        ("[]", Fault::Malformed(0)),
        ("\u{feff}{}", Fault::Malformed(0)),
        (r#"{"model":"m"}}"#, Fault::Malformed(13)),
        (r#"{"model":"m"} x"#, Fault::Malformed(14)),
        (r#"{"model" "m"}"#, Fault::Malformed(9)),
        (r#"{"model":"m",}"#, Fault::Malformed(13)),
        (r#"{,"model":"m"}"#, Fault::Malformed(1)),
        (r#"{"a":1 2,"model":"m"}"#, Fault::Malformed(7)),
        (r#"{"a":[},"model":"m"}"#, Fault::Malformed(6)),
        (r#"{"a":{]}"#, Fault::Malformed(6)),
        (r#"{'model':'m'}"#, Fault::Malformed(1)),
        ("{}", Fault::Missing),
        (r#"{"Model":"m"}"#, Fault::Missing),
        (r#"{"model":null}"#, Fault::NotAString),
        (r#"{"model":["m"]}"#, Fault::NotAString),
        (r#"{"model":7}"#, Fault::NotAString),
        (r#"{"model":""}"#, Fault::NotText),
        (r#"{"model":"\ud83d"}"#, Fault::NotText),
        (r#"{"model":"\x"}"#, Fault::NotText),
        ("{\"model\":\"a\nb\"}", Fault::NotText),
        (r#"{"model":"a","model":"b"}"#, Fault::Duplicate),
        (r#"{"model":"a","mod\u0065l":"a"}"#, Fault::Duplicate),
        (r#"{"\u006dodel":"a","x":{},"model":1}"#, Fault::Duplicate),
    ] {
        assert_eq!(check(body), Err(fault), "{body}");
    }
    assert_eq!(scan(b"{\"model\":\"\xff\"}", 1), Err(Fault::NotText));
}

#[test]
fn names_and_depth_are_bounded() {
    let named = |n: usize| format!(r#"{{"model":"{}"}}"#, "m".repeat(n));
    assert_eq!(check(&named(MAX_NAME)).map(|name| name.len()), Ok(MAX_NAME));
    assert_eq!(check(&named(MAX_NAME + 1)), Err(Fault::TooLong));
    let nested = |n: usize| format!(r#"{{"a":{}{},"model":"m"}}"#, "[".repeat(n), "]".repeat(n));
    assert_eq!(check(&nested(MAX_DEPTH as usize)).as_deref(), Ok("m"));
    assert_eq!(check(&nested(MAX_DEPTH as usize + 1)), Err(Fault::TooDeep));
    let key = format!(r#"{{"{}":1,"model":"m"}}"#, "k".repeat(100_000));
    let mut scanner = Scanner::new();
    scanner.feed(key.as_bytes()).unwrap();
    assert!(scanner.text.capacity() <= MAX_NAME, "a long key is not kept");
}

/// A mebibyte of brackets costs no stack.
#[test]
fn a_mebibyte_of_nesting_is_refused() {
    let body = format!("{{\"a\":{}", "[".repeat(1 << 20));
    assert_eq!(scan(body.as_bytes(), 65_536), Err(Fault::TooDeep));
}

#[test]
fn the_name_is_known_before_the_rest_has_come() {
    let mut scanner = Scanner::new();
    scanner.feed(br#"{"model":"m","messages":["#).unwrap();
    assert_eq!(scanner.model().map(|model| model.name.as_str()), Some("m"));
    assert_eq!(scanner.feed(br#"],"model":"#), Err(Fault::Duplicate));
}

fn json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![Just("model".to_owned()), ".{0,6}", "[\"\\\\{}:,\\[\\]]{0,6}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(text.clone(), inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// The body as text, the escapes of the parser's own choosing.
fn object(before: &[(String, Value)], model: Option<&Value>, after: &[(String, Value)]) -> String {
    let named = model.map(|value| ("model".to_owned(), value.clone()));
    let fields = before.iter().chain(named.iter()).chain(after);
    let fields: Vec<String> =
        fields.map(|(key, value)| format!("{}: {value}", Value::from(key.as_str()))).collect();
    format!("{{{}}}", fields.join(" ,"))
}

proptest! {
    #[test]
    fn agrees_with_a_parser(
        before in prop::collection::vec(("[a-z\"\\\\]{0,5}", json()), 0..4),
        model in prop::option::of(json()),
        after in prop::collection::vec(("[a-z\"\\\\]{0,5}", json()), 0..4),
        piece in 1usize..40,
    ) {
        prop_assume!(before.iter().chain(&after).all(|(key, _)| key != "model"));
        let body = object(&before, model.as_ref(), &after);
        let parsed: Value = serde_json::from_str(&body).unwrap();
        let found = scan(body.as_bytes(), piece);
        match parsed.get("model") {
            None => prop_assert_eq!(found, Err(Fault::Missing)),
            Some(Value::String(name)) if name.is_empty() => prop_assert_eq!(found, Err(Fault::NotText)),
            Some(Value::String(name)) => prop_assert_eq!(found.map(|model| model.name), Ok(name.clone())),
            Some(_) => prop_assert_eq!(found, Err(Fault::NotAString)),
        }
    }

    #[test]
    fn any_bytes_are_survived(body: Vec<u8>, piece in 1usize..9) {
        let whole = scan(&body, usize::MAX);
        prop_assert_eq!(scan(&body, piece), whole);
    }

    #[test]
    fn json_like_bytes_are_survived(body in "[{}\\[\\]\",:a\\\\ 1]{0,40}", piece in 1usize..9) {
        let whole = scan(body.as_bytes(), usize::MAX);
        prop_assert_eq!(scan(body.as_bytes(), piece), whole.clone());
        // Where a parser reads a model, so does the scanner, and the same one.
        if let (Ok(Value::Object(map)), Ok(model)) = (serde_json::from_str(&body), whole) {
            prop_assert_eq!(map.get("model"), Some(&Value::from(model.name)));
        }
    }

    #[test]
    fn splicing_changes_the_name_alone(
        before in prop::collection::vec(("[a-z]{0,3}", json()), 0..3),
        name in ".{1,8}",
        after in prop::collection::vec(("[a-z]{0,3}", json()), 0..3),
        new in ".{1,8}",
        piece in 1usize..20,
    ) {
        let body = object(&before, Some(&Value::from(name)), &after);
        let model = scan(body.as_bytes(), usize::MAX).unwrap();
        let pieces: Vec<Bytes> = body.as_bytes().chunks(piece).map(Bytes::copy_from_slice).collect();
        let (out, grown) = splice(pieces, &model.at, &new);
        let out: Vec<u8> = out.concat();
        prop_assert_eq!(out.len() as i64, body.len() as i64 + grown);
        prop_assert_eq!(String::from_utf8(out).unwrap(), object(&before, Some(&Value::from(new)), &after));
    }
}
