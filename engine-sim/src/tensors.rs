//! The V2 (Open Inference) REST protocol with its binary extension, and V1's `:predict`. The model is the identity:
//! output number i, `OUTPUT<i>`, is input number i, so that every caller can tell whether the rows are its own.

use crate::answer::{Out, bytes, json};
use crate::engine::{Engine, Fate};
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// How long the JSON part of a body with binary tensors is.
const JSON_LENGTH: &str = "inference-header-content-length";

/// V1's and V2's shape of an error.
pub(crate) fn error(status: StatusCode, message: &str) -> Response<Out> {
    json(status, &json!({"error": message}))
}

fn bad(message: impl AsRef<str>) -> Response<Out> {
    error(StatusCode::BAD_REQUEST, message.as_ref())
}

/// Refuses a model or version that isn't there.
pub(crate) fn unknown(engine: &Engine, model: &str, version: Option<&str>) -> Option<Response<Out>> {
    if model == engine.config.model && version.is_none_or(|v| v == "1") {
        return None;
    }
    let version = version.map_or_else(String::new, |v| format!(" version {v}"));
    Some(error(StatusCode::NOT_FOUND, &format!("Model {model}{version} not found")))
}

/// `/v2`.
pub(crate) fn server(engine: &Engine) -> Response<Out> {
    let body = json!({
        "name": "outrigger-engine-sim", "version": engine.config.version, "extensions": ["binary_tensor_data"],
    });
    json(StatusCode::OK, &body)
}

/// `/v2/models/{model}`.
pub(crate) fn metadata(engine: &Engine) -> Response<Out> {
    let tensor = |name| json!([{"name": name, "datatype": "FP64", "shape": [-1, -1]}]);
    let body = json!({
        "name": engine.config.model, "versions": ["1"], "platform": "outrigger_sim", "inputs": tensor("INPUT0"),
        "outputs": tensor("OUTPUT0"),
    });
    json(StatusCode::OK, &body)
}

#[derive(serde::Deserialize)]
struct Request<'a> {
    id: Option<String>,
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
    #[serde(default)]
    outputs: Vec<Wanted>,
    #[serde(default)]
    parameters: Map<String, Value>,
}

#[derive(serde::Deserialize)]
struct Input<'a> {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    #[serde(default)]
    parameters: Map<String, Value>,
    /// As it was sent, so that no number loses a digit.
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(serde::Deserialize)]
struct Wanted {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

#[derive(serde::Serialize)]
struct Output<'a> {
    name: String,
    datatype: &'a str,
    shape: &'a [u64],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

#[derive(serde::Serialize)]
struct Reply<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<Output<'a>>,
}

/// `/v2/models/{model}/infer`.
pub(crate) async fn infer(engine: &Arc<Engine>, headers: &HeaderMap, body: &Bytes) -> Response<Out> {
    let length = match headers.get(JSON_LENGTH).map(|v| v.to_str().ok().and_then(|v| v.parse().ok())) {
        None => body.len(),
        Some(Some(length)) if length <= body.len() => length,
        Some(_) => return bad("Inference-Header-Content-Length is not a length within the body"),
    };
    let (text, mut binary) = (body.slice(..length), body.slice(length..));
    let request: Request<'_> = match serde_json::from_slice(&text) {
        Ok(request) => request,
        Err(wrong) => return bad(format!("the body is not an inference request: {wrong}")),
    };
    let mut tensors = Vec::new();
    for input in &request.inputs {
        match contents(input, &mut binary) {
            Ok(blob) => tensors.push(blob),
            Err(wrong) => return bad(format!("input {}: {wrong}", input.name)),
        }
    }
    if !binary.is_empty() {
        return bad(format!("{} bytes follow the last tensor", binary.len()));
    }
    let rows = match rows(&request.inputs, engine.config.max_rows) {
        Ok(rows) => rows,
        Err(wrong) => return bad(wrong),
    };
    if let Err(failed) = work(engine, rows).await {
        return failed;
    }
    reply(engine, &request, &tensors)
}

/// A tensor's binary contents, taken from the body's tail, or none where they stand in the JSON.
fn contents(input: &Input<'_>, binary: &mut Bytes) -> Result<Option<Bytes>, String> {
    let size = input.parameters.get("binary_data_size");
    match (size, input.data) {
        (Some(_), Some(_)) => Err("has both data and binary_data_size".to_owned()),
        (None, None) => Err("has neither data nor binary_data_size".to_owned()),
        (None, Some(data)) => {
            let count: u64 = input.shape.iter().copied().fold(1, u64::saturating_mul);
            let found = elements(data)?;
            if input.datatype != "BYTES" && found != count {
                return Err(format!("shape {:?} has {count} elements, data {found}", input.shape));
            }
            Ok(None)
        }
        (Some(size), None) => {
            let size = size.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= binary.len());
            size.map(|size| Some(binary.split_to(size)))
                .ok_or_else(|| "binary_data_size is not within the body".to_owned())
        }
    }
}

/// Numbers, texts and truths in a possibly nested array.
fn elements(data: &RawValue) -> Result<u64, String> {
    if !data.get().starts_with('[') {
        return Err("data is not an array".to_owned());
    }
    match serde_json::from_str::<Leaves>(data.get()) {
        Ok(Leaves(count)) => Ok(count),
        Err(wrong) => Err(format!("data is not an array of values: {wrong}")),
    }
}

/// How many values an array holds at all depths; counted without keeping any.
struct Leaves(u64);

impl<'de> serde::Deserialize<'de> for Leaves {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Counter;
        impl<'de> serde::de::Visitor<'de> for Counter {
            type Value = Leaves;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, a text, true, false or an array of such")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut all: A) -> Result<Leaves, A::Error> {
                let mut count = 0;
                while let Some(Leaves(more)) = all.next_element()? {
                    count += more;
                }
                Ok(Leaves(count))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Leaves, E> {
                Ok(Leaves(1))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Leaves, E> {
                Ok(Leaves(1))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Leaves, E> {
                Ok(Leaves(1))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Leaves, E> {
                Ok(Leaves(1))
            }

            fn visit_str<E>(self, _: &str) -> Result<Leaves, E> {
                Ok(Leaves(1))
            }
        }
        input.deserialize_any(Counter)
    }
}

fn rows(inputs: &[Input<'_>], most: u32) -> Result<u32, String> {
    let mut counts = inputs.iter().map(|i| i.shape.first().copied().unwrap_or(1));
    let Some(rows) = counts.next() else { return Err("there are no inputs".to_owned()) };
    if counts.any(|other| other != rows) {
        return Err("the inputs' first dimensions differ".to_owned());
    }
    match u32::try_from(rows) {
        Ok(rows) if rows <= most => Ok(rows),
        _ => Err(format!("inference request batch-size must be <= {most}, got {rows}")),
    }
}

/// Works on so many rows; the error is the answer.
async fn work(engine: &Arc<Engine>, rows: u32) -> Result<(), Response<Out>> {
    let number = match engine.admit() {
        Fate::Served(number) => number,
        Fate::Failed => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return Err(error(status, "the engine failed as it was told to"));
        }
        Fate::Hung => std::future::pending().await,
    };
    engine.call(number, rows).await;
    Ok(())
}

fn is_true(value: Option<&Value>) -> bool {
    value.and_then(Value::as_bool).unwrap_or(false)
}

fn reply(engine: &Engine, request: &Request<'_>, tensors: &[Option<Bytes>]) -> Response<Out> {
    let all_binary = is_true(request.parameters.get("binary_data_output"));
    let mut outputs = Vec::new();
    let mut tail: Vec<u8> = Vec::new();
    for (n, (input, blob)) in request.inputs.iter().zip(tensors).enumerate() {
        let name = format!("OUTPUT{n}");
        let wanted = request.outputs.iter().find(|w| w.name == name);
        if wanted.is_none() && !request.outputs.is_empty() {
            continue;
        }
        let binary =
            wanted.and_then(|w| w.parameters.get("binary_data")).map_or(all_binary, |b| is_true(Some(b)));
        if blob.is_some() != binary {
            return bad(format!("{name} is as its input is: in JSON or binary, not the one for the other"));
        }
        let parameters = blob.as_ref().map(|b| json!({"binary_data_size": b.len()}));
        tail.extend_from_slice(blob.as_deref().unwrap_or_default());
        outputs.push(Output {
            name,
            datatype: &input.datatype,
            shape: &input.shape,
            parameters,
            data: input.data,
        });
    }
    if let Some(other) = request.outputs.iter().find(|w| outputs.iter().all(|o| o.name != w.name)) {
        return bad(format!(
            "unexpected inference output '{}' for model '{}'",
            other.name, engine.config.model
        ));
    }
    let reply =
        Reply { model_name: &engine.config.model, model_version: "1", id: request.id.clone(), outputs };
    let Ok(mut body) = serde_json::to_vec(&reply) else {
        return error(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written");
    };
    if tail.is_empty() {
        return bytes(StatusCode::OK, HeaderValue::from_static("application/json"), body.into());
    }
    let length = body.len();
    body.extend_from_slice(&tail);
    let mut response =
        bytes(StatusCode::OK, HeaderValue::from_static("application/octet-stream"), body.into());
    response.headers_mut().insert(JSON_LENGTH, HeaderValue::from(length));
    response
}

#[derive(serde::Deserialize)]
struct Instances<'a> {
    #[serde(borrow)]
    instances: Vec<&'a RawValue>,
}

/// `/v1/models/{model}:predict`.
pub(crate) async fn predict(engine: &Arc<Engine>, body: &Bytes) -> Response<Out> {
    let request: Instances<'_> = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(wrong) => return bad(format!("the body has no instances: {wrong}")),
    };
    let rows = match u32::try_from(request.instances.len()) {
        Ok(rows) if (1..=engine.config.max_rows).contains(&rows) => rows,
        _ => {
            let (most, got) = (engine.config.max_rows, request.instances.len());
            return bad(format!("there are {got} instances; allowed: 1 to {most}"));
        }
    };
    if let Err(failed) = work(engine, rows).await {
        return failed;
    }
    let all: Vec<&str> = request.instances.iter().map(|i| i.get()).collect();
    let body = format!("{{\"predictions\":[{}]}}", all.join(","));
    bytes(StatusCode::OK, HeaderValue::from_static("application/json"), body.into())
}
