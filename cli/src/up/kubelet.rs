//! All children of one `up`: the replicas that the plan wants, and the gateway.

use super::container::{Container, State};
use super::ports::{self, Ports};
use super::process::Family;
use super::program;
use super::replica::{Around, Happening, Make, Replica};
use super::store::Dirs;
use jiff::Timestamp;
use outrigger_plan::{Phase, Trouble, Workload};
use outrigger_wire::{DeploymentKey, EndpointId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// The gateway's name: there is one.
pub(crate) const GATEWAY: &str = "gateway";
/// What a gateway gets, beyond `maxDrain`, to end.
const GATEWAY_GRACE: Duration = Duration::from_secs(5);
/// Happenings that wait to be told.
const HAPPENINGS: usize = 256;

/// What replicas are made of, beyond their revision.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) deployment: DeploymentKey,
    pub(crate) table: SocketAddr,
    pub(crate) dirs: Dirs,
}

/// Starts, watches and ends the children.
#[derive(Debug)]
pub(crate) struct Kubelet {
    common: Common,
    around: Around,
    max_drain: watch::Sender<Duration>,
    replicas: BTreeMap<EndpointId, Replica>,
    gateway: Option<Container>,
    admin: Option<SocketAddr>,
}

impl Kubelet {
    /// With no children yet. `wake` is told of every change; what happens to children comes from the receiver.
    pub(crate) fn new(common: Common, wake: Arc<Notify>) -> (Self, mpsc::Receiver<Happening>) {
        let (happened, happenings) = mpsc::channel(HAPPENINGS);
        let (max_drain, drain) = watch::channel(Duration::ZERO);
        let around = Around {
            family: Family::default(),
            ports: Arc::new(Mutex::new(Ports::default())),
            max_drain: drain,
            wake,
            happened,
        };
        let replicas = BTreeMap::new();
        (Self { common, around, max_drain, replicas, gateway: None, admin: None }, happenings)
    }

    /// How long the end of a replica may take, from now on.
    pub(crate) fn set_max_drain(&self, most: Duration) {
        self.max_drain.send_replace(most);
    }

    /// Starts the gateway; its admin port is any free one where none is given.
    ///
    /// # Errors
    /// When there is no free port.
    pub(crate) fn start_gateway(
        &mut self,
        listen: SocketAddr,
        admin: Option<SocketAddr>,
    ) -> std::io::Result<()> {
        let admin = match admin {
            Some(admin) => admin,
            None => (std::net::Ipv4Addr::LOCALHOST, self.free_port()?).into(),
        };
        let env = [
            ("OUTRIGGER_LISTEN", listen.to_string()),
            ("OUTRIGGER_ADMIN", admin.to_string()),
            ("OUTRIGGER_TABLE", self.common.table.to_string()),
            ("OUTRIGGER_GATEWAY", GATEWAY.to_owned()),
            ("OUTRIGGER_STATE_DIR", self.common.dirs.gateway.to_string_lossy().into_owned()),
        ];
        let env: Vec<_> = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let prepare = move || {
            for address in [listen, admin] {
                ports::can_listen(address).map_err(|e| Trouble {
                    reason: "PortInUse".to_owned(),
                    message: format!("the gateway can't listen on {address}: {e}"),
                    blocks: true,
                })?;
            }
            Ok(program::own("outrigger-gateway", &[], env.clone()))
        };
        let (logs, family) = (self.common.dirs.logs.clone(), self.around.family.clone());
        let gateway = Container::start(GATEWAY.to_owned(), logs, family, Box::new(prepare));
        tokio::spawn(watch_gateway(gateway.state(), self.around.clone()));
        self.gateway = Some(gateway);
        self.admin = Some(admin);
        Ok(())
    }

    /// A port on which nothing listens.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn free_port(&self) -> std::io::Result<u16> {
        self.around.ports.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    /// Where the gateway's probes and metrics are.
    pub(crate) fn gateway_admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// What keeps the gateway from running, or how it last ended by itself: whether it serves again is what it
    /// reports.
    pub(crate) fn gateway_trouble(&self) -> Option<Trouble> {
        let state = self.gateway.as_ref()?.state().borrow().clone();
        state.trouble.clone().or_else(|| state.ended_by_itself("the gateway"))
    }

    /// Starts and ends replicas until there are as many of each revision as wanted.
    pub(crate) fn apply(&mut self, workloads: &[Workload], model: &str, now: Timestamp) {
        self.replicas.retain(|_, replica| !replica.seen.borrow().gone);
        let unwanted = |revision| !workloads.iter().any(|workload| workload.revision == revision);
        for replica in self.replicas.values().filter(|replica| unwanted(replica.make.revision.clone())) {
            replica.stop();
        }
        for workload in workloads {
            let mut running: Vec<&Replica> = self.running(workload).collect();
            let wanted = workload.replicas as usize;
            // Those that serve least go first: not ready before ready, newer before older.
            running.sort_by_key(|r| (r.seen.borrow().phase != Phase::Ready, r.make.created));
            running.iter().skip(wanted).for_each(|replica| replica.stop());
            for _ in running.len()..wanted {
                if !self.add(workload, model, now) {
                    return;
                }
            }
        }
    }

    fn running<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a Replica> {
        let of_it = |replica: &&Replica| replica.make.revision == workload.revision;
        self.replicas.values().filter(of_it).filter(|replica| !replica.is_stopping())
    }

    fn add(&mut self, workload: &Workload, model: &str, now: Timestamp) -> bool {
        let id = self.name(workload);
        let make = Make {
            state: self.common.dirs.replicas.join(id.as_str()),
            // Short: the path of a socket has a hundred bytes.
            socket: self
                .common
                .dirs
                .sockets
                .join(id.as_str().rsplit_once('-').map_or("", |(_, short)| short)),
            id: id.clone(),
            revision: workload.revision.clone(),
            created: now,
            deployment: self.common.deployment.clone(),
            model: model.to_owned(),
            engine: workload.engine.clone(),
            table: self.common.table,
            logs: self.common.dirs.logs.clone(),
        };
        let started =
            std::fs::create_dir_all(&make.state).and_then(|()| Replica::start(make, self.around.clone()));
        match started {
            Ok(replica) => {
                self.replicas.insert(id, replica);
                true
            }
            Err(e) => {
                let message = format!("{id} can't be started: {e}");
                let happening =
                    Happening { at: now, warning: true, reason: "CannotStart", message, tail: Vec::new() };
                let _ = self.around.happened.try_send(happening);
                false
            }
        }
    }

    /// `NAME-REVISION-xxxxx`, as in a cluster.
    fn name(&self, workload: &Workload) -> EndpointId {
        let deployment = self.common.deployment.as_str();
        let name = deployment.split_once('/').map_or(deployment, |(_, name)| name);
        loop {
            // Consonants and digits only, as Kubernetes has them: no words by accident.
            let letters: String = (0..5)
                .filter_map(|_| fastrand::choice(b"bcdfghjklmnpqrstvwxz2456789"))
                .map(|b| char::from(*b))
                .collect();
            let id = EndpointId(format!("{name}-{}-{letters}", workload.revision));
            if !self.replicas.contains_key(&id) {
                return id;
            }
        }
    }

    /// All replicas as they are.
    pub(crate) fn observe(&mut self) -> Vec<outrigger_plan::Replica> {
        self.replicas.retain(|_, replica| !replica.seen.borrow().gone);
        let seen = |replica: &Replica| {
            let seen = replica.seen.borrow().clone();
            outrigger_plan::Replica {
                id: replica.make.id.clone(),
                revision: replica.make.revision.clone(),
                // From the moment on at which it is told to end.
                phase: if replica.is_stopping() { Phase::Terminating } else { seen.phase },
                address: seen.address,
                created: replica.make.created,
                ready_since: seen.ready_since,
                restarts: seen.restarts,
                trouble: seen.trouble,
                said: Default::default(),
            }
        };
        self.replicas.values().map(seen).collect()
    }

    /// A replica's sidecar reported: its readiness may have changed.
    pub(crate) fn poke(&self, id: &EndpointId) {
        if let Some(replica) = self.replicas.get(id) {
            replica.poke();
        }
    }

    /// Ends everything in order: the gateway finishes what callers have in flight, then the replicas go.
    pub(crate) async fn stop(&mut self) {
        let most = *self.max_drain.borrow();
        if let Some(gateway) = self.gateway.take() {
            gateway.stop(most + GATEWAY_GRACE).await;
        }
        self.replicas.values().for_each(Replica::stop);
        for replica in self.replicas.values_mut() {
            // A replica's task that is gone has taken everything along.
            let _ = replica.seen.wait_for(|seen| seen.gone).await;
        }
        self.replicas.clear();
    }
}

/// Tells when the gateway crashed.
async fn watch_gateway(mut state: watch::Receiver<State>, around: Around) {
    let mut told = None;
    while state.changed().await.is_ok() {
        let ended = state.borrow_and_update().ended.clone();
        if ended != told {
            told.clone_from(&ended);
            if let Some(ended) = ended.filter(|ended| !ended.told) {
                let message = format!("the gateway {}", ended.how);
                let (at, tail) = (ended.at, ended.tail);
                let happening = Happening { at, warning: true, reason: "GatewayEnded", message, tail };
                let _ = around.happened.try_send(happening);
            }
        }
        around.wake.notify_one();
    }
}
