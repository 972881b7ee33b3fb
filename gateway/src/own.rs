//! What the gateway answers by itself: which models there are, and how it is.

use crate::snapshot::Snapshot;
use http::{HeaderValue, Response, StatusCode, header};
use outrigger_dataplane::body::{Body, Hooks};
use outrigger_dataplane::refuse::Refusal;
use outrigger_decide::ask::{NoAsk, Own};
use serde_json::{Value, json};

/// OpenAI's list of models: every name and alias.
pub(crate) fn models<H: Hooks>(snapshot: &Snapshot) -> Result<Response<Body<H>>, Refusal> {
    known(snapshot)?;
    let data: Vec<Value> = snapshot.names.sorted().into_iter().map(model_object).collect();
    Ok(json(StatusCode::OK, &json!({"object": "list", "data": data})))
}

/// OpenAI's description of one model.
pub(crate) fn model<H: Hooks>(snapshot: &Snapshot, name: &str) -> Result<Response<Body<H>>, Refusal> {
    known(snapshot)?;
    match snapshot.names.find(name) {
        Some(_) => Ok(json(StatusCode::OK, &model_object(name))),
        None => Err(no_model(snapshot, name)),
    }
}

/// Questions about the gateway itself.
pub(crate) fn own<H: Hooks>(own: Own, snapshot: &Snapshot) -> Result<Response<Body<H>>, Refusal> {
    let answer = match own {
        Own::ServerMetadata => json!({
            "name": "outrigger", "version": env!("CARGO_PKG_VERSION"), "extensions": [],
        }),
        Own::Live => json!({"live": true}),
        Own::Ready => known(snapshot).map(|()| json!({"ready": true}))?,
    };
    Ok(json(StatusCode::OK, &answer))
}

/// An error when no table was heard of: then nothing can be said to be absent.
pub(crate) fn known(snapshot: &Snapshot) -> Result<(), Refusal> {
    if snapshot.known {
        return Ok(());
    }
    Err(Refusal::unavailable("no_table", "this gateway has not heard yet what it serves"))
}

/// Nothing is served under this name, as far as that is known: a gateway that hears of no changes can't say that a
/// model does not exist, which clients take for final.
pub(crate) fn no_model(snapshot: &Snapshot, name: &str) -> Refusal {
    if !snapshot.live {
        let message = "this gateway hears of no changes now, and has not heard of this model";
        return Refusal::unavailable("table_stale", message).param("model");
    }
    // A name is at most a kilobyte, and comes from the client that reads the answer.
    let message = format!("The model `{name}` does not exist");
    Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message).param("model")
}

/// The refusal of a path or method that asks for nothing.
pub(crate) fn no_ask(no: NoAsk) -> Refusal {
    match no {
        NoAsk::Path => Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is nothing under this path"),
        NoAsk::Method(allow) => Refusal {
            allow: Some(allow),
            ..Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                format!("this path takes {allow}"),
            )
        },
        NoAsk::Name => {
            let message = "the model's name in the path is empty or not valid percent-encoded UTF-8";
            Refusal::bad("model_invalid", message).param("model")
        }
    }
}

fn model_object(name: &str) -> Value {
    // No table carries when a model came to be; the clients need a number.
    json!({"id": name, "object": "model", "created": 0, "owned_by": "outrigger"})
}

fn json<H: Hooks>(status: StatusCode, value: &Value) -> Response<Body<H>> {
    let mut response = Response::new(Body::full(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
