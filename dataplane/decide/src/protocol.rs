//! The protocols that clients speak, and what an error looks like in each.

use serde_json::json;

/// The protocol that a request was made in, told from its path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// OpenAI's: `/v1/chat/completions` and its like. Also what is answered where nothing else is known.
    #[default]
    OpenAi,
    /// KServe's first: `/v1/models/{model}:predict`.
    V1,
    /// Open Inference, KServe's second: `/v2/…`.
    V2,
}

impl Protocol {
    /// The protocol of this path; unknown paths get [`Protocol::OpenAi`].
    pub fn of(path: &str) -> Self {
        if path == "/v2" || path.starts_with("/v2/") {
            return Self::V2;
        }
        // `:predict` ends a V1 path; OpenAI has `/v1/models/{id}` without a verb.
        let verb = path.strip_prefix("/v1/models/").and_then(|rest| rest.rsplit_once(':'));
        match verb {
            Some((_, "predict" | "explain")) => Self::V1,
            _ => Self::OpenAi,
        }
    }

    /// An error's body as this protocol's clients read it. `status` is the HTTP status, `code` one word for
    /// programs, `message` a sentence for people, `param` the field of the request that is wrong.
    pub fn error(self, status: u16, code: &str, message: &str, param: Option<&str>) -> String {
        match self {
            Self::OpenAi => {
                let kind = match status {
                    401 | 403 => "authentication_error",
                    429 => "rate_limit_error",
                    400..500 => "invalid_request_error",
                    _ => "server_error",
                };
                json!({"error": {"message": message, "type": kind, "param": param, "code": code}}).to_string()
            }
            Self::V1 | Self::V2 => json!({ "error": message }).to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_from_paths() {
        for (path, protocol) in [
            ("/v1/chat/completions", Protocol::OpenAi),
            ("/v1/models", Protocol::OpenAi),
            ("/v1/models/a:b", Protocol::OpenAi),
            ("/v1/models/iris:predict", Protocol::V1),
            ("/v2", Protocol::V2),
            ("/v2/models/iris/infer", Protocol::V2),
            ("/v2x", Protocol::OpenAi),
            ("", Protocol::OpenAi),
        ] {
            assert_eq!(Protocol::of(path), protocol, "{path}");
        }
    }

    /// The shape that the OpenAI clients parse: an `error` object with four keys, `param` null when nothing is
    /// named.
    #[test]
    fn errors_have_the_protocols_shape() {
        let body = Protocol::OpenAi.error(404, "model_not_found", "no \"x\"", None);
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        let expected = json!({"error": {
            "message": "no \"x\"", "type": "invalid_request_error", "param": null, "code": "model_not_found",
        }});
        assert_eq!(value, expected);
        assert_eq!(Protocol::V2.error(503, "unavailable", "none", None), r#"{"error":"none"}"#);
        for (status, kind) in [(429, "rate_limit_error"), (503, "server_error"), (504, "server_error")] {
            assert!(Protocol::OpenAi.error(status, "x", "x", None).contains(kind), "{status}");
        }
    }
}
