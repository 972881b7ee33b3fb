//! As much HTTP/1.1 as a load generator and its stub need: fixed requests, answers whose end is found. Written by
//! hand so that the generator costs far less than what it measures.

use anyhow::{Result, bail, ensure};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A head and a body of an answer, at most: the cases here need far less.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// One kept connection.
#[derive(Debug)]
pub struct Conn {
    stream: TcpStream,
    buffer: BytesMut,
}

/// What an answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Bytes of the body, framing included.
    pub bytes: usize,
    /// When the first byte of the body was there.
    pub first_byte: std::time::Instant,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

/// A POST with a JSON body, as bytes.
pub fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n{headers}content-length: \
         {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

impl Conn {
    /// Connects.
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(16 * 1024) })
    }

    /// Sends a request and reads its answer to the end.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).await?;
        let (status, framing) = loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.split_to(end + 4);
                break read_head(&head)?;
            }
            self.read().await?;
        };
        if self.buffer.is_empty() && framing != Framing::Length(0) {
            self.read().await?;
        }
        let first_byte = std::time::Instant::now();
        let bytes = match framing {
            Framing::Length(length) => {
                while self.buffer.len() < length {
                    self.read().await?;
                }
                self.buffer.advance(length);
                length
            }
            Framing::Chunked => self.skip_chunks().await?,
        };
        Ok(Answer { status, bytes, first_byte })
    }

    /// Reads until the last chunk. Its sign may only be looked for at the end of what has come: no event of the
    /// stub ends like it.
    async fn skip_chunks(&mut self) -> Result<usize> {
        let mut bytes = 0;
        loop {
            if self.buffer.ends_with(b"0\r\n\r\n") {
                bytes += self.buffer.len();
                self.buffer.clear();
                return Ok(bytes);
            }
            // The sign may be cut; the rest is of no interest any more.
            let keep = self.buffer.len().min(5);
            bytes += self.buffer.len() - keep;
            self.buffer.advance(self.buffer.len() - keep);
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<()> {
        ensure!(self.buffer.len() < MAX_ANSWER, "an answer is larger than {MAX_ANSWER} bytes");
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed within an answer");
        }
        Ok(())
    }
}

fn read_head(head: &[u8]) -> Result<(u16, Framing)> {
    let head = std::str::from_utf8(head)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let Some(status) = status else { bail!("no status in {head:?}") };
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            return Ok((status, Framing::Length(value.trim().parse()?)));
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Ok((status, Framing::Chunked));
        }
    }
    bail!("an answer without framing: {head:?}")
}
