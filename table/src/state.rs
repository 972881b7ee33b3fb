//! What the server knows: the newest value of each key, ready to be sent.

use bytes::Bytes;
use outrigger_wire::stream::{Change, Report, Version};
use outrigger_wire::{DeploymentKey, EndpointConfig, EndpointId, GatewayId, Routes, Subscription};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// A gateway whose stream is open but that has not been heard of for this long is not alive: three heartbeats, as
/// for streams. Gateways report every second.
const SILENCE: Duration = outrigger_wire::stream::HEARTBEAT.saturating_mul(3);

/// One value as it is sent.
#[derive(Clone, Debug, PartialEq)]
struct Value {
    version: Version,
    line: Bytes,
}

/// The newest value of each key, and who listens.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// `None` until the planner has published: a server that has just started must not tell gateways that
    /// everything is gone.
    routes: Option<BTreeMap<DeploymentKey, Value>>,
    endpoints: Option<BTreeMap<EndpointId, Value>>,
    gateways: HashMap<GatewayId, Listener>,
    /// The newest report of each sender that has not been taken yet.
    pub(crate) reports: BTreeMap<String, Report>,
}

#[derive(Debug)]
struct Listener {
    streams: u32,
    heard: Instant,
}

/// What one subscriber has been sent.
pub(crate) type Sent = BTreeMap<String, Version>;

impl State {
    /// Takes over the routes of all deployments; whether anything differs.
    pub(crate) fn set_routes(&mut self, routes: Vec<Routes>) -> bool {
        let fresh: BTreeMap<_, _> = routes
            .into_iter()
            .filter_map(|routes| {
                let (key, serial) = (routes.deployment.clone(), routes.serial);
                Some((key, value(serial, &routes, &Change::Routes(Box::new(routes.clone())))?))
            })
            .collect();
        replace(&mut self.routes, fresh)
    }

    /// Takes over the configurations of all sidecars; whether anything differs.
    pub(crate) fn set_endpoints(&mut self, endpoints: Vec<EndpointConfig>) -> bool {
        let fresh: BTreeMap<_, _> = endpoints
            .into_iter()
            .filter_map(|config| {
                let (key, serial) = (config.endpoint.clone(), config.serial);
                Some((key, value(serial, &config, &Change::Endpoint(Box::new(config.clone())))?))
            })
            .collect();
        replace(&mut self.endpoints, fresh)
    }

    /// The lines that this subscriber lacks, and with them what it then has; `None` while nothing was published.
    pub(crate) fn behind(&self, who: &Subscription, sent: &mut Sent) -> Option<Vec<Bytes>> {
        match who {
            Subscription::Gateway(_) => {
                let routes = self.routes.as_ref()?;
                let mut lines = Vec::new();
                let gone: Vec<String> = sent
                    .keys()
                    .filter(|key| !routes.contains_key(&DeploymentKey((*key).clone())))
                    .cloned()
                    .collect();
                for key in gone {
                    sent.remove(&key);
                    lines.extend(line(&Change::Removed(DeploymentKey(key))));
                }
                for (key, value) in routes {
                    lines.extend(newer(sent, key.as_str(), value));
                }
                Some(lines)
            }
            Subscription::Endpoint(id) => {
                let found = self.endpoints.as_ref()?.get(id);
                Some(found.and_then(|value| newer(sent, id.as_str(), value)).into_iter().collect())
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

    /// A gateway has reported.
    pub(crate) fn heard(&mut self, gateway: &GatewayId) {
        if let Some(listener) = self.gateways.get_mut(gateway) {
            listener.heard = Instant::now();
        }
    }

    /// Gateways whose stream is open and that were heard of lately.
    pub(crate) fn live(&self) -> Vec<GatewayId> {
        let lately = |listener: &Listener| listener.heard.elapsed() < SILENCE;
        let mut live: Vec<GatewayId> =
            self.gateways.iter().filter(|(_, l)| lately(l)).map(|(id, _)| id.clone()).collect();
        live.sort();
        live
    }
}

fn replace<K: Ord>(place: &mut Option<BTreeMap<K, Value>>, fresh: BTreeMap<K, Value>) -> bool {
    let differs = place.as_ref() != Some(&fresh);
    if differs {
        *place = Some(fresh);
    }
    differs
}

fn newer(sent: &mut Sent, key: &str, value: &Value) -> Option<Bytes> {
    if sent.get(key) == Some(&value.version) {
        return None;
    }
    sent.insert(key.to_owned(), value.version);
    Some(value.line.clone())
}

fn value<T: serde::Serialize>(serial: u64, content: &T, change: &Change) -> Option<Value> {
    let json = serde_json::to_vec(content).ok()?;
    Some(Value { version: Version::of(serial, &json), line: line(change)? })
}

/// One line of the stream. These types have no map with keys that JSON lacks, so `None` does not happen; were it
/// to, the subscriber would keep what it has.
pub(crate) fn line(change: &Change) -> Option<Bytes> {
    let mut json = serde_json::to_vec(change).ok()?;
    json.push(b'\n');
    Some(json.into())
}
