//! `outrigger watch`: the live screen of a deployment in a cluster, or its changes as lines.

use super::Target;
use super::connection::Connection;
use super::seen::{self, End};
use crate::up::output::Output;
use crate::view::EventView;
use clap::Args;
use futures_util::{StreamExt, stream::BoxStream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{WatchEvent, WatchParams};
use outrigger_crds::ModelDeployment;
use outrigger_wire::{Period, RevisionId};
use std::time::{Duration, Instant};

/// What is left of a hold is counted down at this pace.
const TICK: Duration = Duration::from_secs(1);
/// Pods and events are read again this often, and after each change of the status.
const READ: Duration = Duration::from_secs(2);
/// The first pause after a watch that ended with an error; doubled up to the second, and spread.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// Shows a deployment in a cluster, live. Elsewhere than on a terminal, one line per change.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXITS)]
pub struct WatchArgs {
    #[command(flatten)]
    target: Target,
    /// End when the declared revision serves, was rolled back, or is blocked.
    #[arg(long)]
    exit_when_settled: bool,
    /// End after this long in any case.
    #[arg(long, value_name = "PERIOD")]
    timeout: Option<Period>,
    /// One line per change, on a terminal too.
    #[arg(long)]
    plain: bool,
}

const EXITS: &str = "\
Exit status with --exit-when-settled: 0 the declared revision serves, 3 it was rolled back, 4 it is blocked. Otherwise 0
after Ctrl-C, 1 when --timeout is over or something failed, 64 for mistakes in flags.";

type Changes = BoxStream<'static, Result<WatchEvent<ModelDeployment>, kube::Error>>;

/// What is known while somebody looks on.
struct Watched<'a> {
    args: &'a WatchArgs,
    connection: Connection,
    output: Output,
    began: Timestamp,
    object: ModelDeployment,
    pods: Vec<Pod>,
    events: Vec<EventView>,
    read: Option<Instant>,
    /// What was tried last, and what of that became stable.
    tried: Option<RevisionId>,
    promoted: Option<RevisionId>,
}

pub(super) async fn watch(args: &WatchArgs) -> Result<u8, String> {
    let connection = Connection::open(&args.target).await?;
    // What is wrong with the cluster or the name is told here, not tried again for ever.
    let object = connection.get().await?;
    let mut watched = Watched {
        args,
        connection,
        output: Output::open(args.plain).map_err(|error| error.to_string())?,
        began: Timestamp::now(),
        object,
        pods: Vec::new(),
        events: Vec::new(),
        read: None,
        tried: None,
        promoted: None,
    };
    let over = async {
        match args.timeout {
            Some(timeout) => tokio::time::sleep(timeout.get()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = watched.follow() => result,
        _ = tokio::signal::ctrl_c() => Ok(0),
        () = over => Err("it has not settled within --timeout".to_owned()),
    }
}

impl Watched<'_> {
    /// Follows the object until it has settled or is gone.
    async fn follow(&mut self) -> Result<u8, String> {
        let mut pause = PAUSES.0;
        loop {
            if let Some(end) = self.show().await? {
                return Ok(end.code());
            }
            let opened = self.connection.ask(self.open()).await;
            let ended = match opened {
                Ok(changes) => {
                    pause = PAUSES.0;
                    self.changes(changes).await?
                }
                Err(why) => {
                    self.output.note(&why).map_err(|error| error.to_string())?;
                    None
                }
            };
            if let Some(code) = ended {
                return Ok(code);
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await; // between two looks
            pause = (pause * 2).min(PAUSES.1);
            match self.connection.ask(self.connection.api.get_opt(&self.connection.name)).await {
                Ok(Some(object)) => self.object = object,
                Ok(None) => return Err("it was deleted".to_owned()),
                Err(why) => self.output.note(&why).map_err(|error| error.to_string())?,
            }
        }
    }

    async fn open(&self) -> Result<Changes, kube::Error> {
        let params = WatchParams::default().fields(&format!("metadata.name={}", self.connection.name));
        let version = self.object.metadata.resource_version.clone().unwrap_or_default();
        Ok(self.connection.api.watch(&params, &version).await?.boxed())
    }

    /// Until the watch ends, which it does every few minutes.
    async fn changes(&mut self, mut changes: Changes) -> Result<Option<u8>, String> {
        loop {
            match tokio::time::timeout(TICK, changes.next()).await {
                Err(_) => {}
                Ok(Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)))) => {
                    self.object = object;
                    self.read = None;
                }
                Ok(Some(Ok(WatchEvent::Bookmark(_)))) => continue,
                Ok(Some(Ok(WatchEvent::Deleted(_)))) => return Err("it was deleted".to_owned()),
                Ok(Some(Ok(WatchEvent::Error(_)) | Err(_)) | None) => return Ok(None),
            }
            if let Some(end) = self.show().await? {
                return Ok(Some(end.code()));
            }
        }
    }

    /// Shows what is known, and says how it ended where that is waited for.
    async fn show(&mut self) -> Result<Option<End>, String> {
        if self.read.is_none_or(|read| read.elapsed() >= READ) {
            let (pods, events) = tokio::join!(self.connection.pods(), self.connection.events());
            (self.pods, self.events, self.read) = (pods, events, Some(Instant::now()));
            if let Output::Lines(_) = self.output {
                // What was before is no change.
                self.events.retain(|event| event.at >= self.began);
            }
        }
        self.remember();
        let place = self.connection.place();
        let view = seen::view(seen::From {
            now: Timestamp::now(),
            place: &place,
            object: &self.object,
            pods: &self.pods,
            events: self.events.clone(),
            promoted: self.promoted.as_ref(),
        });
        let settled = seen::settled(&self.object).filter(|_| self.args.exit_when_settled);
        self.output.show(view).map_err(|error| error.to_string())?;
        Ok(settled)
    }

    fn remember(&mut self) {
        let Some(status) = &self.object.status else { return };
        if let Some(canary) = &status.canary {
            self.tried = Some(canary.revision.clone());
        }
        if status.stable.is_some() && status.stable == self.tried {
            self.promoted.clone_from(&status.stable);
        }
    }
}
