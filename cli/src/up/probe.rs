//! What is asked of a replica: its readiness over HTTP, everything else through the helper.

use super::process::{Family, quiet};
use super::program;
use crate::keeper;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a readiness probe may take: the admin port has a thread of its own, so load is no excuse.
const WITHIN: Duration = Duration::from_secs(1);
/// The most of an answer that is read, in bytes.
const MOST: u64 = 16 * 1024;
/// What the helper may take beyond its own bound: it is a process that has to be started.
const HELPER_BEYOND: Duration = Duration::from_secs(5);

/// What a readiness probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It takes requests.
    Ready,
    /// It says that it doesn't, and why.
    NotReady(String),
    /// Nobody listens.
    Refused,
    /// No answer in time.
    Silent,
}

/// Asks `/readyz` of an admin port.
pub(crate) async fn readiness(admin: SocketAddr) -> Readiness {
    match tokio::time::timeout(WITHIN, get(admin, "/readyz")).await {
        Ok(Ok((200, _))) => Readiness::Ready,
        Ok(Ok((_, words))) => Readiness::NotReady(words),
        Ok(Err(_)) => Readiness::Refused,
        Err(_) => Readiness::Silent,
    }
}

/// Status and body of a small answer. A connection of its own each time: a probe asks whether one can be had.
pub(crate) async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).await?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::Error::other("this is no HTTP"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split_ascii_whitespace().next()?.parse().ok()?;
    Some((status, body.trim().to_owned()))
}

/// Whether the sidecar asks for the engine's restart, and in which words: the engine container's liveness probe.
pub(crate) async fn asks_for_restart(family: &Family, socket: &Path) -> Option<String> {
    let (success, words) = helper(family, "live", socket, None).await.ok()?;
    (!success).then_some(words)
}

/// Starts the drain: the sidecar's preStop hook.
pub(crate) async fn drain(family: &Family, socket: &Path) -> io::Result<(bool, String)> {
    helper(family, "drain", socket, None).await
}

/// Waits until nothing is in flight, or `most` has passed: the engine's preStop hook.
pub(crate) async fn wait_drained(family: &Family, socket: &Path, most: Duration) {
    // It never fails; if it can't be started there is nothing to wait for.
    let _ = helper(family, "wait-drained", socket, Some(most)).await;
}

/// Runs the helper, which dies with `up`; whether it succeeded, and what it said.
async fn helper(
    family: &Family,
    verb: &str,
    socket: &Path,
    most: Option<Duration>,
) -> io::Result<(bool, String)> {
    let socket = socket.to_string_lossy();
    let max = format!("{}ms", most.unwrap_or_default().as_millis());
    let mut args = vec![verb, "--socket", &socket];
    if most.is_some() {
        args.extend(["--max", &max]);
    }
    let program = program::own("outrigger-helper", &args, Vec::new());
    let launch = keeper::dying_with_us(program);
    let mut command = quiet(&launch);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = family.spawn(&mut command)?;
    let id = child.id();
    let mut words = String::new();
    let wait = async {
        if let Some(output) = child.stderr.take() {
            output.take(MOST).read_to_string(&mut words).await?;
        }
        child.wait().await
    };
    let ended = tokio::time::timeout(most.unwrap_or_default() + HELPER_BEYOND, wait).await;
    if ended.is_err() {
        child.kill().await?;
    }
    family.forget(id);
    let status = ended.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the helper hangs"))??;
    Ok((status.success(), words.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn reads_small_answers() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 8\r\n\r\nwarming\n";
        assert_eq!(parse(answer), Some((503, "warming".to_owned())));
        for bad in ["", "HTTP/1.1", "HTTP/1.1 abc\r\n\r\n", "SSH-2.0\r\n\r\n"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    async fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let _ = stream.read(&mut request).await.unwrap();
            if !answer.is_empty() {
                stream.write_all(answer.as_bytes()).await.unwrap();
            } else {
                std::future::pending::<()>().await;
            }
        });
        address
    }

    #[tokio::test]
    async fn tells_ready_from_not_and_from_gone() {
        assert_eq!(readiness(answering("HTTP/1.1 200 OK\r\n\r\nready").await).await, Readiness::Ready);
        let not = readiness(answering("HTTP/1.1 503 No\r\n\r\nwarming").await).await;
        assert_eq!(not, Readiness::NotReady("warming".to_owned()));
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(readiness(gone).await, Readiness::Refused);
        assert_eq!(readiness(answering("").await).await, Readiness::Silent);
    }
}
