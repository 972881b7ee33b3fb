//! One batch: sent as one request, its answer taken apart for those who are in it.

use crate::queue::{Companion, Permit, Queue, Turn};
use crate::upstream::{Failure, Upstream};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Response, StatusCode, header, request::Parts, response};
use outrigger_dataplane::refuse::Refusal;
use outrigger_dataplane::upstream::RequestBody;
use outrigger_decide::admission::Ticket;
use outrigger_decide::batch::{self, Mergeable, SplitError};
use std::rc::Rc;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The largest answer to a batch that is taken apart, in bytes: it is held whole, and once more in parts.
const MAX_ANSWER: usize = 64 << 20;

/// Headers of an answer that describe its body as a whole, or the connection that it came over, and so no longer
/// hold for a part of it.
const OF_THE_WHOLE: [HeaderName; 11] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::ETAG,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("keep-alive"),
];

/// Somebody in a batch.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its place in the queue, should it have to go again.
    pub(crate) ticket: Ticket,
    /// Where it waits.
    pub(crate) turn: oneshot::Sender<Turn>,
    /// What it sent.
    pub(crate) companion: Box<Companion>,
}

/// What an engine said to a batch.
enum Outcome {
    /// Each gets its part.
    Parts(response::Parts, Vec<Bytes>),
    /// Everybody gets the same.
    Same(response::Parts, Bytes),
    /// Everybody is refused.
    Refused(Refusal),
    /// It failed and nobody knows whose rows are to blame: each goes once more, alone.
    Singly,
}

/// Sends the batch and answers everybody in it. When all of them have left, the call is dropped, and with it the
/// work in the engine.
///
/// Once the engine has answered, its next batch comes first: it is sent before this one's answer is taken apart,
/// so that the engine isn't idle meanwhile.
pub(crate) async fn run(queue: Rc<Queue>, upstream: Rc<Upstream>, mut members: Vec<Member>, permit: Permit) {
    let answered = {
        let (companions, mut turns): (Vec<&Companion>, Vec<_>) =
            members.iter_mut().map(|member| (&*member.companion, &mut member.turn)).unzip();
        let all_left = async {
            for turn in &mut turns {
                turn.closed().await;
            }
        };
        tokio::select! {
            answered = call(&upstream, &companions) => answered,
            () = all_left => return,
        }
    };
    let (head, bytes) = match answered {
        Ok(answer) => answer,
        Err(failure) => return answer(&queue, members, Outcome::Refused(Refusal::from(&failure))),
    };
    // Those who go again have to be in the queue when it asks who is next.
    let permit = (!head.status.is_success()).then_some(permit);
    if permit.is_none() {
        tokio::task::yield_now().await;
    }
    let rows: Vec<&Mergeable> = members.iter().map(|member| &member.companion.rows).collect();
    let outcome = judge(&rows, head, bytes);
    answer(&queue, members, outcome);
    drop(permit);
}

async fn call(upstream: &Upstream, companions: &[&Companion]) -> Result<(response::Parts, Bytes), Failure> {
    let head = companions
        .first()
        .map(|first| head(&first.head))
        .unwrap_or_else(|| http::Request::new(()).into_parts().0);
    let rows: Vec<&Mergeable> = companions.iter().map(|companion| &companion.rows).collect();
    let merged = batch::merge(&rows);
    let requests = u32::try_from(rows.len()).unwrap_or(u32::MAX);
    upstream.metrics().batch(requests, rows.iter().map(|r| u64::from(r.rows())).sum());
    let token = upstream.flight().start(requests, merged.len() as u64);
    let mut body = RequestBody::full(merged);
    let (answer, mut token) = upstream.send(&head, &mut body, token, Instant::now()).await?;
    let (head, incoming) = answer.into_parts();
    let bytes = incoming.read(MAX_ANSWER).await.map_err(|error| {
        upstream.failed(&error);
        Failure::Upstream(error)
    })?;
    token.answered();
    Ok((head, bytes))
}

/// The head of a batch: the first one's, which has the same as all others in everything that matters. The answer
/// has to be read, so it must not be compressed.
fn head(first: &Parts) -> Parts {
    let mut head = first.clone();
    head.headers.remove(header::ACCEPT_ENCODING);
    head
}

fn judge(rows: &[&Mergeable], head: response::Parts, bytes: Bytes) -> Outcome {
    match head.status {
        status if status.is_success() => {
            let Some(form) = rows.first().map(|r| r.form()) else { return Outcome::Singly };
            let readable = !head.headers.contains_key(header::CONTENT_ENCODING)
                && !head.headers.contains_key("inference-header-content-length");
            let members: Vec<batch::Member> = rows.iter().map(|r| r.member()).collect();
            match batch::split(form, &members, &bytes) {
                Ok(parts) if readable => Outcome::Parts(head, parts),
                Err(error @ SplitError::Count { .. }) if readable => Outcome::Refused(Refusal::new(
                    StatusCode::BAD_GATEWAY,
                    "row_count_mismatch",
                    error.to_string(),
                )),
                _ => Outcome::Singly,
            }
        }
        // The engine is busy or away: asking once for each caller would only make that worse.
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Outcome::Same(head, bytes),
        _ => Outcome::Singly,
    }
}

fn answer(queue: &Rc<Queue>, members: Vec<Member>, outcome: Outcome) {
    match outcome {
        Outcome::Parts(head, parts) => {
            for (member, part) in members.into_iter().zip(parts) {
                member.tell(Turn::Answered(Box::new(part_of(&head, part))));
            }
        }
        Outcome::Same(head, bytes) => {
            for member in members {
                member.tell(Turn::Answered(Box::new(part_of(&head, bytes.clone()))));
            }
        }
        Outcome::Refused(refusal) => {
            for member in members {
                member.tell(Turn::Refused(refusal.clone()));
            }
        }
        Outcome::Singly => {
            for member in members {
                if !member.turn.is_closed() {
                    let Companion { rows, deadline, .. } = *member.companion;
                    queue.again(member.ticket, member.turn, rows.body().len() as u64, deadline);
                }
            }
            queue.pump();
        }
    }
}

impl Member {
    fn tell(self, turn: Turn) {
        // Who has left doesn't hear it: its rows are discarded.
        let _ = self.turn.send(turn);
    }
}

fn part_of(head: &response::Parts, part: Bytes) -> Response<Bytes> {
    let mut headers: HeaderMap = head.headers.clone();
    for name in &OF_THE_WHOLE {
        headers.remove(name);
    }
    let mut response = Response::new(part);
    *response.status_mut() = head.status;
    *response.headers_mut() = headers;
    response
}
