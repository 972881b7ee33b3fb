//! A caller: one request over one connection, blocking, so that a test says exactly who sent what when.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

/// Nothing here takes longer, unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    pub(crate) fn reason(&self) -> &str {
        self.headers.get("x-outrigger-reason").map_or("", String::as_str)
    }
}

/// A request as bytes.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n");
    if method != "GET" {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            text.push_str("content-type: application/json\r\n");
        }
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// Opens a connection and sends the request.
pub(crate) fn send(to: SocketAddr, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    stream
}

/// Reads an answer to its end.
pub(crate) fn receive(stream: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        assert!(more(stream, &mut bytes), "the connection closed within a head: {bytes:?}");
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let mut body = bytes.split_off(head);
    if headers.get("transfer-encoding").is_some_and(|v| v == "chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            if !more(stream, &mut body) {
                break;
            }
        }
        body = dechunk(&body);
    } else if let Some(length) = headers.get("content-length") {
        let length: usize = length.parse().unwrap();
        while body.len() < length {
            assert!(more(stream, &mut body), "the connection closed within a body");
        }
    } else {
        while more(stream, &mut body) {}
    }
    Reply { status, headers, body: String::from_utf8(body).unwrap() }
}

fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    let mut buffer = [0u8; 16 << 10];
    let n = stream
        .read(&mut buffer)
        .unwrap_or_else(|e| panic!("{e}, having read {:?}", String::from_utf8_lossy(bytes)));
    bytes.extend_from_slice(&buffer[..n]);
    n > 0
}

fn dechunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(line) = bytes.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        out.extend_from_slice(&bytes[line + 2..line + 2 + size]);
        bytes = &bytes[line + 4 + size..];
    }
    out
}

/// Sends a request and reads its answer.
pub(crate) fn ask(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    receive(&mut send(to, &request(method, path, headers, body)))
}

/// The same on a thread of its own.
pub(crate) fn later(to: SocketAddr, path: &str, headers: &[(&str, &str)], body: &str) -> JoinHandle<Reply> {
    let bytes = request("POST", path, headers, body);
    std::thread::spawn(move || receive(&mut send(to, &bytes)))
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2)); // between two looks
    }
}
