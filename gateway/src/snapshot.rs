//! The table as data threads read it: immutable, resolved and numbered.

use outrigger_decide::route::{Conflict, Names};
use outrigger_table::Table;
use outrigger_wire::cohort::Salt;
use outrigger_wire::{DeploymentKey, EndpointId, RevisionId, RevisionRoute, Routes};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// Everything that is needed to route a request.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Grows with every snapshot of this process.
    pub(crate) version: u64,
    /// By the name that is asked for, an index into `deployments`.
    pub(crate) names: Names<usize>,
    /// The deployments, in the order of their keys.
    pub(crate) deployments: Vec<Arc<Deployment>>,
    /// Whether any table was heard, read from disk or given by hand: without one nothing can be said to be absent.
    pub(crate) known: bool,
    /// Whether changes are heard of now. While they aren't, what is not in the table may be there all the same.
    pub(crate) live: bool,
}

/// One deployment.
#[derive(Debug)]
pub(crate) struct Deployment {
    /// Never given to another deployment of this process.
    pub(crate) number: u32,
    /// As it was heard.
    pub(crate) routes: Arc<Routes>,
    /// The canary's salt.
    pub(crate) salt: Option<Salt>,
    /// The revision that serves.
    pub(crate) stable: Option<Side>,
    /// The one that is tried.
    pub(crate) canary: Option<Side>,
    /// Until the first byte, a wait in the sidecar's queue included.
    pub(crate) first_byte: Duration,
    /// The generation of the reference, 0 for none.
    pub(crate) generation: u32,
}

/// One live revision.
#[derive(Debug)]
pub(crate) struct Side {
    /// Which one.
    pub(crate) revision: Arc<Revision>,
    /// Where its replicas are.
    pub(crate) endpoints: Vec<Target>,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    /// Which one.
    pub(crate) id: EndpointId,
    /// Where its sidecar listens.
    pub(crate) address: SocketAddr,
}

/// A revision as this process numbers it; the same while any snapshot has it.
#[derive(Debug)]
pub(crate) struct Revision {
    /// Never given to another revision of this process.
    pub(crate) number: u32,
    /// Whose it is.
    pub(crate) deployment: DeploymentKey,
    /// Which one.
    pub(crate) id: RevisionId,
    /// Whether this gateway sends to it.
    pub(crate) gate: Gate,
}

/// A revision's breaker as the data threads see it; decided on the control thread.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicU8);

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const PROBE: u8 = 2;

/// What a gate says to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Go.
    Yes,
    /// Go, and what becomes of it decides. Said to one request only.
    Probe,
    /// The revision is ejected.
    No,
}

impl Gate {
    /// Asks for one request.
    pub(crate) fn pass(&self) -> Pass {
        match self.0.load(Ordering::Relaxed) {
            CLOSED => Pass::Yes,
            PROBE if self.0.compare_exchange(PROBE, OPEN, Ordering::AcqRel, Ordering::Relaxed).is_ok() => {
                Pass::Probe
            }
            _ => Pass::No,
        }
    }

    /// Closed: everything passes.
    pub(crate) fn close(&self) {
        self.0.store(CLOSED, Ordering::Release);
    }

    /// Open: nothing passes, but for the one that was to be let through and hasn't come yet.
    pub(crate) fn open_unless_probing(&self) {
        let _ = self.0.compare_exchange(CLOSED, OPEN, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Half-open: one passes.
    pub(crate) fn let_one_through(&self) {
        self.0.store(PROBE, Ordering::Release);
    }
}

/// Makes snapshots of tables; keeps the numbers.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    version: u64,
    last_number: u32,
    deployments: HashMap<DeploymentKey, Arc<Deployment>>,
    revisions: HashMap<(DeploymentKey, RevisionId), Arc<Revision>>,
}

impl Builder {
    /// The snapshot of a table, and what in it can't be used, in words.
    pub(crate) fn build(&mut self, table: &Table, known: bool) -> (Snapshot, Vec<String>) {
        let mut trouble = Vec::new();
        let mut deployments = Vec::with_capacity(table.routes.len());
        for routes in table.routes.values() {
            deployments.push(self.deployment(routes, &mut trouble));
        }
        let named = deployments.iter().enumerate().map(|(i, d)| (&*d.routes, i));
        let names = Names::new(named);
        trouble.extend(names.conflicts().iter().map(|Conflict { name, keeps, loses }| {
            format!("{keeps} and {loses} both claim the name `{name}`; {keeps} keeps it")
        }));
        self.deployments = deployments.iter().map(|d| (d.routes.deployment.clone(), Arc::clone(d))).collect();
        let serving: Vec<u32> = deployments
            .iter()
            .flat_map(|d| d.stable.iter().chain(&d.canary))
            .map(|side| side.revision.number)
            .collect();
        self.revisions.retain(|_, revision| serving.contains(&revision.number));
        self.version += 1;
        (Snapshot { version: self.version, names, deployments, known, live: table.live }, trouble)
    }

    fn deployment(&mut self, routes: &Arc<Routes>, trouble: &mut Vec<String>) -> Arc<Deployment> {
        let key = &routes.deployment;
        let before = self.deployments.get(key).cloned();
        if let Some(before) = &before {
            if before.routes.serial > routes.serial {
                trouble.push(format!(
                    "{key}: serial {} is lower than {}, which is served: refused",
                    routes.serial, before.routes.serial
                ));
                return Arc::clone(before);
            }
            if before.routes == *routes {
                return Arc::clone(before);
            }
        }
        let number = before.map_or_else(|| self.next_number(), |before| before.number);
        let stable = routes.stable.as_ref().map(|route| self.side(key, route, trouble));
        let canary = routes.canary.as_ref().map(|route| self.side(key, route, trouble));
        Arc::new(Deployment {
            number,
            salt: canary.as_ref().map(|side| Salt::new(key, &side.revision.id)),
            stable,
            canary,
            first_byte: routes.timeouts.first_byte.get() + routes.max_queue_delay.get(),
            generation: routes.reference.map_or(0, |reference| reference.generation),
            routes: Arc::clone(routes),
        })
    }

    fn side(&mut self, key: &DeploymentKey, route: &RevisionRoute, trouble: &mut Vec<String>) -> Side {
        let mut endpoints = Vec::with_capacity(route.endpoints.len());
        for endpoint in &route.endpoints {
            match endpoint.address.parse() {
                Ok(address) => endpoints.push(Target { id: endpoint.id.clone(), address }),
                Err(_) => trouble.push(format!(
                    "{key}: endpoint {} has the address `{}`, which is not ip:port: left out",
                    endpoint.id, endpoint.address
                )),
            }
        }
        let name = (key.clone(), route.revision.clone());
        let revision = match self.revisions.get(&name) {
            Some(revision) => Arc::clone(revision),
            None => {
                let (deployment, id) = name.clone();
                let revision =
                    Arc::new(Revision { number: self.next_number(), deployment, id, gate: Gate::default() });
                self.revisions.insert(name, Arc::clone(&revision));
                revision
            }
        };
        Side { revision, endpoints }
    }

    fn next_number(&mut self) -> u32 {
        self.last_number += 1;
        self.last_number
    }
}
