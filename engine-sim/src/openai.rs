//! OpenAI's API as vLLM serves it: `/v1/models`, `/v1/completions`, `/v1/chat/completions`.

use crate::answer::{Choice, Out, Shape, Stream, json, text};
use crate::engine::{Engine, Fate};
use crate::text::{Answer, fingerprint, tokens};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Prompts times `n` of one request, as a bound on what one request may start.
const MOST_CHOICES: usize = 128;
/// Tokens of a completion for which none are asked, OpenAI's default.
const DEFAULT_TOKENS: u64 = 16;

/// What is wrong with a request, in vLLM's shape.
pub(crate) fn error(status: StatusCode, kind: &str, param: Option<&str>, message: &str) -> Response<Out> {
    let error = json!({"message": message, "type": kind, "param": param, "code": status.as_u16()});
    json(status, &json!({"error": error}))
}

fn bad(param: Option<&str>, message: &str) -> Response<Out> {
    error(StatusCode::BAD_REQUEST, "BadRequestError", param, message)
}

/// `/v1/models`.
pub(crate) fn models(engine: &Engine) -> Response<Out> {
    let name = &engine.config.model;
    let model = json!({
        "id": name, "object": "model", "created": created(), "owned_by": "vllm", "root": name, "parent": null,
        "max_model_len": engine.config.max_model_len,
    });
    json(StatusCode::OK, &json!({"object": "list", "data": [model]}))
}

fn created() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A prompt: what it says, and how many tokens it has.
struct Prompt {
    said: String,
    tokens: u32,
}

/// What a request asks for, checked.
struct Asked {
    prompts: Vec<Prompt>,
    copies: usize,
    /// New tokens at most; absent: as many as fit.
    most: Option<u64>,
    stop: Vec<String>,
    ignore_eos: bool,
    echo: bool,
    stream: bool,
    usage: bool,
}

/// Answers a completion, of a chat or not. The future is dropped when the client leaves, and aborts what it started.
pub(crate) async fn complete(engine: &Arc<Engine>, chat: bool, body: &[u8]) -> Response<Out> {
    let fields: Map<String, Value> = match serde_json::from_slice(body) {
        Ok(fields) => fields,
        Err(wrong) => {
            let message = format!("1 validation error: the body is not a JSON object: {wrong}");
            return error(StatusCode::BAD_REQUEST, "Bad Request", Some("body"), &message);
        }
    };
    let model = fields.get("model").and_then(Value::as_str);
    if let Some(other) = model.filter(|m| *m != engine.config.model) {
        let message = format!("The model `{other}` does not exist.");
        return error(StatusCode::NOT_FOUND, "NotFoundError", Some("model"), &message);
    }
    let asked = match asked(&fields, chat) {
        Ok(asked) => asked,
        Err((param, message)) => return bad(Some(param), &message),
    };
    for prompt in &asked.prompts {
        let all = u64::from(prompt.tokens) + asked.most.unwrap_or(1);
        if all > u64::from(engine.config.max_model_len) {
            let message = format!(
                "This model's maximum context length is {} tokens. However, you requested {all} tokens ({} in the \
                 prompt). Please reduce the length of the prompt or of the answer.",
                engine.config.max_model_len, prompt.tokens
            );
            return bad(Some("max_tokens"), &message);
        }
    }
    match engine.admit() {
        Fate::Served(_) => {}
        Fate::Failed => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return error(status, "InternalServerError", None, "the engine failed as it was told to");
        }
        Fate::Hung => std::future::pending().await,
    }
    answer(engine, chat, asked).await
}

async fn answer(engine: &Arc<Engine>, chat: bool, asked: Asked) -> Response<Out> {
    let config = &engine.config;
    let mut choices = Vec::new();
    for prompt in &asked.prompts {
        for copy in 0..asked.copies {
            let room = u64::from(config.max_model_len.saturating_sub(prompt.tokens));
            let most = u32::try_from(asked.most.unwrap_or(room).min(room)).unwrap_or(u32::MAX);
            let seed = fingerprint(config.seed.wrapping_add(copy as u64), prompt.said.as_bytes());
            let answer = Answer::new(seed, most, asked.ignore_eos, &asked.stop);
            let Some(running) = engine.submit(prompt.tokens, answer.tokens, answer.reason) else {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                return error(status, "ServiceUnavailableError", None, "too many requests wait");
            };
            let echo = if asked.echo { prompt.said.clone() } else { String::new() };
            choices.push(Choice { answer, running, sent: 0, finished: false, echo });
        }
    }
    let draw = choices.first().map_or(0, |c| c.running.number());
    let shape = Shape {
        chat,
        id: format!(
            "{}-{:016x}",
            if chat { "chatcmpl" } else { "cmpl" },
            crate::text::mix(config.seed ^ draw)
        ),
        created: created(),
        model: config.model.clone(),
        fingerprint: config.version.clone(),
        prompt_tokens: asked.prompts.iter().map(|p| u64::from(p.tokens)).sum(),
        usage: asked.usage,
    };
    if asked.stream {
        let mut response = Response::new(Out::Stream(Box::new(Stream::new(shape, choices))));
        let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        return response;
    }
    for choice in &mut choices {
        // Waits for the end, not for each token: `seen` beyond every count is only exceeded by it.
        std::future::poll_fn(|context| choice.running.output.poll(u32::MAX, context)).await;
    }
    json(StatusCode::OK, &shape.whole(&choices))
}

type Wrong = (&'static str, String);

fn asked(fields: &Map<String, Value>, chat: bool) -> Result<Asked, Wrong> {
    let prompts =
        if chat { vec![chat_prompt(fields.get("messages"))?] } else { prompts(fields.get("prompt"))? };
    let copies = number(fields, "n")?.unwrap_or(1);
    if copies < 1
        || prompts.len().saturating_mul(usize::try_from(copies).unwrap_or(usize::MAX)) > MOST_CHOICES
    {
        return Err(("n", format!("n is {copies}; allowed: 1 at least, and {MOST_CHOICES} answers in all")));
    }
    let most = match number(fields, "max_completion_tokens")? {
        Some(most) => Some(most),
        None => number(fields, "max_tokens")?,
    };
    if most == Some(0) {
        return Err(("max_tokens", "max_tokens must be at least 1, got 0.".to_owned()));
    }
    let most = if chat { most } else { Some(most.unwrap_or(DEFAULT_TOKENS)) };
    if let Some(temperature) = fields.get("temperature").filter(|t| !t.is_null()) {
        let allowed = temperature.as_f64().is_some_and(|t| t >= 0.0);
        if !allowed {
            let message = format!("temperature must be non-negative, got {temperature}.");
            return Err(("temperature", message));
        }
    }
    let stream = flag(fields, "stream")?;
    let options = fields.get("stream_options").filter(|o| !o.is_null());
    if options.is_some() && !stream {
        let message = "Stream options can only be defined when `stream=True`.".to_owned();
        return Err(("stream_options", message));
    }
    let usage = match options {
        None => false,
        Some(Value::Object(options)) => flag(options, "include_usage")?,
        Some(_) => return Err(("stream_options", "stream_options must be an object".to_owned())),
    };
    Ok(Asked {
        prompts,
        copies: usize::try_from(copies).unwrap_or(1),
        most,
        stop: stop(fields.get("stop"))?,
        ignore_eos: flag(fields, "ignore_eos")?,
        echo: !chat && flag(fields, "echo")?,
        stream,
        usage,
    })
}

fn number(fields: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, Wrong> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) => Ok(Some(number)),
            None => Err((name, format!("{name} must be a non-negative integer, got {value}."))),
        },
    }
}

fn flag(fields: &Map<String, Value>, name: &'static str) -> Result<bool, Wrong> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(value) => Err((name, format!("{name} must be true or false, got {value}."))),
    }
}

fn stop(value: Option<&Value>) -> Result<Vec<String>, Wrong> {
    let wrong = || ("stop", "stop must be a non-empty string or an array of such".to_owned());
    let one = |value: &Value| match value {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        _ => Err(wrong()),
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(all)) => all.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}

fn chat_prompt(messages: Option<&Value>) -> Result<Prompt, Wrong> {
    let wrong = |message: &str| ("messages", message.to_owned());
    let Some(Value::Array(messages)) = messages else { return Err(wrong("messages must be an array")) };
    if messages.is_empty() {
        return Err(wrong("messages is empty; allowed: one message at least"));
    }
    let mut said = String::new();
    for message in messages {
        let Some(role) = message.get("role").and_then(Value::as_str) else {
            return Err(wrong("a message has no role"));
        };
        said.push_str(role);
        said.push_str(": ");
        match message.get("content") {
            Some(Value::String(content)) => said.push_str(content),
            Some(Value::Array(parts)) => {
                for part in parts.iter().filter_map(|p| p.get("text")).filter_map(Value::as_str) {
                    said.push_str(part);
                }
            }
            None | Some(Value::Null) => {}
            Some(_) => return Err(wrong("a message's content must be text or an array of parts")),
        }
        said.push('\n');
    }
    said.push_str("assistant:");
    Ok(Prompt { tokens: tokens(&said), said })
}

/// A text, several texts, a prompt's tokens, or several prompts' tokens.
fn prompts(prompt: Option<&Value>) -> Result<Vec<Prompt>, Wrong> {
    let wrong =
        || ("prompt", "prompt must be a text, an array of texts or an array of token numbers".to_owned());
    let from_text = |said: &str| Prompt { tokens: tokens(said), said: said.to_owned() };
    let from_tokens = |all: &[Value]| {
        let count = u32::try_from(all.len()).ok().filter(|n| *n > 0)?;
        let numbers: Option<Vec<u64>> = all.iter().map(Value::as_u64).collect();
        Some(Prompt { said: numbers?.iter().map(|n| format!("<{n}>")).collect(), tokens: count })
    };
    match prompt {
        Some(Value::String(said)) => Ok(vec![from_text(said)]),
        Some(Value::Array(all)) if all.first().is_some_and(Value::is_u64) => {
            from_tokens(all).map(|p| vec![p]).ok_or_else(wrong)
        }
        Some(Value::Array(all)) if !all.is_empty() && all.len() <= MOST_CHOICES => all
            .iter()
            .map(|one| match one {
                Value::String(said) => Some(from_text(said)),
                Value::Array(numbers) => from_tokens(numbers),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

/// FastAPI's answer to a path that it doesn't have.
pub(crate) fn no_such_path() -> Response<Out> {
    json(StatusCode::NOT_FOUND, &json!({"detail": "Not Found"}))
}

/// FastAPI's answer to a method that a path doesn't have.
pub(crate) fn no_such_method(allowed: &'static str) -> Response<Out> {
    let mut response = json(StatusCode::METHOD_NOT_ALLOWED, &json!({"detail": "Method Not Allowed"}));
    response.headers_mut().insert(hyper::header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// A path that answers without content.
pub(crate) fn empty() -> Response<Out> {
    let mut response = text(StatusCode::OK, "text/plain", String::new());
    response.headers_mut().remove(CONTENT_TYPE);
    response
}

/// For readers of bodies: too large.
pub(crate) fn too_large(most: usize) -> Response<Out> {
    let message = format!("the body is larger than {most} bytes");
    error(StatusCode::PAYLOAD_TOO_LARGE, "BadRequestError", None, &message)
}

/// A body as bytes, or why not.
pub(crate) type Read = Result<Bytes, Response<Out>>;
