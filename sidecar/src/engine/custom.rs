//! Any other HTTP engine: what it speaks is found out, V2 first, then OpenAI, then nothing but its health path.
//!
//! Up: `/v2/health/ready` or `/health`, whichever it knows; one that knows neither is up when it answers at all.
//! Warmed: as MLServer where its model's metadata is there, as vLLM where it lists models, else its health path is
//! all there is, and `/status` says so.

use super::asking::{Asking, Reply};
use super::{QUESTION, is_up, mlserver, vllm};
use outrigger_decide::health::Answer;
use outrigger_decide::warmup;
use std::time::Duration;

pub(super) async fn ready(asking: &Asking) -> Answer {
    for path in ["/v2/health/ready", "/health"] {
        let reply = asking.look(path, QUESTION).await;
        // A path that it doesn't know says nothing.
        if !reply.as_ref().is_some_and(Reply::declines) {
            return is_up(reply.as_ref());
        }
    }
    Answer::Good
}

pub(super) async fn infer(asking: &Asking, model: &str, within: Duration) -> (Answer, &'static str) {
    if !model.is_empty() && knows(asking, &format!("/v2/models/{}", super::asking::segment(model))).await {
        return mlserver::infer(asking, model, within).await;
    }
    let list = asking.look("/v1/models", QUESTION).await;
    if let Some(list) = list.filter(|list| list.status.is_success())
        && let Some(first) = warmup::first_model(&list.body)
    {
        let name = if model.is_empty() { &first } else { model };
        return vllm::infer(asking, name, within).await;
    }
    (ready(asking).await, "the health path alone: it speaks neither V2 nor OpenAI")
}

async fn knows(asking: &Asking, path: &str) -> bool {
    asking.look(path, QUESTION).await.is_some_and(|reply| reply.status.is_success())
}
