//! `outrigger-operator check`: asks a gateway for one completion until it gives one. What `helm test` runs, in an
//! image that is there anyway.

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use outrigger_dataplane::config::Mistakes;
use outrigger_wire::{Mistake, Period};
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// How long one attempt may take: a small engine's first completion.
const ATTEMPT: Duration = Duration::from_secs(20);
/// The rest between two attempts, drawn between half and the whole.
const REST: Duration = Duration::from_secs(1);
/// The largest answer that is read, in bytes.
const LARGEST: usize = 1 << 20;

/// What is asked of whom.
#[derive(Clone, Debug)]
pub struct Check {
    url: Uri,
    model: String,
    within: Duration,
}

impl Check {
    /// Reads the flags' texts.
    pub(crate) fn read(url: &str, model: &str, within: &str, mistakes: &mut Mistakes) -> Option<Self> {
        let uri: Option<Uri> = mistakes.parse("--url", Some(url), "http://host[:port]");
        let uri = uri.filter(|uri| {
            let fits = uri.scheme_str() == Some("http") && uri.host().is_some();
            if !fits {
                mistakes.push(Mistake::new(
                    "--url",
                    format!("`{url}` is no address; allowed: http://host[:port]"),
                ));
            }
            fits
        });
        let within: Option<Period> =
            mistakes.parse("--within", Some(within), "a time, such as 150s, up to 1h");
        let within = within.filter(|within| {
            let fits = *within <= Period::secs(3600);
            if !fits {
                mistakes
                    .push(Mistake::new("--within", format!("{within} is out of range; allowed: 0s to 1h")));
            }
            fits
        });
        Some(Self { url: uri?, model: model.to_owned(), within: within?.get() })
    }

    /// Asks until there is an answer, and prints it.
    ///
    /// # Errors
    /// When there is none in time; with the last answer in words.
    pub async fn run(&self) -> anyhow::Result<()> {
        let until = Instant::now() + self.within;
        loop {
            let attempt = tokio::time::timeout(ATTEMPT, self.ask()).await;
            let why = match attempt {
                Ok(Ok(answer)) => {
                    let _ = writeln!(std::io::stdout(), "{} answers: {answer}", self.model);
                    return Ok(());
                }
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => format!("no answer within {} s", ATTEMPT.as_secs()),
            };
            if Instant::now() >= until {
                bail!(
                    "no completion of {} at {} within {} s: {why}",
                    self.model,
                    self.url,
                    self.within.as_secs()
                );
            }
            let _ = writeln!(std::io::stdout(), "not yet: {why}");
            tokio::time::sleep(REST.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }

    async fn ask(&self) -> anyhow::Result<String> {
        let host = self.url.host().context("the address has no host")?;
        let port = self.url.port_u16().unwrap_or(80);
        let stream = TcpStream::connect((host, port)).await.with_context(|| format!("{host}:{port}"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let body = json!({"model": self.model, "prompt": "Hello", "max_tokens": 4}).to_string();
        let request = Request::post("/v1/completions")
            .header(hyper::header::HOST, format!("{host}:{port}"))
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        #[allow(clippy::disallowed_methods, reason = "bounded by LARGEST")]
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        driver.abort();
        let body = body.map_err(|error| anyhow::anyhow!("the answer can't be read: {error}"))?.to_bytes();
        said(status, &body)
    }
}

/// The text of a completion.
fn said(status: StatusCode, body: &[u8]) -> anyhow::Result<String> {
    if status != StatusCode::OK {
        let words: String = String::from_utf8_lossy(body).chars().take(300).collect();
        bail!("status {}: {}", status.as_u16(), words.trim());
    }
    let answer: Value = serde_json::from_slice(body).context("the answer is no JSON")?;
    let text = answer.pointer("/choices/0/text").and_then(Value::as_str).unwrap_or_default();
    if text.trim().is_empty() {
        bail!("the answer has no text");
    }
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_completion_with_text_is_an_answer() {
        let fine = br#"{"choices": [{"text": " hello there"}]}"#;
        assert_eq!(said(StatusCode::OK, fine).unwrap(), "hello there");
        for (status, body) in [
            (StatusCode::OK, "{}"),
            (StatusCode::OK, "hello"),
            (StatusCode::OK, r#"{"choices": [{"text": " "}]}"#),
            (StatusCode::NOT_FOUND, r#"{"choices": [{"text": "x"}]}"#),
        ] {
            assert!(said(status, body.as_bytes()).is_err(), "{status} {body}");
        }
    }
}
