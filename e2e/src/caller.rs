//! Callers of a model: a steady stream of completions, short ones and long streamed ones, each of which is accounted
//! for. Plain sockets, one connection a request, so that nothing retries or hides a failure.

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long one answer may take in all: longer than any stream that is asked for.
const LONGEST: Duration = Duration::from_secs(180);
/// Failures that are kept word by word.
const KEPT: usize = 20;

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The engine's version, in the header that the simulated engine sends.
    pub version: String,
    /// The gateway's or the sidecar's reason, where one of them answered by itself.
    pub reason: String,
    /// The body.
    pub body: String,
}

/// What callers counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that were answered as they should be, by the engine's version.
    pub fine: BTreeMap<String, u64>,
    /// When the last of them was sent, after the start, by the engine's version.
    pub last_sent: BTreeMap<String, Duration>,
    /// Requests that were not.
    pub failed: u64,
    /// When the last of them was sent, after the start.
    pub last_failed: Duration,
    /// The first failures in words, each with how long after the start it came.
    pub failures: Vec<String>,
}

impl Tally {
    /// All requests.
    pub fn all(&self) -> u64 {
        self.fine.values().sum::<u64>() + self.failed
    }

    /// Answers of one version.
    pub fn of(&self, version: &str) -> u64 {
        self.fine.get(version).copied().unwrap_or(0)
    }

    /// When the last request was sent that this version answered; absent when it answered none. An answer may come
    /// long after it was decided who gives it.
    pub fn last_sent_to(&self, version: &str) -> Option<Duration> {
        self.last_sent.get(version).copied()
    }
}

/// Sends one completion and reads the whole answer; `tokens` of them streamed when `stream`.
///
/// # Errors
/// When there is no whole answer.
pub fn complete(gateway: &str, model: &str, tokens: u32, stream: bool) -> Result<Answer> {
    let body = json!({"model": model, "prompt": "Hello", "max_tokens": tokens, "stream": stream, "ignore_eos": true});
    post(gateway, "/v1/completions", &body.to_string(), "")
}

/// Sends a POST with JSON and reads the whole answer; `headers` are further lines, each with its end.
///
/// # Errors
/// When there is no whole answer.
pub fn post(address: &str, path: &str, body: &str, headers: &str) -> Result<Answer> {
    let mut socket = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    socket.set_read_timeout(Some(LONGEST))?;
    socket.set_nodelay(true)?;
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         {headers}connection: close\r\n\r\n"
    );
    socket.write_all(head.as_bytes())?;
    socket.write_all(body.as_bytes())?;
    let mut answer = Vec::new();
    let read = socket.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    read.with_context(|| format!("after {} bytes", text.len()))?;
    parse(&text)
}

/// Sends a GET and reads the whole answer.
///
/// # Errors
/// When there is no whole answer.
pub fn get(address: &str, path: &str) -> Result<Answer> {
    let mut socket = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
    socket.set_read_timeout(Some(LONGEST))?;
    socket.write_all(
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(text: &str) -> Result<Answer> {
    let (head, body) = text.split_once("\r\n\r\n").context("no whole head")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let field = |name: &str| {
        let lines = head.lines().filter_map(|line| line.split_once(':'));
        let found = lines.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    if let Ok(length) = field("content-length").parse::<usize>()
        && length != body.len()
    {
        bail!("{} of {length} bytes came", body.len());
    }
    if field("transfer-encoding").contains("chunked") && !body.ends_with("0\r\n\r\n") {
        bail!("the chunked answer has no end: …{}", tail(body));
    }
    Ok(Answer {
        status,
        version: field("x-engine-version"),
        reason: field("x-outrigger-reason"),
        body: body.to_owned(),
    })
}

fn tail(body: &str) -> String {
    let skip = body.chars().count().saturating_sub(120);
    body.chars().skip(skip).collect()
}

/// Callers that go on until they are stopped.
#[derive(Debug)]
pub struct Callers {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    began: Instant,
    threads: Vec<JoinHandle<()>>,
}

impl Callers {
    /// `count` callers, each of which sends a completion of `tokens` tokens, waits for its end and rests for `rest`.
    pub fn start(
        gateway: &str,
        model: &str,
        count: usize,
        tokens: u32,
        stream: bool,
        rest: Duration,
    ) -> Self {
        let (tally, stop) = (Arc::<Mutex<Tally>>::default(), Arc::<AtomicBool>::default());
        let began = Instant::now();
        let call = |_| {
            let (gateway, model) = (gateway.to_owned(), model.to_owned());
            let (tally, stop) = (Arc::clone(&tally), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let sent = began.elapsed();
                    let answer = complete(&gateway, &model, tokens, stream);
                    count_in(&tally, sent, answer, stream);
                    std::thread::sleep(rest); // between two looks
                }
            })
        };
        Self { threads: (0..count).map(call).collect(), tally, stop, began }
    }

    /// How long they have been calling.
    pub fn since(&self) -> Duration {
        self.began.elapsed()
    }

    /// What was counted so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends nothing further. What is under way goes on to its end, which [`Self::stop`] waits for.
    pub fn no_more(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Sends nothing further, waits for the answers that are under way and says what was counted.
    pub fn stop(mut self) -> Tally {
        self.no_more();
        for thread in self.threads.drain(..) {
            // A thread that panicked has counted what it had.
            let _ = thread.join();
        }
        self.tally()
    }
}

#[allow(clippy::print_stderr, reason = "shown where a test failed, with the rest of what it printed")]
impl Drop for Callers {
    fn drop(&mut self) {
        // Left early, by a test that fails: what was counted tells why.
        if std::thread::panicking() {
            eprintln!("after {:.1} s: {:?}", self.since().as_secs_f64(), self.tally());
        }
        self.no_more();
    }
}

fn count_in(tally: &Mutex<Tally>, sent: Duration, answer: Result<Answer>, stream: bool) {
    let failure = match answer {
        Ok(answer) if answer.status == 200 && (!stream || answer.body.contains("data: [DONE]")) => {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            let last = tally.last_sent.entry(answer.version.clone()).or_default();
            *last = sent.max(*last);
            *tally.fine.entry(answer.version).or_default() += 1;
            return;
        }
        Ok(answer) => format!("status {} {} …{}", answer.status, answer.reason, tail(&answer.body)),
        Err(error) => format!("{error:#}"),
    };
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    tally.failed += 1;
    tally.last_failed = tally.last_failed.max(sent);
    if tally.failures.len() < KEPT {
        let ended = format!("sent at {:.1} s: {failure}", sent.as_secs_f64());
        tally.failures.push(ended);
    }
}
