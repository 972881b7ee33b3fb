//! What goes back over HTTP: whole answers, streams of tokens, and silence.

use crate::engine::Running;
use crate::text::Answer;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A response's body.
#[derive(Debug)]
pub(crate) enum Out {
    /// All of it, once.
    Whole(Option<Bytes>),
    /// Tokens as they come.
    Stream(Box<Stream>),
}

impl Body for Out {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream(stream) => stream.poll(context).map(|piece| piece.map(|p| Ok(Frame::data(p)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// JSON with a status.
pub(crate) fn json(status: StatusCode, body: &Value) -> Response<Out> {
    text(status, "application/json", body.to_string())
}

/// Text of a type.
pub(crate) fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Out> {
    bytes(status, HeaderValue::from_static(kind), body.into())
}

/// Bytes of a type.
pub(crate) fn bytes(status: StatusCode, kind: HeaderValue, body: Bytes) -> Response<Out> {
    let mut response = Response::new(Out::Whole(Some(body).filter(|b| !b.is_empty())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// One choice of an answer: what it will say, and how far it has come.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) answer: Answer,
    pub(crate) running: Running,
    pub(crate) sent: u32,
    pub(crate) finished: bool,
    /// What stands before the answer (`echo`).
    pub(crate) echo: String,
}

/// How an answer's pieces look.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) chat: bool,
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) fingerprint: String,
    pub(crate) prompt_tokens: u64,
    pub(crate) usage: bool,
}

impl Shape {
    fn head(&self, object: &str, choices: &Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "system_fingerprint": self.fingerprint, "choices": choices,
        })
    }

    pub(crate) fn usage(&self, completion: u64) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens, "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
        })
    }

    /// The whole answer, unstreamed.
    pub(crate) fn whole(&self, choices: &[Choice]) -> Value {
        let completion = choices.iter().map(|c| u64::from(c.answer.tokens)).sum();
        let all: Vec<Value> = choices
            .iter()
            .enumerate()
            .map(|(index, choice)| {
                let text = format!("{}{}", choice.echo, choice.answer.text(0, choice.answer.tokens));
                let reason = choice.answer.reason;
                if self.chat {
                    let message = json!({"role": "assistant", "content": text});
                    json!({"index": index, "message": message, "logprobs": null, "finish_reason": reason})
                } else {
                    json!({"index": index, "text": text, "logprobs": null, "finish_reason": reason})
                }
            })
            .collect();
        let mut body =
            self.head(if self.chat { "chat.completion" } else { "text_completion" }, &Value::Array(all));
        if let Some(fields) = body.as_object_mut() {
            fields.insert("usage".to_owned(), self.usage(completion));
        }
        body
    }

    fn chunk(&self, choices: &Value, usage: Option<Value>) -> Bytes {
        let object = if self.chat { "chat.completion.chunk" } else { "text_completion" };
        let mut body = self.head(object, choices);
        if let (Some(usage), Some(fields)) = (usage, body.as_object_mut()) {
            fields.insert("usage".to_owned(), usage);
        }
        format!("data: {body}\n\n").into()
    }

    fn piece(&self, index: usize, text: &str, reason: Option<&str>) -> Bytes {
        let choice = if self.chat {
            json!({"index": index, "delta": {"content": text}, "logprobs": null, "finish_reason": reason})
        } else {
            json!({"index": index, "text": text, "logprobs": null, "finish_reason": reason})
        };
        self.chunk(&json!([choice]), None)
    }

    fn role(&self, index: usize) -> Bytes {
        let delta = json!({"role": "assistant", "content": ""});
        self.chunk(&json!([{"index": index, "delta": delta, "logprobs": null, "finish_reason": null}]), None)
    }
}

/// An answer that is told token by token. Dropped with its connection, it aborts its sequences.
#[derive(Debug)]
pub(crate) struct Stream {
    shape: Shape,
    choices: Vec<Choice>,
    /// At most a few per new token, and taken before further tokens are asked for.
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl Stream {
    pub(crate) fn new(shape: Shape, choices: Vec<Choice>) -> Self {
        Self { shape, choices, ready: VecDeque::new(), ended: false }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Poll::Ready(Some(piece));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            if self.choices.iter().all(|c| c.finished) {
                self.end();
                continue;
            }
            let mut progressed = false;
            for (index, choice) in self.choices.iter_mut().enumerate().filter(|(_, c)| !c.finished) {
                let Poll::Ready((tokens, finished)) = choice.running.output.poll(choice.sent, context) else {
                    continue;
                };
                progressed = true;
                if choice.sent == 0 && self.shape.chat {
                    self.ready.push_back(self.shape.role(index));
                }
                if choice.sent == 0 && !choice.echo.is_empty() {
                    self.ready.push_back(self.shape.piece(index, &choice.echo, None));
                }
                for token in choice.sent..tokens {
                    let reason = (finished && token + 1 == tokens).then_some(choice.answer.reason);
                    let text = choice.answer.text(token, token + 1);
                    self.ready.push_back(self.shape.piece(index, &text, reason));
                }
                (choice.sent, choice.finished) = (tokens, finished);
            }
            if !progressed {
                return Poll::Pending;
            }
        }
    }

    fn end(&mut self) {
        self.ended = true;
        if self.shape.usage {
            let completion = self.choices.iter().map(|c| u64::from(c.answer.tokens)).sum();
            self.ready.push_back(self.shape.chunk(&json!([]), Some(self.shape.usage(completion))));
        }
        self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
    }
}
