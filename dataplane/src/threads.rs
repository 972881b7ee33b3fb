//! Data threads: each a current-thread runtime with its own listener on the one port.

use crate::metrics::Gauge;
use crate::serve::{Local, Phase, ServeOptions, Service, drive};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::watch;

mod bound;

pub use bound::Bound;

/// How long accepting pauses when the process has no file descriptor left: some must be closed first, and asking
/// on would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Which data thread something runs on.
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub of: usize,
}

/// The running data threads. Dropping this aborts them.
#[derive(Debug)]
pub struct DataThreads {
    address: SocketAddr,
    phase: watch::Sender<Phase>,
    /// How many threads have ended.
    ended: watch::Receiver<usize>,
    threads: usize,
    open: Vec<Arc<Gauge>>,
}

impl DataThreads {
    /// Starts `threads` threads (at least one). `make` runs once on each of them, within its runtime (so it may
    /// `tokio::task::spawn_local`), and gives the service that answers there.
    ///
    /// # Errors
    ///
    /// When a listener, a runtime or a thread can't be made.
    pub fn start<S: Service>(
        bound: Bound,
        threads: usize,
        options: ServeOptions,
        make: impl Fn(Thread) -> Rc<S> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let threads = threads.max(1);
        let address = bound.address();
        let (phase, _) = watch::channel(Phase::Run);
        let (ended_sender, ended) = watch::channel(0);
        let ended_sender = Arc::new(ended_sender);
        let make = Arc::new(make);
        let (started, starting) = sync_channel(threads);
        let mut open = Vec::new();
        for (index, listener) in bound.share(threads)?.into_iter().enumerate() {
            let gauge = Arc::new(Gauge::default());
            open.push(Arc::clone(&gauge));
            let phase = phase.subscribe();
            let (make, started) = (Arc::clone(&make), started.clone());
            let ended = Ended(Arc::clone(&ended_sender));
            std::thread::Builder::new().name(format!("data-{index}")).spawn(move || {
                let ended = ended;
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default());
                match runtime {
                    Err(e) => {
                        let _ = started.send(Err(e));
                    }
                    Ok(runtime) => runtime.block_on(async {
                        let listener = TcpListener::from_std(listener);
                        let service = make(Thread { index, of: threads });
                        let _ = started.send(listener.as_ref().map(|_| ()).map_err(copy));
                        if let Ok(listener) = listener {
                            run(listener, service, options, Local::new(gauge), phase).await;
                        }
                    }),
                }
                drop(ended);
            })?;
        }
        drop(started);
        let this = Self { address, phase, ended, threads, open };
        for _ in 0..threads {
            // A thread that panicked in `make` sends nothing.
            starting.recv().unwrap_or_else(|_| Err(io::Error::other("a data thread ended at its start")))?;
        }
        Ok(this)
    }

    /// Where they listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new connection, tells clients to leave (HTTP/1.1 `connection: close`, HTTP/2 GOAWAY) and finishes
    /// what is in flight.
    pub fn drain(&self) {
        self.phase.send_if_modified(|phase| {
            let turns = *phase == Phase::Run;
            if turns {
                *phase = Phase::Drain;
            }
            turns
        });
    }

    /// Drops whatever is in flight.
    pub fn abort(&self) {
        self.phase.send_replace(Phase::Abort);
    }

    /// Open connections over all threads.
    pub fn connections(&self) -> usize {
        self.open.iter().map(|open| usize::try_from(open.get()).unwrap_or(0)).sum()
    }

    /// Waits until every thread has ended: after [`Self::drain`] or [`Self::abort`], or when all have panicked.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // The sender lives as long as the threads: an error means that all have ended, too.
        let _ = ended.wait_for(|ended| *ended >= self.threads).await;
    }
}

/// Counts a thread's end, however it comes.
struct Ended(Arc<watch::Sender<usize>>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.send_modify(|ended| *ended += 1);
    }
}

fn copy(e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), e.to_string())
}

/// One thread's life.
async fn run<S: Service>(
    listener: TcpListener,
    service: Rc<S>,
    options: ServeOptions,
    local: Rc<Local>,
    mut phase: watch::Receiver<Phase>,
) {
    let turning = Rc::clone(&local);
    tokio::task::spawn_local(async move {
        loop {
            let now = *phase.borrow_and_update();
            turning.turn(now);
            // The owner is gone: what it would say now is "abort".
            if phase.changed().await.is_err() {
                turning.turn(Phase::Abort);
                return;
            }
        }
    });
    let begin = |stream: TcpStream, peer| {
        // Without it the second of two small writes waits up to 40 ms for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        tokio::task::spawn_local(drive(stream, peer, Rc::clone(&service), options, local.seat()));
    };
    loop {
        tokio::select! {
            biased;
            () = local.until(Phase::Drain) => break,
            () = local.room(options.max_connections) => {}
        }
        tokio::select! {
            biased;
            () = local.until(Phase::Drain) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => begin(stream, peer),
                Err(e) => pause(&e).await,
            },
        }
    }
    // Who had connected by now is served; the others find the port closed.
    while let std::task::Poll::Ready(Ok((stream, peer))) =
        std::future::poll_fn(|cx| std::task::Poll::Ready(listener.poll_accept(cx))).await
    {
        begin(stream, peer);
    }
    drop(listener);
    tokio::select! {
        () = local.room(1) => {}
        () = local.until(Phase::Abort) => {}
    }
}

/// Waits after an error that will come again at once.
async fn pause(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        return;
    }
    tracing::warn!(%error, "connections can't be accepted for now");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

impl Drop for DataThreads {
    fn drop(&mut self) {
        self.abort();
    }
}
