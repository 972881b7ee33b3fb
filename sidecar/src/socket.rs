//! The Unix socket that the helper asks: one line in, one line out.

use crate::heal::View;
use crate::shared::Shared;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

/// The longest question, in bytes.
const MAX_LINE: u64 = 64;
/// How long a question may take to arrive.
const QUESTION: Duration = Duration::from_secs(2);
/// Questions at once; a probe, two hooks, and some that hang.
const MAX_ASKERS: usize = 16;
/// An engine's preStop starts together with the sidecar's, which starts the drain: it waits this long for that,
/// since a preStop before a liveness kill comes without any drain.
const DRAIN_BEGINS_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked whether the last stream has ended, while somebody waits for it.
const LOOK: Duration = Duration::from_millis(20);

/// Listens at `path`. A socket that a killed predecessor left there is replaced; one that answers is not.
///
/// # Errors
///
/// When the path can't be bound, `AddrInUse` where another sidecar answers there.
pub(crate) fn bind(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    // The engine's container runs under another user; who can reach the folder may ask.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

/// Answers for as long as the program runs; within a `LocalSet`.
pub(crate) async fn serve(listener: UnixListener, shared: Arc<Shared>, view: watch::Receiver<View>) {
    let askers = Arc::new(Semaphore::new(MAX_ASKERS));
    loop {
        let Ok(place) = askers.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (shared, view) = (shared.clone(), view.clone());
                tokio::task::spawn_local(async move {
                    // An asker that went away has no use for an error.
                    let _ = answer(stream, &shared, view).await;
                    drop(place);
                });
            }
            // Out of descriptors: it can only get better.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(stream: UnixStream, shared: &Arc<Shared>, mut view: watch::Receiver<View>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(MAX_LINE));
    tokio::time::timeout(QUESTION, read.read_line(&mut line))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    let said = match line.trim_end() {
        "live" => match &view.borrow().restart {
            Some(restart) => format!("restart {} {}", restart.incarnation, restart.reason),
            None => "ok".to_owned(),
        },
        "drain" => {
            part(shared);
            "ok".to_owned()
        }
        "wait-drained" => {
            let mut gone = [0u8; 1];
            let killed = tokio::select! {
                () = drained(shared, &mut view) => false,
                _ = read.read(&mut gone) => true,
            };
            // Whatever it waited for, the engine ends now.
            if shared.orders.borrow().draining {
                refuse(shared);
            }
            if killed {
                return Ok(());
            }
            "ok".to_owned()
        }
        _ => "what? live, drain or wait-drained".to_owned(),
    };
    write.write_all(format!("{said}\n").as_bytes()).await
}

/// How long requests are still taken after a drain has begun: nodes take a moment to hear that a Service's endpoint
/// is gone, and who is sent here meanwhile has nobody to retry. Gateways know at once.
const PARTING: Duration = Duration::from_secs(3);

/// Begins a drain: not ready at once, and nothing new is taken after [`PARTING`], or the longest drain where that is
/// shorter.
fn part(shared: &Arc<Shared>) {
    if shared.drain() {
        let parting = PARTING.min(shared.orders.borrow().serving.max_drain.0.get());
        tracing::info!("draining: nothing new is taken in {} ms", parting.as_millis());
        let shared = Arc::clone(shared);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(parting).await;
            refuse(&shared);
        });
    }
}

/// Waits until nothing new is taken, where a drain has begun. The kubelet's signal follows its hook, which only begins
/// the drain, within milliseconds.
pub(crate) async fn parted(shared: &Shared) {
    let mut orders = shared.orders.subscribe();
    if orders.borrow_and_update().draining {
        // An error means that the program ends.
        let _ = orders.wait_for(|orders| orders.refusing).await;
    }
}

/// Nothing new is taken from now on.
pub(crate) fn refuse(shared: &Shared) {
    if shared.refuse() {
        tracing::info!("nothing new is taken");
    }
}

/// Waits until the last stream has ended. Returns at once where the engine is to be restarted anyway, and soon
/// where no drain begins.
async fn drained(shared: &Shared, view: &mut watch::Receiver<View>) {
    let mut orders = shared.orders.subscribe();
    let doomed = async {
        // An error means that the judgement has ended, and with it the program.
        let _ = view.wait_for(|view| view.restart.is_some()).await;
    };
    let empty = async {
        let begins = orders.wait_for(|orders| orders.draining);
        if !matches!(tokio::time::timeout(DRAIN_BEGINS_WITHIN, begins).await, Ok(Ok(_))) {
            return;
        }
        let _ = orders.wait_for(|orders| orders.refusing).await;
        while shared.counts() != (0, 0) {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = doomed => {}
        () = empty => {}
    }
}
