//! The thin loop around the election: reads and writes the Lease, each request bounded, and publishes who leads.

use super::Leadership;
use super::step::{Action, DURATION, PERIOD, Record, State};
use crate::names;
use k8s_openapi::api::coordination::v1::Lease as Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use std::future::Future;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long one request may take. Two of them in a row, and the pause before, end well before the leader's deadline.
const REQUEST: Duration = Duration::from_millis(1500);
/// The rest after a failed request, drawn between half and the whole.
const REST: Duration = Duration::from_millis(500);

/// Which Lease, and who wants it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The installation's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub name: String,
    /// This replica's pod; what follows it in the lease tells two runs of one pod apart.
    pub pod: String,
    /// Where this replica takes reports when it leads, `address:port`.
    pub address: String,
}

/// Takes part in the election for as long as [`Lease::run`] is polled.
#[derive(Debug)]
pub struct Lease {
    api: Api<Object>,
    settings: Settings,
    me: String,
    state: State,
    /// The object as it was last read or written.
    held: Option<Object>,
    clock: Instant,
    publish: watch::Sender<Leadership>,
}

impl Lease {
    /// A candidate, and what it will publish.
    pub fn new(client: Client, settings: Settings) -> (Self, watch::Receiver<Leadership>) {
        let me = format!("{}_{:016x}", settings.pod, fastrand::u64(..));
        let (publish, receiver) = watch::channel(Leadership::default());
        let api = Api::namespaced(client, &settings.namespace);
        let state = State::new(&me);
        (Self { api, settings, me, state, held: None, clock: Instant::now(), publish }, receiver)
    }

    /// Takes part until `stop` resolves; then gives the lease back, if it was held, so that another need not wait.
    /// Whoever ends the program stops writing before that.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut rest = Duration::ZERO;
        loop {
            tokio::select! {
                () = &mut stop => break,
                () = self.sleep(rest) => {}
            }
            // The deadline passes while a request hangs, so it is watched beside it.
            let turned = tokio::select! {
                () = &mut stop => break,
                turned = self.turn() => turned,
            };
            self.tell();
            let whole = match turned {
                Ok(()) => PERIOD,
                Err(error) => {
                    tracing::warn!(lease = self.settings.name, %error, "the lease could not be read or written");
                    REST
                }
            };
            rest = whole.mul_f64(0.75 + fastrand::f64() / 4.0);
        }
        self.release().await;
    }

    fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Sleeps, and stops leading when that is due before.
    async fn sleep(&self, rest: Duration) {
        let wake = self.now() + rest;
        self.past_deadline(tokio::time::sleep_until((self.clock + wake).into())).await;
    }

    /// Runs `work`; when leadership ends meanwhile, that is told at once.
    async fn past_deadline<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        if let Some(until) = self.state.leads_until() {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep_until((self.clock + until).into()) => self.tell(),
            }
        }
        work.await
    }

    /// Publishes who leads, if that has changed.
    fn tell(&self) {
        let now = self.now();
        let next = Leadership { leader: self.state.leads(now), address: self.state.address(now) };
        self.publish.send_if_modified(|current| {
            if *current == next {
                return false;
            }
            if current.leader != next.leader {
                tracing::info!(leader = next.leader, "leadership has changed");
            }
            *current = next;
            true
        });
    }

    /// One look, and what follows from it.
    async fn turn(&mut self) -> Result<(), Error> {
        let leads = self.state.leads(self.now());
        // A leader knows what it wrote last; only when somebody else has written is there anything to read.
        if !leads || self.held.is_none() {
            self.held = self.bounded(self.api.get_opt(&self.settings.name)).await?;
        }
        let record = self.held.as_ref().map(record);
        match self.state.step(record.as_ref(), self.now()) {
            Action::Wait => Ok(()),
            Action::Renew | Action::Take => self.write().await,
        }
    }

    async fn write(&mut self) -> Result<(), Error> {
        let began = self.now();
        let object = self.mine();
        let params = PostParams { dry_run: false, field_manager: Some(names::FIELD_MANAGER.to_owned()) };
        let written = match self.held.is_some() {
            true => self.bounded(self.api.replace(&self.settings.name, &params, &object)).await,
            false => self.bounded(self.api.create(&params, &object)).await,
        };
        match written {
            Ok(object) => {
                self.state.wrote(record(&object), began, self.now());
                self.held = Some(object);
                Ok(())
            }
            Err(error) => {
                // Whether it was written is not known, or somebody else was first: read before the next write.
                self.held = None;
                match error {
                    Error::Api(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                    error => Err(error),
                }
            }
        }
    }

    /// The Lease in this replica's name, whatever else stands on it kept.
    fn mine(&self) -> Object {
        let before = self.held.clone().unwrap_or_default();
        let now = Some(MicroTime(Timestamp::now()));
        let mut object = Object {
            metadata: ObjectMeta {
                name: Some(self.settings.name.clone()),
                namespace: Some(self.settings.namespace.clone()),
                ..before.metadata
            },
            spec: before.spec,
        };
        let annotations = object.metadata.annotations.get_or_insert_default();
        annotations.insert(names::ADDRESS.to_owned(), self.settings.address.clone());
        let spec = object.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.me) {
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
            spec.acquire_time.clone_from(&now);
        }
        spec.holder_identity = Some(self.me.clone());
        spec.lease_duration_seconds = Some(DURATION.as_secs() as i32);
        spec.renew_time = now;
        object
    }

    /// Gives the lease back if it is held. Not leading any more comes first.
    async fn release(&mut self) {
        let led = self.state.leads(self.now());
        self.state.resign();
        self.tell();
        if !led {
            return;
        }
        // A write that was cut off may have come through: its version is read anew.
        let read = self.bounded(self.api.get_opt(&self.settings.name)).await;
        let Ok(Some(mut object)) = read else { return };
        let Some(spec) =
            object.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.me))
        else {
            return;
        };
        spec.holder_identity = Some(String::new());
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        if let Some(annotations) = &mut object.metadata.annotations {
            annotations.remove(names::ADDRESS);
        }
        let params = PostParams { dry_run: false, field_manager: Some(names::FIELD_MANAGER.to_owned()) };
        if let Err(error) = self.bounded(self.api.replace(&self.settings.name, &params, &object)).await {
            tracing::warn!(lease = self.settings.name, %error, "the lease was not given back; it runs out by itself");
        }
    }

    async fn bounded<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
        match self.past_deadline(tokio::time::timeout(REQUEST, request)).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Error::Slow),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("the API server did not answer within {} ms", REQUEST.as_millis())]
    Slow,
}

/// What an object says.
fn record(object: &Object) -> Record {
    let spec = object.spec.clone().unwrap_or_default();
    let annotations = object.metadata.annotations.as_ref();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        address: annotations.and_then(|all| all.get(names::ADDRESS)).cloned(),
        renewed: spec.renew_time.map(|time| time.0.to_string()),
        duration: spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}
