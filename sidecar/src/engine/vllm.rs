//! vLLM: up when `/health` says so; warmed by one token of `/v1/completions`.
//!
//! A model without completions (embeddings, scoring) is warmed by `/v1/embeddings`. An engine that wants an API
//! key, which the sidecar doesn't have, is taken at its `/health`'s word; `/status` says so.

use super::asking::{Asking, Reply};
use super::{QUESTION, is_up, of};
use outrigger_decide::health::Answer;
use outrigger_decide::warmup;
use serde_json::json;
use std::time::Duration;

pub(super) async fn ready(asking: &Asking) -> Answer {
    is_up(asking.look("/health", QUESTION).await.as_ref())
}

pub(super) async fn infer(asking: &Asking, model: &str, within: Duration) -> (Answer, &'static str) {
    let model = match name(asking, model).await {
        Some(model) => model,
        None => return (Answer::Bad, ""),
    };
    let reply = asking.post("/v1/completions", warmup::completion(&model), within).await;
    if reply.as_ref().is_some_and(Reply::wants_a_key) {
        return (ready(asking).await, "/health alone: the engine wants an API key");
    }
    if reply.as_ref().is_some_and(Reply::declines) {
        let body = json!({"model": model, "input": "hi"}).to_string();
        let reply = asking.post("/v1/embeddings", body, within).await;
        return (of(reply.as_ref()), "an embedding");
    }
    (of(reply.as_ref()), "a completion of one token")
}

/// The name to ask for: the configured one, else the first that the engine lists. With a key in the way an empty
/// name does: the answer is the same.
async fn name(asking: &Asking, model: &str) -> Option<String> {
    if !model.is_empty() {
        return Some(model.to_owned());
    }
    let reply = asking.look("/v1/models", QUESTION).await?;
    if reply.wants_a_key() {
        return Some(String::new());
    }
    warmup::first_model(&reply.body)
}
