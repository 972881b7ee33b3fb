//! Files that people, editors and attackers write.

use super::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct Sample {
    name: String,
    max_size: u8,
    wait: crate::Period,
    kind: crate::EngineKind,
    inner: Option<Inner>,
    list: Vec<Inner>,
    env: BTreeMap<String, String>,
    any: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Inner {
    weight: u8,
    #[serde(default)]
    hold: crate::Period,
}

/// All mistakes, one a line.
fn mistakes(text: &str) -> String {
    let found = read::<Sample>(text).expect_err("mistakes are expected");
    found.iter().fold(String::new(), |mut all, m| {
        writeln!(all, "{m}").unwrap();
        all
    })
}

#[track_caller]
fn says(text: &str, expected: &str) {
    assert_eq!(mistakes(text).trim_end(), expected);
}

#[test]
fn a_good_file_is_read() {
    let text =
        "name: x\nmaxSize: 3\nwait: 5s\nkind: vLLM\ninner: {weight: 1}\nlist:\n- weight: 2\n  hold: 1m\n";
    let document = read::<Sample>(text).unwrap();
    assert_eq!(document.value.max_size, 3);
    assert_eq!(document.value.list[0].hold, crate::Period::secs(60));
    assert_eq!(read::<Sample>("\u{feff}{\"name\": \"x\",\n\t\"maxSize\": 3}").unwrap().value.max_size, 3);
}

#[test]
fn later_mistakes_get_their_line() {
    let document =
        read::<Sample>("name: x\nlist:\n- weight: 2\n- weight: 1\n  hold: 5s\nenv:\n  a.b: c\n").unwrap();
    let located = document.locate(vec![
        Mistake::new("env[a.b]", "key"),
        Mistake::new("list[1].hold", "second"),
        Mistake::new("list[1].maxHold", "absent: the line of what it would stand in"),
        Mistake::new("list[0].weight", "first"),
        Mistake::new("", "whole"),
    ]);
    let lines: Vec<_> = located.iter().map(|m| (m.line, m.path.as_str())).collect();
    assert_eq!(
        lines,
        [
            (Some(1), ""),
            (Some(3), "list[0].weight"),
            (Some(4), "list[1].maxHold"),
            (Some(5), "list[1].hold"),
            (Some(7), "env[a.b]"),
        ]
    );
}

#[test]
fn every_wrong_value_is_named_at_once() {
    says(
        "name: 5\nmaxSize: 300\nwait: 5 minutes\nkind: vllm\ninner: {weight: {}}\nlist:\n- weight: 1\n- {}\n- weight: x\n- weight: 2\n  hold: -1s\nenv: {DEBUG: true}\n",
        "name (line 1): found the integer `5`, expected a string; put it in quotes if it is meant as text\n\
         maxSize (line 2): `300` is not allowed; expected a whole number from 0 to 255\n\
         wait (line 3): `5 minutes` is not a duration: write a whole number and ms, s, m or h, such as 500ms or 15m\n\
         kind (line 4): `vllm` is not known, did you mean `vLLM`? Allowed: vLLM, MLServer, Custom\n\
         inner.weight (line 5): found a mapping, expected a whole number from 0 to 255\n\
         list[1].weight (line 8): this field is required and missing\n\
         list[2].weight (line 9): found the text \"x\", expected a whole number from 0 to 255\n\
         list[3].hold (line 11): `-1s` is not a duration: write a whole number and ms, s, m or h, such as 500ms or 15m\n\
         env.DEBUG (line 12): found the boolean `true`, expected a string; put it in quotes if it is meant as text",
    );
}

#[test]
fn every_unknown_field_is_named_at_once() {
    says(
        "nme: x\nmaxsize: 3\nlist:\n- weigth: 1\n  weight: 1\n- weight: 2\n  colour: red\ninner: {weight: x, holdd: 1s}\n",
        "nme (line 1): unknown field `nme`, did you mean `name`?\n\
         maxsize (line 2): unknown field `maxsize`, did you mean `maxSize`?\n\
         list[0].weigth (line 4): unknown field `weigth`, did you mean `weight`?\n\
         list[1].colour (line 7): unknown field `colour`; known here: weight, hold\n\
         inner.weight (line 8): found the text \"x\", expected a whole number from 0 to 255\n\
         inner.holdd (line 8): unknown field `holdd`, did you mean `hold`?",
    );
}

#[test]
fn duplicate_keys_are_named_at_once() {
    says(
        "name: x\nname: y\nlist:\n- weight: 1\n  weight: 2\n",
        "name (line 2): this key stands here a second time; expected: each key once\n\
         list[0].weight (line 5): this key stands here a second time; expected: each key once",
    );
}

#[test]
fn what_is_no_document_is_said_so() {
    for (text, expected) in [
        ("", "the file is empty; expected: a YAML document"),
        ("# nothing\n\n", "the file is empty; expected: a YAML document"),
        ("---\n", "the file is empty; expected: a YAML document"),
        ("just words", "line 1: found the text \"just words\", expected a mapping of fields"),
        (
            "fn main() {\n    println!(\"hello\");\n}\n",
            "line 1: found the text \"fn main() { println!(\\\"hello\\\"); }\", expected a mapping of fields",
        ),
        ("# a list\n- a\n- b\n", "line 2: found a list, expected a mapping of fields"),
        ("name: x\n---\nname: y\n", "line 2: a second document begins here; expected: one document per file"),
        (
            "name: \u{0}x",
            "line 1: this is not text: it has the control character 0x00; expected: a YAML file",
        ),
        ("\n\u{1}PNG", "line 2: this is not text: it has the control character 0x01; expected: a YAML file"),
        ("{[a, b]: c}", "line 1: a list or a mapping stands where a key is expected"),
    ] {
        says(text, expected);
    }
    let bytes = read_bytes::<Sample>(b"name: x\n\xff\xfe").unwrap_err();
    assert_eq!(
        bytes[0].to_string(),
        "line 2: this is not text: byte 0xff is not UTF-8; expected: a YAML file"
    );
}

#[test]
fn broken_syntax_has_its_line() {
    for (text, line) in [
        ("name: [a\nmaxSize: 3\n", 2),
        ("name: x\n  maxSize: 3\n", 2),
        ("name: x\n\tmaxSize: 3\n", 2),
        ("name: \"x\nmaxSize: 3\n", 2),
        ("name: x\n}\n", 2),
        ("<html>\n<body a=\"b: c\">: d: e\n", 2),
    ] {
        let found = read::<Sample>(text).unwrap_err();
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        let at = found[0].line.unwrap_or(0);
        assert!((1..=line + 1).contains(&at), "{text}: {found:?}");
        assert!(!found[0].message.is_empty());
    }
}

#[test]
fn aliases_work_and_do_not_multiply() {
    let shared = "any: &step {weight: 1}\ninner: *step\nlist: [*step, *step]\n";
    assert_eq!(read::<Sample>(shared).unwrap().value.list.len(), 2);
    let mut bomb = "any:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let before = format!("*a{}", i - 1);
        writeln!(bomb, "  a{i}: &a{i} [{}]", [before.as_str(); 10].join(", ")).unwrap();
    }
    let found = mistakes(&bomb);
    assert!(found.contains("more than 100000 values, aliases written out"), "{found}");
    assert!(mistakes("any: &a [*a]\n").contains("line 1"), "{}", mistakes("any: &a [*a]\n"));
    let mut chain = "any:\n  a0: &a0 [x]\n".to_owned();
    for i in 1..200 {
        writeln!(chain, "  a{i}: &a{i} [*a{}]", i - 1).unwrap();
    }
    assert!(mistakes(&chain).contains("nested more than 64 levels"));
}

/// A mebibyte of whatever is hostile to some parser gives one short mistake, without a deep stack. Work is
/// bounded by events and values, so this also ends soon; it runs in a small stack to show the former.
#[test]
fn a_mebibyte_of_anything_is_one_mistake() {
    let check = || {
        for piece in [
            "[", "{", "{a: ", "[{", "- ", "? ", "a: ", "!", "&a ", "*a ", "\"", "'", "|\n", "%", "#", "a\n",
            "- a\n", "---\n", "...\n", ",", "[]", "}", ":", ": ", "a b ", "\u{e9}", "? - ", "[a: ", "{}",
            "\"\\x", "a: |\n ",
        ] {
            let text = piece.repeat(MAX_BYTES / piece.len());
            let found = read::<Sample>(&text).unwrap_err();
            assert_eq!(found.len(), 1, "{piece:?}: {found:?}");
            assert!(found[0].to_string().len() < 400, "{piece:?}: {}", found[0]);
        }
        let deep = format!("name: {}", "[".repeat(MAX_BYTES - 6));
        says(&deep, "name (line 1): nested more than 64 levels deep; allowed: at most 64");
        for (head, piece) in [
            ("[".repeat(60), "a, "),
            ("{".repeat(60), "a: b, "),
            (String::new(), "a: {b: c, "),
            ("x: x\n".into(), "kk"),
        ] {
            let text: String = head + &piece.repeat((MAX_BYTES - 100) / piece.len());
            assert!(read::<Sample>(&text).is_err());
        }
        let wide = (0..20_000).fold("maxSize: x\n".to_owned(), |mut text, i| {
            writeln!(text, "k{i}: ").unwrap();
            text
        });
        assert_eq!(read::<Sample>(&wide).unwrap_err().len(), MAX_MISTAKES + 1);
        let indented: String = (0..1000).map(|i| format!("{:i$}a:\n", "")).collect();
        assert!(
            mistakes(&indented).contains("(line 65): nested more than 64 levels deep"),
            "{}",
            mistakes(&indented)
        );
        let large = "#".repeat(MAX_BYTES + 1);
        says(&large, "the file has 1048577 bytes; allowed: at most 1048576 (1 MiB)");
    };
    std::thread::Builder::new().stack_size(512 << 10).spawn(check).unwrap().join().unwrap();
}

/// A mebibyte of mistakes is not answered with megabytes.
#[test]
fn many_mistakes_are_cut() {
    let text: String = (0..2_000).fold("name: x\n".to_owned(), |mut text, i| {
        writeln!(text, "field{i}: 1").unwrap();
        text
    });
    let found = read::<Sample>(&text).unwrap_err();
    assert_eq!(found.len(), MAX_MISTAKES + 1);
    assert_eq!(found[MAX_MISTAKES].message, "and 1950 more mistakes");
    let wrong: String = (0..200).fold("list:\n".to_owned(), |mut text, _| {
        writeln!(text, "- weight: x").unwrap();
        text
    });
    assert!(read::<Sample>(&wrong).unwrap_err().len() >= MAX_MISTAKES);
}

#[test]
fn long_values_are_shortened() {
    let found = mistakes(&format!("maxSize: {}", "x".repeat(10_000)));
    assert!(found.len() < 300, "{found}");
}
