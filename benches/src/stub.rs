//! The stub upstream: small JSON, event streams with or without a pace, and a single-flight batch engine.
//!
//! * `POST /v1/completions`: about 300 bytes of JSON.
//! * `POST /v1/chat/completions`: 64 chunks and `[DONE]`, each its own write; the header `x-pace-us` paces them.
//! * `POST /v2/models/{m}/infer`: 5 ms + 0.2 ms per row, one call at a time, as many rows out as in.
//! * everything else: 200 and a small JSON object, so that health checks and warm-ups pass.

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

/// Chunks of a stream, `[DONE]` not counted.
pub const CHUNKS: usize = 64;
/// What a batch takes, whatever its size.
pub const BATCH_BASE: Duration = Duration::from_micros(5000);
/// What each row takes besides.
pub const BATCH_ROW: Duration = Duration::from_micros(200);
/// A request, at most.
const MAX_REQUEST: usize = 16 * 1024 * 1024;

/// Serves until the listener fails.
pub async fn serve(listener: TcpListener) -> Result<()> {
    let engine = Arc::new(Mutex::new(()));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let engine = Arc::clone(&engine);
        // A connection that breaks is the business of who broke it.
        tokio::spawn(async move { connection(stream, &engine).await });
    }
}

async fn connection(mut stream: TcpStream, engine: &Mutex<()>) -> Result<()> {
    let small = small();
    let mut buffer = BytesMut::with_capacity(16 * 1024);
    loop {
        let Some((head, body)) = request(&mut stream, &mut buffer).await? else { return Ok(()) };
        let path = head.split(' ').nth(1).unwrap_or_default();
        if path.starts_with("/v1/completions") {
            stream.write_all(&small).await?;
        } else if path.starts_with("/v1/chat/completions") {
            let pace = header(&head, "x-pace-us").and_then(|pace| pace.parse().ok()).unwrap_or(0);
            stream_events(&mut stream, Duration::from_micros(pace)).await?;
        } else if path.contains("/infer") {
            let answer = infer(&body, engine).await.unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"));
            stream.write_all(&json(&answer)).await?;
        } else {
            stream.write_all(&json("{\"ok\":true}")).await?;
        }
    }
}

/// Reads one request; `None` when the peer has closed between two.
async fn request(stream: &mut TcpStream, buffer: &mut BytesMut) -> Result<Option<(String, BytesMut)>> {
    let end = loop {
        if let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(buffer.len() < MAX_REQUEST, "a head without an end");
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8(buffer.split_to(end).to_vec())?;
    let length: usize = match header(&head, "content-length") {
        Some(length) => length.parse()?,
        None => 0,
    };
    ensure!(length < MAX_REQUEST, "a body of {length} bytes");
    while buffer.len() < length {
        ensure!(stream.read_buf(buffer).await? > 0, "closed within a body");
    }
    Ok(Some((head, buffer.split_to(length))))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.split("\r\n").filter_map(|line| line.split_once(':'));
    fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn json(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What an engine answers to a short completion.
fn small() -> Vec<u8> {
    json(
        "{\"id\":\"cmpl-0123456789abcdef\",\"object\":\"text_completion\",\"created\":1760000000,\"model\":\"m\",\
         \"choices\":[{\"index\":0,\"text\":\" world, and a little more text so that it has a usual size\",\
         \"logprobs\":null,\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":5,\"total_tokens\":21,\
         \"completion_tokens\":16}}",
    )
}

async fn stream_events(stream: &mut TcpStream, pace: Duration) -> Result<()> {
    stream
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await?;
    let mut chunk = String::new();
    for i in 0..=CHUNKS {
        let event = if i == CHUNKS {
            "data: [DONE]\n\n".to_owned()
        } else {
            format!(
                "data: {{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":\
                 1760000000,\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" token{i}\"}},\
                 \"finish_reason\":null}}]}}\n\n"
            )
        };
        chunk.clear();
        write!(chunk, "{:x}\r\n{event}\r\n", event.len())?;
        if i == CHUNKS {
            chunk.push_str("0\r\n\r\n");
        }
        stream.write_all(chunk.as_bytes()).await?;
        if !pace.is_zero() && i < CHUNKS {
            tokio::time::sleep(pace).await;
        }
    }
    Ok(())
}

/// Answers a V2 request after the time that its rows take.
async fn infer(body: &[u8], engine: &Mutex<()>) -> Result<String> {
    let request: serde_json::Value = serde_json::from_slice(body)?;
    let input = request.pointer("/inputs/0").context("no inputs[0]")?;
    let rows = input.pointer("/shape/0").and_then(serde_json::Value::as_u64).context("no shape")?;
    {
        let _one_at_a_time = engine.lock().await;
        let takes = BATCH_BASE + BATCH_ROW * u32::try_from(rows)?;
        // A thread's sleep is exact to some 60 µs; the runtime's timer only to a millisecond.
        tokio::task::spawn_blocking(move || std::thread::sleep(takes)).await?;
    }
    let data = vec!["0.5"; usize::try_from(rows)?].join(",");
    let id = request.get("id").map_or(String::new(), |id| format!("\"id\":{id},"));
    Ok(format!(
        "{{\"model_name\":\"m\",{id}\"outputs\":[{{\"name\":\"y\",\"shape\":[{rows},1],\"datatype\":\"FP32\",\
         \"data\":[{data}]}}]}}"
    ))
}
