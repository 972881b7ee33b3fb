//! The V1 and V2 side of the simulated engine, over sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod client;

use client::Sim;
use hyper::Method;
use hyper::body::Bytes;
use outrigger_engine_sim::Config;
use serde_json::{Value, json};

fn tensor(data: &Value, shape: &Value) -> Value {
    json!({"id": "mine", "inputs": [{"name": "x", "datatype": "INT64", "shape": shape, "data": data}]})
}

#[tokio::test]
async fn rows_come_back_as_they_were_sent_to_the_last_digit() {
    let sim = Sim::start(Config::default()).await;
    let body = r#"{"id":"mine","inputs":[{"name":"x","datatype":"INT64","shape":[2,2],
        "data":[[9007199254740993,-1],[18446744073709551615,0]]}]}"#;
    let answer = sim.ask(Method::POST, "/v2/models/demo/infer", &[], Bytes::from(body)).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert_eq!(answer.status, 200, "{text}");
    assert!(text.contains("[[9007199254740993,-1],[18446744073709551615,0]]"), "{text}");
    assert!(text.contains(r#""id":"mine""#) && text.contains(r#""name":"OUTPUT0""#), "{text}");
    let versioned = sim.post("/v2/models/demo/versions/1/infer", &tensor(&json!([1, 2]), &json!([2]))).await;
    assert_eq!(versioned.json()["outputs"][0]["data"], json!([1, 2]));
    assert_eq!(sim.get("/sim/state").await.json()["rows"], 4);
}

#[tokio::test]
async fn binary_tensors_come_back_binary() {
    let sim = Sim::start(Config::default()).await;
    let head = json!({
        "inputs": [
            {"name": "a", "datatype": "UINT8", "shape": [2, 2], "parameters": {"binary_data_size": 4}},
            {"name": "b", "datatype": "UINT8", "shape": [2, 1], "parameters": {"binary_data_size": 2}},
        ],
        "outputs": [{"name": "OUTPUT1", "parameters": {"binary_data": true}}],
    })
    .to_string();
    let mut body = head.clone().into_bytes();
    body.extend_from_slice(&[1, 2, 3, 4, 5, 6]);
    let length = head.len().to_string();
    let headers = [("inference-header-content-length", length.as_str())];
    let answer = sim.ask(Method::POST, "/v2/models/demo/infer", &headers, Bytes::from(body)).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let json_length: usize =
        answer.headers["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let json: Value = serde_json::from_slice(&answer.body[..json_length]).unwrap();
    assert_eq!(json["outputs"].as_array().unwrap().len(), 1);
    assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 2);
    assert_eq!(&answer.body[json_length..], [5, 6]);
}

#[tokio::test]
async fn what_cannot_be_inferred_is_refused_with_the_reason() {
    let sim = Sim::start(Config::default()).await;
    let error = async |path: &str, body: Value| {
        let answer = sim.post(path, &body).await;
        (answer.status, answer.json()["error"].as_str().unwrap().to_owned())
    };
    let infer = "/v2/models/demo/infer";
    for (body, words) in [
        (json!({}), "inputs"),
        (json!({"inputs": []}), "no inputs"),
        (tensor(&json!([1, 2, 3]), &json!([2])), "elements"),
        (tensor(&json!(7), &json!([1])), "not an array"),
        (tensor(&Value::Null, &json!([1])), "neither"),
        (tensor(&json!(vec![0; 65]), &json!([65])), "<= 64"),
        (
            json!({"inputs": [{"name": "x", "datatype": "UINT8", "shape": [1], "parameters": {"binary_data_size": 9}}]}),
            "within",
        ),
    ] {
        let (status, message) = error(infer, body.clone()).await;
        assert_eq!(status, 400, "{body}");
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(error("/v2/models/other/infer", tensor(&json!([1]), &json!([1]))).await.0, 404);
    assert_eq!(error("/v2/models/demo/versions/2/infer", tensor(&json!([1]), &json!([1]))).await.0, 404);
    assert_eq!(error("/v1/models/demo:predict", json!({"instances": []})).await.0, 400);
    assert_eq!(sim.get("/sim/state").await.json()["calls"], 0, "nothing of this was worked on");
}

#[tokio::test]
async fn v1_and_names_with_blanks_and_readiness() {
    let sim = Sim::start(Config { model: "my model".to_owned(), ..Config::default() }).await;
    let answer =
        sim.post("/v1/models/my%20model:predict", &json!({"instances": [{"a": 1}, [2.5], "x"]})).await;
    assert_eq!(answer.json(), json!({"predictions": [{"a": 1}, [2.5], "x"]}));
    for path in
        ["/v2/health/live", "/v2/health/ready", "/v2/models/my%20model/ready", "/v1/models/my%20model"]
    {
        assert_eq!(sim.get(path).await.status, 200, "{path}");
    }
    assert_eq!(sim.get("/v2/models/my%20model").await.json()["versions"], json!(["1"]));
    assert_eq!(sim.get("/v2").await.json()["extensions"], json!(["binary_tensor_data"]));
    assert_eq!(sim.get("/v2/models/mine/ready").await.status, 404);
    for odd in ["/v2/models/%/ready", "/v2/models/%ff%zz", "/v2/models/", "//", "/v1/models/%20%"] {
        assert_eq!(sim.get(odd).await.status, 404, "{odd}");
    }
}
