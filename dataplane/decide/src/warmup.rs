//! The small inference that shows that an engine really works, in each dialect.

use serde_json::{Value, json};

/// The most numbers that a warm-up's tensor may have: engines with larger inputs are asked whether they are
/// ready instead of being sent megabytes.
const MAX_ELEMENTS: u64 = 4 << 20;

/// A request for one token, for `POST /v1/completions`.
pub fn completion(model: &str) -> String {
    json!({"model": model, "prompt": "hi", "max_tokens": 1, "temperature": 0, "stream": false}).to_string()
}

/// The first model that an OpenAI-compatible engine lists under `GET /v1/models`.
pub fn first_model(list: &[u8]) -> Option<String> {
    let list: Value = serde_json::from_slice(list).ok()?;
    Some(list.get("data")?.get(0)?.get("id")?.as_str()?.to_owned())
}

/// A V2 inference of zeros in the shape that the model's metadata (`GET /v2/models/NAME`) asks for, one row of it.
/// `None`: the metadata names no inputs, or some that can't be made up.
pub fn zeros(metadata: &[u8]) -> Option<String> {
    let metadata: Value = serde_json::from_slice(metadata).ok()?;
    let inputs = metadata.get("inputs")?.as_array().filter(|inputs| !inputs.is_empty())?;
    let inputs: Vec<Value> = inputs.iter().map(zero_tensor).collect::<Option<_>>()?;
    Some(json!({"id": "outrigger-warm-up", "inputs": inputs}).to_string())
}

fn zero_tensor(input: &Value) -> Option<Value> {
    let name = input.get("name")?.as_str()?;
    let datatype = input.get("datatype")?.as_str()?;
    // A dimension of -1 is free: one is the smallest that every model takes.
    let shape: Vec<u64> = input
        .get("shape")?
        .as_array()?
        .iter()
        .map(|n| n.as_i64().map(|n| u64::try_from(n).unwrap_or(1).max(1)))
        .collect::<Option<_>>()?;
    let elements = shape.iter().try_fold(1u64, |product, n| product.checked_mul(*n))?;
    if elements > MAX_ELEMENTS {
        return None;
    }
    let zero = match datatype {
        "BOOL" => json!(false),
        "BYTES" => json!(""),
        "FP16" | "FP32" | "FP64" | "BF16" => json!(0.0),
        _ if datatype.starts_with("INT") || datatype.starts_with("UINT") => json!(0),
        _ => return None,
    };
    let mut tensor = json!({
        "name": name, "datatype": datatype, "shape": shape, "data": vec![zero; usize::try_from(elements).ok()?],
    });
    // MLServer's `content_type` says how a tensor is to be read, and the model may insist on it.
    if let (Some(parameters), Some(tensor)) = (input.get("parameters"), tensor.as_object_mut()) {
        tensor.insert("parameters".to_owned(), parameters.clone());
    }
    Some(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_have_the_shape_that_was_asked_for() {
        let metadata = br#"{"name":"iris","inputs":[
            {"name":"x","datatype":"FP32","shape":[-1,2]},
            {"name":"t","datatype":"BYTES","shape":[1],"parameters":{"content_type":"str"}}]}"#;
        let body: Value = serde_json::from_str(&zeros(metadata).unwrap()).unwrap();
        assert_eq!(body["inputs"][0], json!({"name":"x","datatype":"FP32","shape":[1,2],"data":[0.0,0.0]}));
        assert_eq!(body["inputs"][1]["parameters"], json!({"content_type":"str"}));
        assert_eq!(body["inputs"][1]["data"], json!([""]));
    }

    #[test]
    fn what_cannot_be_made_up_is_none() {
        for metadata in [
            r#"{"name":"m","inputs":[]}"#,
            r#"{"name":"m"}"#,
            r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[4096,4096]}]}"#,
            r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[9223372036854775807,9223372036854775807]}]}"#,
            r#"{"inputs":[{"name":"x","datatype":"JSON","shape":[1]}]}"#,
            r#"{"inputs":[{"name":"x","datatype":"FP32","shape":["a"]}]}"#,
            "not json",
        ] {
            assert_eq!(zeros(metadata.as_bytes()), None, "{metadata}");
        }
    }

    #[test]
    fn the_first_model_is_found() {
        assert_eq!(first_model(br#"{"data":[{"id":"tiny"},{"id":"b"}]}"#).unwrap(), "tiny");
        assert_eq!(first_model(br#"{"data":[]}"#), None);
        let body: Value = serde_json::from_str(&completion("my \"model\"")).unwrap();
        assert_eq!((&body["model"], &body["max_tokens"]), (&json!("my \"model\""), &json!(1)));
    }
}
