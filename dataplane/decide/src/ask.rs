//! What a request asks for, from its method and path alone.

use crate::protocol::Protocol;
use http::Method;
use std::ops::Range;

/// OpenAI's paths and those that vLLM adds to them: POST with a JSON object that names its `model`.
const BODY_PATHS: [&str; 19] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/audio/speech",
    "/v1/rerank",
    "/v1/score",
    "/v2/rerank",
    "/rerank",
    "/score",
    "/classify",
    "/pooling",
    "/tokenize",
    "/detokenize",
    "/v1/chat/completions/render",
];

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Inference; the body names the model.
    ByBody,
    /// Inference or a question about one model; the path names it.
    ByPath {
        /// The protocol.
        protocol: Protocol,
        /// The name, percent-encoding undone.
        model: String,
        /// Where the name stands in the path as it came, in bytes, for an alias to be replaced.
        at: Range<usize>,
    },
    /// `GET /v1/models`: all names.
    Models,
    /// `GET /v1/models/{name}`: one name.
    Model(String),
    /// `GET /v2` or a health question, which the gateway answers for itself.
    Own(Own),
}

/// Questions that the gateway answers for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// `/v2`: who serves here.
    ServerMetadata,
    /// `/v2/health/live`: the process answers.
    Live,
    /// `/v2/health/ready` and `/health`: requests can be served.
    Ready,
}

/// Why a request asks for nothing that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAsk {
    /// No such path: 404.
    Path,
    /// Not with this method: 405; the methods that are allowed, as the `allow` header has them.
    Method(&'static str),
    /// The name in the path is empty, not UTF-8 or a broken percent-encoding: 400.
    Name,
}

/// What a request with this method and path (without query) asks for.
pub fn ask(method: &Method, path: &str) -> Result<Ask, NoAsk> {
    if BODY_PATHS.contains(&path) {
        return allowed(method, &[Method::POST], "POST").map(|()| Ask::ByBody);
    }
    let own = match path {
        "/v2" | "/v2/" => Some(Own::ServerMetadata),
        "/v2/health/live" => Some(Own::Live),
        "/v2/health/ready" | "/health" => Some(Own::Ready),
        _ => None,
    };
    if let Some(own) = own {
        return question(method).map(|()| Ask::Own(own));
    }
    if path == "/v1/models" {
        return question(method).map(|()| Ask::Models);
    }
    if let Some(rest) = path.strip_prefix("/v1/models/") {
        return first(method, rest, path.len() - rest.len());
    }
    if let Some(rest) = path.strip_prefix("/v2/models/") {
        return second(method, rest, path.len() - rest.len());
    }
    Err(NoAsk::Path)
}

/// `{model}:predict`, or OpenAI's `{model}`, whose clients leave the slashes of a name as they are.
fn first(method: &Method, rest: &str, begin: usize) -> Result<Ask, NoAsk> {
    let protocol = Protocol::V1;
    match rest.rsplit_once(':') {
        Some((name, "predict" | "explain")) => {
            let model = decode(name)?;
            allowed(method, &[Method::POST], "POST")?;
            Ok(Ask::ByPath { protocol, model, at: begin..begin + name.len() })
        }
        _ => {
            let model = decode(rest)?;
            question(method).map(|()| Ask::Model(model))
        }
    }
}

/// `{model}[/versions/{version}][/infer|ready|…]`.
fn second(method: &Method, rest: &str, begin: usize) -> Result<Ask, NoAsk> {
    let (name, mut verb) = rest.split_once('/').unwrap_or((rest, ""));
    let model = decode(name)?;
    if let Some(version) = verb.strip_prefix("versions/") {
        let (version, after) = version.split_once('/').unwrap_or((version, ""));
        if version.is_empty() {
            return Err(NoAsk::Path);
        }
        verb = after;
    }
    match verb {
        "infer" | "infer_stream" | "generate" | "generate_stream" => {
            allowed(method, &[Method::POST], "POST")?;
        }
        "" | "ready" | "config" | "stats" => question(method)?,
        _ => return Err(NoAsk::Path),
    }
    Ok(Ask::ByPath { protocol: Protocol::V2, model, at: begin..begin + name.len() })
}

fn question(method: &Method) -> Result<(), NoAsk> {
    allowed(method, &[Method::GET, Method::HEAD], "GET, HEAD")
}

fn allowed(method: &Method, these: &[Method], words: &'static str) -> Result<(), NoAsk> {
    if these.contains(method) { Ok(()) } else { Err(NoAsk::Method(words)) }
}

/// Undoes percent-encoding.
fn decode(name: &str) -> Result<String, NoAsk> {
    let mut out = Vec::with_capacity(name.len());
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        let (high, low) = (digit().ok_or(NoAsk::Name)?, digit().ok_or(NoAsk::Name)?);
        out.push((high * 16 + low) as u8);
    }
    String::from_utf8(out).ok().filter(|name| !name.is_empty()).ok_or(NoAsk::Name)
}

/// The path with the name at `at` replaced; everything but unreserved characters is percent-encoded, so that no
/// name can change which path it is.
pub fn rename(path: &str, at: &Range<usize>, name: &str) -> String {
    let mut out = String::with_capacity(path.len() + name.len());
    out.push_str(path.get(..at.start).unwrap_or_default());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for half in [byte >> 4, byte & 15] {
                out.extend(char::from_digit(u32::from(half), 16).map(|digit| digit.to_ascii_uppercase()));
            }
        }
    }
    out.push_str(path.get(at.end..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(method: Method, path: &str) -> Result<String, NoAsk> {
        match ask(&method, path)? {
            Ask::ByPath { model, at, .. } => {
                assert_eq!(decode(path.get(at).unwrap()), Ok(model.clone()));
                Ok(model)
            }
            Ask::Model(model) => Ok(model),
            other => Ok(format!("{other:?}")),
        }
    }

    #[test]
    fn paths_name_their_model() {
        for (method, path, model) in [
            (Method::POST, "/v1/models/iris:predict", "iris"),
            (Method::POST, "/v1/models/a:b:predict", "a:b"),
            (Method::POST, "/v1/models/my%20model:predict", "my model"),
            (Method::POST, "/v2/models/iris/infer", "iris"),
            (Method::POST, "/v2/models/my%20model/versions/3/infer", "my model"),
            (Method::POST, "/v2/models/a%2Fb/generate_stream", "a/b"),
            (Method::GET, "/v2/models/iris", "iris"),
            (Method::GET, "/v2/models/iris/versions/1", "iris"),
            (Method::GET, "/v2/models/iris/ready", "iris"),
            (Method::GET, "/v1/models/meta-llama/Llama-3", "meta-llama/Llama-3"),
            (Method::GET, "/v1/models/meta-llama%2FLlama-3", "meta-llama/Llama-3"),
            (Method::GET, "/v1/models", "Models"),
            (Method::POST, "/v1/chat/completions", "ByBody"),
            (Method::GET, "/v2/health/ready", "Own(Ready)"),
        ] {
            assert_eq!(name(method, path).as_deref(), Ok(model), "{path}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let question = NoAsk::Method("GET, HEAD");
        for (method, path, refusal) in [
            (Method::GET, "/v1/chat/completions", NoAsk::Method("POST")),
            (Method::GET, "/v2/models/iris/infer", NoAsk::Method("POST")),
            (Method::DELETE, "/v1/models/iris", question),
            (Method::POST, "/v1/models", question),
            (Method::POST, "/v2/models/iris", question),
            (Method::POST, "/v2/models//infer", NoAsk::Name),
            (Method::POST, "/v2/models/%ff/infer", NoAsk::Name),
            (Method::POST, "/v2/models/%4/infer", NoAsk::Name),
            (Method::POST, "/v2/models/%zz/infer", NoAsk::Name),
            (Method::POST, "/v2/models/%+1/infer", NoAsk::Name),
            (Method::POST, "/v1/models/:predict", NoAsk::Name),
            (Method::POST, "/v2/models/iris/unload", NoAsk::Path),
            (Method::POST, "/v2/models/iris/versions//infer", NoAsk::Path),
            (Method::POST, "/v2/models/a/b/infer", NoAsk::Path),
            (Method::GET, "/metrics", NoAsk::Path),
            (Method::GET, "/", NoAsk::Path),
            (Method::OPTIONS, "*", NoAsk::Path),
        ] {
            assert_eq!(name(method, path), Err(refusal), "{path}");
        }
    }

    proptest! {
        /// Whatever a name holds, slashes, percents and dots included, the renamed path asks for it and nothing
        /// else changes.
        #[test]
        fn a_renamed_path_asks_for_the_name(from in "[a-z%25/ é]{1,8}", to in ".{1,12}") {
            let path = rename("/v2/models/x/versions/1/infer", &(11..12), &from);
            let Ok(Ask::ByPath { model, at, .. }) = ask(&Method::POST, &path) else {
                return Err(TestCaseError::fail(path));
            };
            prop_assert_eq!(model, from);
            let renamed = rename(&path, &at, &to);
            let Ok(Ask::ByPath { model, .. }) = ask(&Method::POST, &renamed) else {
                return Err(TestCaseError::fail(renamed));
            };
            prop_assert_eq!(model, to);
            prop_assert!(renamed.starts_with("/v2/models/") && renamed.ends_with("/versions/1/infer"));
        }

        #[test]
        fn any_path_is_survived(path in ".{0,60}") {
            let _ = ask(&Method::POST, &path);
            let _ = ask(&Method::GET, &format!("/v2/models/{path}"));
            let _ = ask(&Method::GET, &format!("/v1/models/{path}"));
        }
    }
}
