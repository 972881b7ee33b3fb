//! What the server knows: the newest value of each key, ready to be sent, and in which order they changed.

use crate::inbox::Inbox;
use bytes::Bytes;
use outrigger_wire::stream::{Change, Version};
use outrigger_wire::{DeploymentKey, EndpointConfig, EndpointId, GatewayId, Routes, Subscription};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// A gateway that has not been heard of for this long is not alive: three heartbeats, as for streams. Gateways
/// report every second.
const SILENCE: Duration = outrigger_wire::stream::HEARTBEAT.saturating_mul(3);
/// The most deployments of which it is remembered when they went; beyond, subscribers are compared in full.
const MOST_GONE: usize = 1_024;
/// The most gateways whose reports come by way of another server.
const MOST_GATEWAYS: usize = 1_024;

/// One value as it is sent.
#[derive(Clone, Debug, PartialEq)]
struct Value {
    version: Version,
    line: Bytes,
}

/// The newest value of each key, and who listens.
#[derive(Debug, Default)]
pub(crate) struct State {
    routes: BTreeMap<DeploymentKey, Value>,
    /// Whether `routes` are all that there are: until then nobody is told anything, for a server that has just
    /// started must not tell gateways that everything is gone.
    routes_complete: bool,
    endpoints: HashMap<EndpointId, (DeploymentKey, Value)>,
    endpoints_complete: bool,
    replicas: HashMap<DeploymentKey, Vec<EndpointId>>,
    order: Order,
    gateways: HashMap<GatewayId, Listener>,
    pub(crate) inbox: Inbox,
}

#[derive(Debug)]
struct Listener {
    streams: u32,
    heard: Instant,
}

/// In which order deployments changed or went, each at its last time, so that a subscriber that is up to date is
/// told a change without a look at all the others.
#[derive(Debug, Default)]
struct Order {
    count: u64,
    at: HashMap<DeploymentKey, u64>,
    keys: BTreeMap<u64, DeploymentKey>,
    gone: HashSet<DeploymentKey>,
    /// Who has seen less than this is compared in full.
    complete_from: u64,
}

impl Order {
    fn changed(&mut self, key: &DeploymentKey, gone: bool) {
        self.count += 1;
        if let Some(before) = self.at.insert(key.clone(), self.count) {
            self.keys.remove(&before);
        }
        self.keys.insert(self.count, key.clone());
        if !gone {
            self.gone.remove(key);
            return;
        }
        self.gone.insert(key.clone());
        if self.gone.len() > MOST_GONE {
            for key in self.gone.drain() {
                if let Some(at) = self.at.remove(&key) {
                    self.keys.remove(&at);
                }
            }
            self.complete_from = self.count;
        }
    }
}

/// What one subscriber has been sent.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    versions: BTreeMap<String, Version>,
    /// Up to which change; `None` before the first look.
    seen: Option<u64>,
    /// The subscriber came with deployments that are not known here. They may be gone, or so new that this server has
    /// not heard of them yet: which, shows after a while.
    pub(crate) doubts: bool,
}

impl Sent {
    /// A subscriber that has these already.
    pub(crate) fn new(versions: BTreeMap<String, Version>) -> Self {
        Self { versions, seen: None, doubts: false }
    }
}

impl State {
    /// Takes over one deployment's routes and its sidecars' configurations; whether anything differs.
    pub(crate) fn put(&mut self, routes: &Routes, endpoints: &[EndpointConfig]) -> bool {
        let key = routes.deployment.clone();
        let differs = self.put_routes(routes);
        self.put_endpoints(key, endpoints.iter()) || differs
    }

    /// Forgets one deployment and its sidecars; whether it was there.
    pub(crate) fn remove(&mut self, key: &DeploymentKey) -> bool {
        let had_endpoints = self.put_endpoints(key.clone(), [].into_iter());
        self.remove_routes(key) || had_endpoints
    }

    /// What was put is all that there is; whether that is news.
    pub(crate) fn complete(&mut self) -> bool {
        let news = !(self.routes_complete && self.endpoints_complete);
        self.routes_complete = true;
        self.endpoints_complete = true;
        news
    }

    /// Takes over the routes of all deployments; whether anything differs.
    pub(crate) fn set_routes(&mut self, routes: &[Routes]) -> bool {
        let now: HashSet<&DeploymentKey> = routes.iter().map(|routes| &routes.deployment).collect();
        let gone: Vec<_> = self.routes.keys().filter(|key| !now.contains(key)).cloned().collect();
        let mut differs = !std::mem::replace(&mut self.routes_complete, true);
        for key in gone {
            differs |= self.remove_routes(&key);
        }
        for routes in routes {
            differs |= self.put_routes(routes);
        }
        differs
    }

    /// Takes over the configurations of all sidecars; whether anything differs.
    pub(crate) fn set_endpoints(&mut self, endpoints: &[EndpointConfig]) -> bool {
        let mut by_deployment: BTreeMap<DeploymentKey, Vec<&EndpointConfig>> =
            self.replicas.keys().map(|key| (key.clone(), Vec::new())).collect();
        for config in endpoints {
            by_deployment.entry(config.deployment.clone()).or_default().push(config);
        }
        let mut differs = !std::mem::replace(&mut self.endpoints_complete, true);
        for (key, configs) in by_deployment {
            differs |= self.put_endpoints(key, configs.into_iter());
        }
        differs
    }

    fn put_routes(&mut self, routes: &Routes) -> bool {
        let key = &routes.deployment;
        let Some(value) = value(routes.serial, routes, "routes") else { return false };
        if self.routes.get(key) == Some(&value) {
            return false;
        }
        self.routes.insert(key.clone(), value);
        self.order.changed(key, false);
        true
    }

    fn remove_routes(&mut self, key: &DeploymentKey) -> bool {
        let removed = self.routes.remove(key).is_some();
        if removed {
            self.order.changed(key, true);
        }
        removed
    }

    fn put_endpoints<'a>(
        &mut self,
        key: DeploymentKey,
        endpoints: impl Iterator<Item = &'a EndpointConfig>,
    ) -> bool {
        let mut differs = false;
        let mut now = Vec::new();
        for config in endpoints {
            let Some(value) = value(config.serial, config, "endpoint") else { continue };
            now.push(config.endpoint.clone());
            let before = self.endpoints.insert(config.endpoint.clone(), (key.clone(), value.clone()));
            differs |= before.is_none_or(|(_, before)| before != value);
        }
        for id in self.replicas.remove(&key).into_iter().flatten() {
            let is_ours = self.endpoints.get(&id).is_some_and(|(owner, _)| *owner == key);
            if is_ours && !now.contains(&id) {
                self.endpoints.remove(&id);
                differs = true;
            }
        }
        if !now.is_empty() {
            self.replicas.insert(key, now);
        }
        differs
    }

    /// The lines that this subscriber lacks, and with them what it then has; `None` until what is known is
    /// complete.
    pub(crate) fn behind(&self, who: &Subscription, sent: &mut Sent) -> Option<Vec<Bytes>> {
        match who {
            Subscription::Gateway(_) if !self.routes_complete => None,
            Subscription::Gateway(_) => {
                let mut lines = Vec::new();
                match sent.seen {
                    Some(seen) if seen >= self.order.complete_from => {
                        for key in self.order.keys.range(seen + 1..).map(|(_, key)| key) {
                            lines.extend(self.one_behind(key, sent));
                        }
                    }
                    _ => {
                        let gone = self.unknown(sent);
                        sent.doubts = sent.seen.is_none() && !gone.is_empty();
                        let told = if sent.doubts { &[] } else { gone.as_slice() };
                        for key in told.iter().chain(self.routes.keys()) {
                            lines.extend(self.one_behind(key, sent));
                        }
                    }
                }
                sent.seen = Some(self.order.count);
                Some(lines)
            }
            Subscription::Endpoint(_) if !self.endpoints_complete => None,
            Subscription::Endpoint(id) => {
                let found = self.endpoints.get(id);
                let line = found.and_then(|(_, value)| newer(&mut sent.versions, id.as_str(), value));
                Some(line.into_iter().collect())
            }
        }
    }

    /// What the subscriber has and this server still does not know is gone.
    pub(crate) fn settle(&self, sent: &mut Sent) -> Vec<Bytes> {
        sent.doubts = false;
        self.unknown(sent).iter().filter_map(|key| self.one_behind(key, sent)).collect()
    }

    /// What the subscriber has and this server does not know.
    fn unknown(&self, sent: &Sent) -> Vec<DeploymentKey> {
        let known = sent.versions.keys().map(|key| DeploymentKey(key.clone()));
        known.filter(|key| !self.routes.contains_key(key)).collect()
    }

    fn one_behind(&self, key: &DeploymentKey, sent: &mut Sent) -> Option<Bytes> {
        match self.routes.get(key) {
            Some(value) => newer(&mut sent.versions, key.as_str(), value),
            None => {
                sent.versions.remove(key.as_str())?;
                line(&Change::Removed(key.clone()))
            }
        }
    }

    /// A gateway's stream has opened.
    pub(crate) fn opened(&mut self, gateway: &GatewayId) {
        let now = Instant::now();
        let listener = self.gateways.entry(gateway.clone()).or_insert(Listener { streams: 0, heard: now });
        listener.streams += 1;
        listener.heard = now;
    }

    /// A gateway's stream has closed.
    pub(crate) fn closed(&mut self, gateway: &GatewayId) {
        if let Some(listener) = self.gateways.get_mut(gateway) {
            listener.streams = listener.streams.saturating_sub(1);
            if listener.streams == 0 {
                self.gateways.remove(gateway);
            }
        }
    }

    /// A gateway has reported here.
    pub(crate) fn heard(&mut self, gateway: &GatewayId) {
        if let Some(listener) = self.gateways.get_mut(gateway) {
            listener.heard = Instant::now();
        }
    }

    /// A gateway whose stream is at another server has reported to that one.
    pub(crate) fn heard_elsewhere(&mut self, gateway: &GatewayId) {
        self.gateways.retain(|_, listener| listener.streams > 0 || lately(listener));
        if self.gateways.len() < MOST_GATEWAYS || self.gateways.contains_key(gateway) {
            let now = Instant::now();
            self.gateways.entry(gateway.clone()).or_insert(Listener { streams: 0, heard: now }).heard = now;
        }
    }

    /// Gateways that were heard of lately.
    pub(crate) fn live(&self) -> Vec<GatewayId> {
        let mut live: Vec<GatewayId> =
            self.gateways.iter().filter(|(_, l)| lately(l)).map(|(id, _)| id.clone()).collect();
        live.sort();
        live
    }
}

fn lately(listener: &Listener) -> bool {
    listener.heard.elapsed() < SILENCE
}

fn newer(sent: &mut BTreeMap<String, Version>, key: &str, value: &Value) -> Option<Bytes> {
    if sent.get(key) == Some(&value.version) {
        return None;
    }
    sent.insert(key.to_owned(), value.version);
    Some(value.line.clone())
}

/// One value as the line of its [`Change`], whose JSON is `{"routes":…}` or `{"endpoint":…}`: written once, for
/// the version is of the inner part.
fn value<T: serde::Serialize>(serial: u64, content: &T, change: &str) -> Option<Value> {
    let json = serde_json::to_vec(content).ok()?;
    let line = [b"{\"", change.as_bytes(), b"\":", &json, b"}\n"].concat();
    Some(Value { version: Version::of(serial, &json), line: line.into() })
}

/// One line of the stream. These types have no map with keys that JSON lacks, so `None` does not happen; were it
/// to, the subscriber would keep what it has.
pub(crate) fn line(change: &Change) -> Option<Bytes> {
    let mut json = serde_json::to_vec(change).ok()?;
    json.push(b'\n');
    Some(json.into())
}
