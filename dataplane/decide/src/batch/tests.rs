//! Merging and taking apart: by example, and against a plain reading with serde_json.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn read(protocol: Form, body: &str) -> Option<Mergeable> {
    Mergeable::read(protocol, b"head", Bytes::copy_from_slice(body.as_bytes()))
}

fn v2(body: &str) -> Mergeable {
    read(Form::V2, body).unwrap_or_else(|| panic!("not mergeable: {body}"))
}

fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn members(requests: &[&Mergeable]) -> Vec<Member> {
    requests.iter().map(|r| r.member()).collect()
}

/// proves B.5, B.6
#[test]
fn v1_rows_are_spliced_as_they_were_written() {
    let a = read(Form::V1, r#"{"instances": [ [9007199254740993, 1.50] ], "signature_name":"s"}"#).unwrap();
    let b = read(Form::V1, r#"{"instances":[{"x":"]"},1e400 ],"signature_name":"s"}"#);
    assert!(b.is_some(), "digits are the engine's affair");
    let b = b.unwrap();
    assert_eq!((a.rows(), b.rows(), a.key()), (1, 2, b.key()));
    let merged = merge(&[&a, &b]);
    assert_eq!(
        text(&merged),
        r#"{"instances": [ [9007199254740993, 1.50],{"x":"]"},1e400 ], "signature_name":"s"}"#
    );
    let answer =
        br#"{"model_version": "7", "predictions": [9007199254740993, {"y": 2.50}, null ], "extra":{}}"#;
    let parts = split(Form::V1, &members(&[&a, &b]), answer).unwrap();
    assert_eq!(text(&parts[0]), r#"{"model_version": "7", "predictions": [9007199254740993], "extra":{}}"#);
    assert_eq!(text(&parts[1]), r#"{"model_version": "7", "predictions": [{"y": 2.50}, null], "extra":{}}"#);
}

/// proves B.5, B.6
#[test]
fn v2_keeps_ids_shapes_and_digits() {
    let a = v2(
        r#"{"id":"a\"1","inputs":[{"name":"x","shape":[1,2],"datatype":"INT64","data":[9007199254740993,2]}],"parameters":{"p":1}}"#,
    );
    let b = v2(
        r#"{"inputs":[{"name":"x","shape":[ 2,2],"datatype":"INT64","data":[3,4,5,6]}],"id":"b","parameters":{"p":1}}"#,
    );
    let c = v2(
        r#"{"inputs":[{"name":"x","shape":[1, 2],"datatype":"INT64","data":[7,8]}],"parameters":{"p":1}}"#,
    );
    assert_eq!((a.key(), a.key()), (b.key(), c.key()));
    let merged = merge(&[&a, &b, &c]);
    assert_eq!(
        text(&merged),
        r#"{"inputs":[{"name":"x","shape":[4,2],"datatype":"INT64","data":[9007199254740993,2,3,4,5,6,7,8]}],"parameters":{"p":1}}"#
    );
    assert_eq!(text(&merge(&[&b, &c])).matches("\"id\"").count(), 0);

    let answer = br#"{"model_name":"m","id":"engine's","outputs":[
        {"name":"y","shape":[4],"datatype":"INT64","data":[9007199254740993, 2, 3, 4]},
        {"name":"z","datatype":"FP32","shape":[4,2],"data":[[1,2],[3,4],[5,6],[7,8]],"parameters":{"k":"v"}}]}"#;
    let parts = split(Form::V2, &members(&[&a, &b, &c]), answer).unwrap();
    let first: Value = serde_json::from_slice(&parts[0]).unwrap();
    assert_eq!(first["id"], "a\"1");
    assert!(text(&parts[0]).contains("[9007199254740993]"));
    assert_eq!(first["outputs"][1]["data"], json!([[1, 2]]));
    let second: Value = serde_json::from_slice(&parts[1]).unwrap();
    assert_eq!(second["id"], "b");
    assert_eq!(second["outputs"][0]["shape"], json!([2]));
    assert_eq!(second["outputs"][0]["data"], json!([2, 3]));
    assert_eq!(
        second["outputs"][1],
        json!({"name":"z","datatype":"FP32","shape":[2,2],"data":[[3,4],[5,6]],"parameters":{"k":"v"}})
    );
    let third: Value = serde_json::from_slice(&parts[2]).unwrap();
    assert_eq!(third["id"], "engine's", "who sent no id gets the engine's");

    let without = br#"{"outputs":[{"name":"y","shape":[1],"datatype":"INT64","data":[1]}]}"#;
    let parts = split(Form::V2, &members(&[&a]), without).unwrap();
    assert!(text(&parts[0]).starts_with(r#"{"id":"a\"1","outputs""#));
}

/// proves B.1
#[test]
fn what_differs_is_never_merged() {
    let base = r#"{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}"#;
    let key = v2(base).key().clone();
    for other in [
        base.replace("\"x\"", "\"y\""),
        base.replace("FP32", "FP64"),
        base.replace("[1,2],\"datatype", "[1,2,1],\"datatype"),
        base.replace("[1,2]", "[[1,2]]").replace("shape\":[[1,2]]", "shape\":[1,2]"),
        base.replace("}]}", "}],\"parameters\":{\"t\":1}}"),
        base.replace("}]}", "}],\"outputs\":[{\"name\":\"y\"}]}"),
        base.replace("\"data\":[1,2]}", "\"data\":[1,2],\"parameters\":{\"content_type\":\"np\"}}"),
        base.replace("}]}", "},{\"name\":\"w\",\"shape\":[1],\"datatype\":\"FP32\",\"data\":[1]}]}"),
    ] {
        assert_ne!(&key, v2(&other).key(), "{other}");
    }
    let v1 = |body: &str| read(Form::V1, body).unwrap().key().clone();
    assert_eq!(v1(r#"{"instances":[1]}"#), v1(r#"{"instances":[2,3]}"#));
    assert_ne!(v1(r#"{"instances":[1]}"#), v1(r#"{"instances":[1],"signature_name":"x"}"#));
    assert_ne!(v1(r#"{"instances":[1],"a":1}"#), v1(r#"{"instances":[1],"a":2}"#));
    let other_head = Mergeable::read(Form::V2, b"other", base.to_owned().into()).unwrap();
    assert_ne!(&key, other_head.key());
}

/// proves B.10
#[test]
fn what_is_doubtful_goes_alone() {
    let deep = format!("{{\"instances\":[{}1{}]}}", "[".repeat(10_000), "]".repeat(10_000));
    for body in [
        "",
        " ",
        "{}",
        "[]",
        "null",
        r#"{"instances":[]}"#,
        r#"{"instances":{}}"#,
        r#"{"instances":[1}"#,
        r#"{"instances":[1]}}"#,
        r#"{"instances":[1],"instances":[2]}"#,
        r#"{"inst\u0061nces":[1]}"#,
        "{\"instances\":[\"\u{1}\"]}",
        r#"{"inputs":[1]}"#,
        &deep,
    ] {
        assert!(read(Form::V1, body).is_none(), "{}", body.get(..40).unwrap_or(body));
    }
    assert!(Mergeable::read(Form::V1, b"", Bytes::from_static(b"{\"instances\":[\"\xff\"]}")).is_none());
    for body in [
        r#"{"inputs":[]}"#,
        r#"{"inputs":[{"name":"x","shape":[],"datatype":"FP32","data":[1]}]}"#,
        r#"{"inputs":[{"name":"x","shape":[0],"datatype":"FP32","data":[]}]}"#,
        r#"{"inputs":[{"name":"x","shape":[-1],"datatype":"FP32","data":[1]}]}"#,
        r#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1]}]}"#,
        r#"{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2]}]}"#,
        r#"{"inputs":[{"name":"x","shape":[18446744073709551615,3],"datatype":"FP32","data":[1,2]}]}"#,
        r#"{"inputs":[{"name":"x","shape":[1,99999999999,99999999999],"datatype":"FP32","data":[1]}]}"#,
        r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}"#,
        r#"{"parameters":{"binary_data_output":true},"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}"#,
        r#"{"outputs":[{"name":"y","parameters":{"binary_data":true}}],"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}"#,
        r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]},{"name":"y","shape":[2],"datatype":"FP32","data":[1,2]}]}"#,
        r#"{"id":7,"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}"#,
        r#"{"inputs":{"name":"x"}}"#,
        r#"{"id":"only"}"#,
    ] {
        assert!(read(Form::V2, body).is_none(), "{body}");
    }
}

/// Triton's own client says so with every tensor.
#[test]
fn who_says_no_to_binary_tensors_is_merged() {
    let body = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}],
        "outputs":[{"name":"y","parameters":{"binary_data" : false}}],"parameters":{"binary_data_output":false}}"#;
    assert!(read(Form::V2, body).is_some());
    assert!(read(Form::V2, &body.replacen("false", "true", 1)).is_none());
    assert!(read(Form::V2, &body.replace("output\":false", "output\":true")).is_none());
}

/// proves B.5
#[test]
fn a_count_that_disagrees_names_both() {
    let two = [Member { rows: 1, id: None }, Member { rows: 1, id: None }];
    let count = |sent, received| Err(SplitError::Count { sent, received });
    assert_eq!(split(Form::V1, &two, br#"{"predictions":[1]}"#), count(2, 1));
    assert_eq!(split(Form::V1, &two, br#"{"predictions":[1,2,3]}"#), count(2, 3));
    assert_eq!(split(Form::V1, &two, br#"{"outputs":[1,2]}"#), Err(SplitError::Shape));
    assert_eq!(split(Form::V1, &two, b"boom"), Err(SplitError::Shape));
    let answer = |shape: &str, data: &str| {
        let body =
            format!(r#"{{"outputs":[{{"name":"y","shape":{shape},"datatype":"FP32","data":{data}}}]}}"#);
        split(Form::V2, &two, body.as_bytes()).map(|parts| parts.len())
    };
    assert_eq!(answer("[2]", "[1,2]"), Ok(2));
    assert_eq!(answer("[3]", "[1,2,3]"), Err(SplitError::Count { sent: 2, received: 3 }));
    assert_eq!(answer("[2]", "[1,2,3]"), Err(SplitError::Count { sent: 2, received: 3 }));
    assert_eq!(answer("[2,2]", "[[1,2]]"), Err(SplitError::Count { sent: 2, received: 1 }));
    assert_eq!(answer("[2,2]", "[1,2,3]"), Err(SplitError::Shape));
    assert_eq!(answer("[2,0]", "[]"), Ok(2));
    assert_eq!(split(Form::V2, &two, br#"{"outputs":[]}"#), Err(SplitError::Count { sent: 2, received: 0 }));
    let text = SplitError::Count { sent: 2, received: 3 }.to_string();
    assert!(text.contains('2') && text.contains('3'), "{text}");
}

fn request(rows: usize, inner: usize, nested: bool, id: Option<&str>, base: i64) -> String {
    let row = |r: usize| (0..inner).map(|i| base + (r * inner + i) as i64).collect::<Vec<_>>();
    let data: Value = if nested {
        (0..rows).map(row).collect()
    } else {
        (0..rows).flat_map(row).collect::<Vec<_>>().into()
    };
    let mut body = json!({"inputs":[{"name":"x","shape":[rows,inner],"datatype":"INT64","data":data}]});
    if let Some(id) = id {
        body["id"] = id.into();
    }
    body.to_string()
}

proptest! {
    /// An engine that echoes what it is given: every caller gets its own rows back, whatever it was merged with.
    ///
    /// proves B.5
    #[test]
    fn everybody_gets_exactly_its_rows(
        sizes in proptest::collection::vec((1usize..5, any::<bool>()), 1..8),
        inner in 1usize..4, nested: bool, answer_nested: bool,
    ) {
        let requests: Vec<Mergeable> = sizes.iter().enumerate().map(|(i, (rows, with_id))| {
            let id = format!("id-{i}");
            v2(&request(*rows, inner, nested, with_id.then_some(id.as_str()), i as i64 * 1000))
        }).collect();
        let all: Vec<&Mergeable> = requests.iter().collect();
        prop_assert!(all.iter().all(|r| r.key() == all[0].key()));
        let merged: Value = serde_json::from_slice(&merge(&all)).unwrap();
        prop_assert!(merged.get("id").is_none());
        let total: usize = sizes.iter().map(|(rows, _)| rows).sum();
        let input = &merged["inputs"][0];
        prop_assert_eq!(&input["shape"], &json!([total, inner]));
        let flat: Vec<Value> = match input["data"].as_array() {
            Some(rows) if nested => rows.iter().flat_map(|r| r.as_array().unwrap().clone()).collect(),
            Some(flat) => flat.clone(),
            None => panic!("data is an array"),
        };
        prop_assert_eq!(flat.len(), total * inner);
        let data: Value = if answer_nested { flat.chunks(inner).collect() } else { flat.into() };
        let answer = json!({"id":"e","outputs":[{"name":"y","shape":[total, inner],"datatype":"INT64","data":data}]});
        let parts = split(Form::V2, &members(&all), answer.to_string().as_bytes()).unwrap();
        for (i, (part, (rows, with_id))) in parts.iter().zip(&sizes).enumerate() {
            let part: Value = serde_json::from_slice(part).unwrap();
            let expected: Value =
                serde_json::from_str(&request(*rows, inner, answer_nested, None, i as i64 * 1000)).unwrap();
            prop_assert_eq!(&part["outputs"][0]["data"], &expected["inputs"][0]["data"]);
            prop_assert_eq!(&part["outputs"][0]["shape"], &json!([rows, inner]));
            let id = if *with_id { format!("id-{i}") } else { "e".to_owned() };
            prop_assert_eq!(part["id"].as_str().unwrap(), id);
        }
    }

    /// proves B.10
    #[test]
    fn no_bytes_panic(body: Vec<u8>, v1: bool) {
        let protocol = if v1 { Form::V1 } else { Form::V2 };
        let _ = Mergeable::read(protocol, b"", body.clone().into());
        let _ = split(protocol, &[Member { rows: 2, id: None }], &body);
    }
}
