//! Which model a request asks for, and what it gets when there is none.

use crate::client::{CHAT, Client, request};
use crate::set_up::{gateway, routes};
use crate::upstream::Upstream;
use http::{Method, StatusCode};

#[tokio::test]
async fn a_model_is_found_wherever_its_name_stands() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    let mut client = Client::connect(gateway.address()).await;
    let large = format!(r#"{{"messages":[{{"content":"{}"}}],"model":"m"}}"#, "x".repeat(3 << 20));
    let bodies = [
        r#"{"model":"m"}"#,
        r#" { "messages" : [{"model":"not this"}, "}"] , "model" : "m" } "#,
        r#"{"\u006dodel":"\u006d","n":1e3}"#,
        large.as_str(),
    ];
    for body in bodies {
        let answer = client.post(CHAT, body.to_owned()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(upstream.seen().pop().unwrap().body, body, "the body passes as it came");
    }
}

/// An engine knows its model by one name: an alias is replaced, and nothing else of the body.
#[tokio::test]
async fn an_alias_becomes_the_models_name() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    let mut client = Client::connect(gateway.address()).await;
    let large = "x".repeat(2 << 20);
    for (sent, expected) in [
        (r#"{"model":"alias","n":2}"#.to_owned(), r#"{"model":"m","n":2}"#.to_owned()),
        (
            r#"{"n":9007199254740993, "model" : "an alias\/with \"marks\"" ,"x":[] }"#.to_owned(),
            r#"{"n":9007199254740993, "model" : "m" ,"x":[] }"#.to_owned(),
        ),
        (format!(r#"{{"model":"alias","x":"{large}"}}"#), format!(r#"{{"model":"m","x":"{large}"}}"#)),
        (format!(r#"{{"x":"{large}","model":"alias"}}"#), format!(r#"{{"x":"{large}","model":"m"}}"#)),
    ] {
        let answer = client.post(CHAT, sent).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let seen = upstream.seen().pop().unwrap();
        assert_eq!(seen.body.len(), expected.len());
        assert!(seen.body == expected);
        assert_eq!(seen.headers["content-length"], expected.len().to_string());
    }
    let path = "/v2/models/an%20alias%2Fwith%20%22marks%22/versions/1/infer?x=%20";
    assert_eq!(client.post(path, "{}").await.status, StatusCode::OK);
    assert_eq!(upstream.seen().pop().unwrap().uri, "/v2/models/m/versions/1/infer?x=%20");
}

#[tokio::test]
async fn percent_encoded_names_pass_as_they_came() {
    let upstream = Upstream::new("a").await;
    let mut spaced = routes(&[&upstream]);
    spaced.model = "my model/v1".to_owned();
    let gateway = gateway(vec![spaced]).await;
    let mut client = Client::connect(gateway.address()).await;
    for path in ["/v2/models/my%20model%2fv1/infer", "/v1/models/my%20model/v1:predict"] {
        let answer = client.post(path, r#"{"inputs":[]}"#).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(upstream.seen().pop().unwrap().uri, path);
    }
    for path in ["/v2/models/my%ff/infer", "/v2/models/my%2/infer", "/v2/models//infer"] {
        assert_eq!(client.post(path, "{}").await.status, StatusCode::BAD_REQUEST, "{path}");
    }
}

/// Each with its status, and a body in the shape of the protocol that was asked.
#[tokio::test]
async fn what_is_not_served_is_refused_in_the_protocols_shape() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    let mut client = Client::connect(gateway.address()).await;

    let answer = client.post(CHAT, r#"{"model":"gpt-9"}"#).await;
    assert_eq!(
        (answer.status, answer.header("x-outrigger-reason")),
        (StatusCode::NOT_FOUND, Some("model_not_found"))
    );
    let error = &answer.json()["error"];
    assert_eq!(
        (&error["code"], &error["type"]),
        (&"model_not_found".into(), &"invalid_request_error".into())
    );
    assert!(error["message"].as_str().unwrap().contains("gpt-9"));

    for path in ["/v2/models/none/infer", "/v1/models/none:predict"] {
        let answer = client.post(path, "{}").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert!(answer.json()["error"].is_string(), "{}", answer.text());
    }
    let answer = client.get("/v2/models/m/infer").await;
    assert_eq!((answer.status, answer.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, Some("POST")));
    let answer = client.send(request(Method::DELETE, "/v1/models/m", &[], "")).await;
    assert_eq!((answer.status, answer.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, Some("GET, HEAD")));
    assert_eq!(client.get("/metrics").await.status, StatusCode::NOT_FOUND);
    for body in
        ["", "nonsense", "[]", "{", r#"{"model":"#, r#"{"model":"m"}}"#, r#"{"model":"m","model":"m"}"#]
    {
        let answer = client.post(CHAT, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error", "{body}");
    }
    for body in ["{}", r#"{"model":1}"#, r#"{"model":""}"#] {
        let answer = client.post(CHAT, body).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["param"]),
            (StatusCode::BAD_REQUEST, &"model".into())
        );
    }
    let answer = client.send(request(Method::POST, CHAT, &[("content-encoding", "gzip")], "\x1f")).await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(upstream.count(), 0, "no engine hears of any of these");
    assert_eq!(client.chat(&[]).await.status, StatusCode::OK, "and the process lives on");
}

#[tokio::test]
async fn models_are_listed_by_the_gateway_itself() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    let mut client = Client::connect(gateway.address()).await;
    let list = client.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["alias", "an alias/with \"marks\"", "m"]);
    let model = client.get("/v1/models/m").await.json();
    assert_eq!((&model["id"], &model["object"]), (&"m".into(), &"model".into()));
    assert_eq!(client.get("/v1/models/x").await.status, StatusCode::NOT_FOUND);
    for path in ["/v2", "/v2/health/live", "/v2/health/ready", "/health"] {
        assert_eq!(client.get(path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn headers_that_concern_one_connection_stay_there() {
    let upstream = Upstream::new("a").await;
    let gateway = gateway(vec![routes(&[&upstream])]).await;
    let mut client = Client::connect(gateway.address()).await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer = client
        .chat(&[
            ("traceparent", traceparent),
            ("connection", "x-private"),
            ("x-private", "1"),
            ("proxy-authorization", "secret"),
            ("x-request-id", "mine-1"),
        ])
        .await;
    assert_eq!(answer.header("x-request-id"), Some("mine-1"), "kept and returned");
    assert_eq!(answer.header("endpoint-load-metrics"), None, "for the gateway alone");
    assert_eq!(answer.header("keep-alive"), None);
    let seen = upstream.seen().pop().unwrap().headers;
    assert_eq!(seen["traceparent"], traceparent);
    assert_eq!(seen["x-request-id"], "mine-1");
    for name in ["x-private", "proxy-authorization"] {
        assert!(!seen.contains_key(name), "{name}");
    }

    let answer = client.chat(&[("x-request-id", "")]).await;
    let made = answer.header("x-request-id").unwrap().to_owned();
    assert_eq!(
        (made.len(), &upstream.seen().pop().unwrap().headers["x-request-id"].to_str().unwrap()),
        (32, &made.as_str())
    );
    let refused = client.get("/nothing").await;
    assert_eq!(refused.header("x-request-id").unwrap().len(), 32, "refusals too");
}

/// Two deployments under one name: the first in order keeps it.
#[tokio::test]
async fn one_name_has_one_owner() {
    let (a, b) = (Upstream::new("a").await, Upstream::new("b").await);
    let (mut first, mut second) = (routes(&[&a]), routes(&[&b]));
    first.deployment = "a/x".into();
    second.deployment = "b/x".into();
    second.aliases = vec!["of-b".to_owned()];
    let gateway = gateway(vec![second, first]).await;
    let mut client = Client::connect(gateway.address()).await;
    assert_eq!(client.chat(&[]).await.by(), "a");
    assert_eq!(client.post(CHAT, r#"{"model":"of-b"}"#).await.by(), "b");
}
