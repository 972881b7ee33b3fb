//! MLServer, the V2 protocol: up when the server and the model are ready; warmed by an inference of zeros in the
//! shape that the model's metadata asks for.
//!
//! Many models' metadata names no inputs (it is optional), and some refuse made-up ones with a 4xx. Then the
//! model's own ready endpoint is all there is, and `/status` says that it was taken for a warm-up.

use super::asking::{Asking, Reply, segment};
use super::{QUESTION, is_up, of};
use outrigger_decide::health::Answer;
use outrigger_decide::warmup;
use std::time::Duration;

pub(super) async fn ready(asking: &Asking, model: &str) -> Answer {
    let server = is_up(asking.look("/v2/health/ready", QUESTION).await.as_ref());
    if server != Answer::Good || model.is_empty() {
        return server;
    }
    model_ready(asking, model).await
}

async fn model_ready(asking: &Asking, model: &str) -> Answer {
    is_up(asking.look(&format!("/v2/models/{}/ready", segment(model)), QUESTION).await.as_ref())
}

pub(super) async fn infer(asking: &Asking, model: &str, within: Duration) -> (Answer, &'static str) {
    if model.is_empty() {
        return (ready(asking, "").await, "the server's ready endpoint alone: no model is named");
    }
    let path = format!("/v2/models/{}", segment(model));
    let metadata = match asking.look(&path, QUESTION).await {
        Some(reply) if reply.status.is_success() => reply.body,
        reply => return (of(reply.as_ref()), ""),
    };
    let Some(zeros) = warmup::zeros(&metadata) else {
        return (
            model_ready(asking, model).await,
            "the model's ready endpoint: its metadata names no inputs",
        );
    };
    let reply = asking.post(&format!("{path}/infer"), zeros, within).await;
    if reply.as_ref().is_some_and(|r| Reply::declines(r) || r.wants_a_key()) {
        return (
            model_ready(asking, model).await,
            "the model's ready endpoint: it refused an inference of zeros",
        );
    }
    (of(reply.as_ref()), "an inference of zeros")
}
