//! A listener's connections, bounded in number: a new one is always taken, and when there are too many the one goes
//! that has been of no use for longest. Who opens many and says nothing hinders himself, and never whoever comes next.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// How long accepting rests after an error such as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Who is here. Moments are counted, not measured: only their order matters.
#[derive(Debug, Default)]
struct Crowd {
    moment: u64,
    guests: BTreeMap<u64, Guest>,
}

#[derive(Debug)]
struct Guest {
    task: AbortHandle,
    /// Requests under way.
    busy: u32,
    /// When the last of them began or ended, or the connection came.
    since: u64,
}

impl Crowd {
    fn now(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// Whom to part with: somebody idle if there is one, and of those whoever is it for longest.
    fn least(&self) -> Option<u64> {
        let key = |guest: &Guest| (guest.busy > 0, guest.since);
        self.guests.iter().min_by_key(|(_, guest)| key(guest)).map(|(number, _)| *number)
    }
}

/// One connection's place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    crowd: Arc<Mutex<Crowd>>,
    number: u64,
}

/// A request under way, until it is dropped.
#[derive(Debug)]
pub struct Busy<'a>(&'a Place);

fn inner(crowd: &Mutex<Crowd>) -> MutexGuard<'_, Crowd> {
    crowd.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Place {
    /// A request has come, and is answered when what is returned is dropped.
    pub fn busy(&self) -> Busy<'_> {
        self.count(|busy| busy.saturating_add(1));
        Busy(self)
    }

    fn count(&self, change: impl Fn(u32) -> u32) {
        let mut crowd = inner(&self.crowd);
        let now = crowd.now();
        if let Some(guest) = crowd.guests.get_mut(&self.number) {
            (guest.busy, guest.since) = (change(guest.busy), now);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        inner(&self.crowd).guests.remove(&self.number);
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.count(|busy| busy.saturating_sub(1));
    }
}

/// Serves until the future is dropped, `most` connections at once, each by what `connection` makes of it; those that
/// are open then end by themselves. `what` is the listener's name in messages.
pub async fn serve<C, F>(listener: TcpListener, most: usize, what: &'static str, connection: C)
where
    C: Fn(TcpStream, Arc<Place>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let crowd = Arc::<Mutex<Crowd>>::default();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "{what} can't accept connections for now");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        // Held until the guest is entered: who ends at once strikes himself out only then.
        let mut entering = inner(&crowd);
        let number = entering.now();
        let place = Arc::new(Place { crowd: Arc::clone(&crowd), number });
        let task = tokio::spawn(connection(stream, place)).abort_handle();
        let leaves = if entering.guests.len() >= most { entering.least() } else { None };
        let left = leaves.and_then(|number| entering.guests.remove(&number));
        entering.guests.insert(number, Guest { task, busy: 0, since: number });
        drop(entering);
        if let Some(left) = left {
            left.task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Each byte is a request, answered with itself; `w` is one that is never answered.
    async fn echo(mut stream: TcpStream, place: Arc<Place>) {
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() {
            let _busy = place.busy();
            if byte == *b"w" {
                stream.write_all(b"?").await.unwrap();
                return std::future::pending().await;
            }
            stream.write_all(&byte).await.unwrap();
        }
    }

    async fn say(stream: &mut TcpStream, byte: u8) -> Option<u8> {
        let mut answer = [0];
        stream.write_all(&[byte]).await.ok()?;
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer[0])
    }

    #[tokio::test]
    async fn a_new_one_is_always_taken_and_who_was_idle_longest_goes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, 3, "a test", echo));
        let dial = async |byte| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let answer = say(&mut stream, byte).await.unwrap();
            (stream, answer)
        };
        let (mut waits, asked) = dial(b'w').await;
        assert_eq!(asked, b'?');
        let (mut first, _) = dial(b'a').await;
        let (mut second, _) = dial(b'b').await;
        assert_eq!(say(&mut first, b'c').await, Some(b'c'), "the second is idle for longer now");
        let (mut third, _) = dial(b'd').await;
        assert_eq!(say(&mut second, b'e').await, None, "it has gone");
        assert_eq!(say(&mut first, b'f').await, Some(b'f'));
        assert_eq!(say(&mut third, b'g').await, Some(b'g'));
        // Where all are busy, the oldest request gives way.
        assert_eq!(say(&mut first, b'w').await, Some(b'?'));
        assert_eq!(say(&mut third, b'w').await, Some(b'?'));
        let (_fourth, answer) = dial(b'h').await;
        assert_eq!(answer, b'h');
        let mut rest = Vec::new();
        assert!(waits.read_to_end(&mut rest).await.is_ok_and(|n| n == 0), "it was closed");
        server.abort();
    }
}
