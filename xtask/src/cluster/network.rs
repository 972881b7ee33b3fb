//! The network: one bridge, one namespace per node. Nothing in a node has a route that leaves the machine, and the
//! host gets its routes to Services and pods before anything dials them: otherwise such a packet would leave through
//! its default route.

use super::process::until;
use super::state::Node;
use crate::run;
use anyhow::{Result, bail};
use std::process::Command;
use std::time::Duration;

/// The bridge, and the host on it.
pub(crate) const BRIDGE: &str = "outrigger0";
pub(crate) const HOST: &str = "10.213.0.1";
/// Services and pods. Each node has a /24 of the pods' addresses.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
pub(crate) const PODS: &str = "10.244.0.0/16";
/// Where our namespaces begin, so that leftovers are known.
pub(crate) const NAMESPACE: &str = "outrigger-node-";

/// Node `number` of the plan, from 1.
pub(crate) fn node(number: u8, folder: &std::path::Path) -> Node {
    let name = format!("node-{number}");
    Node {
        namespace: format!("{NAMESPACE}{number}"),
        link: format!("outrigger-n{number}"),
        address: format!("10.213.0.{}", number + 1),
        pods: format!("10.244.{number}.0/24"),
        containerd: folder.join(&name).join("containerd.sock"),
        gpus: 1,
        images: std::collections::BTreeMap::new(),
        name,
    }
}

/// Links go in milliseconds; a bound.
const REMOVED: Duration = Duration::from_secs(10);

/// A command inside a node's network. `ip netns exec` would remount /sys, and the cgroups would be gone.
pub(crate) fn inside(namespace: &str, program: &std::path::Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
    command
}

/// Makes the bridge, the nodes' namespaces and all routes.
pub(crate) fn make(nodes: &[Node]) -> Result<()> {
    clash()?;
    ip(&format!("link add {BRIDGE} type bridge"))?;
    ip(&format!("addr add {HOST}/24 dev {BRIDGE}"))?;
    ip(&format!("link set {BRIDGE} up"))?;
    // Until the first node's way stands, a Service's address leads nowhere rather than out.
    ip(&format!("route add unreachable {SERVICES} metric 9000"))?;
    ip(&format!("route add unreachable {PODS} metric 9000"))?;
    for node in nodes {
        cable(node)?;
    }
    for node in nodes {
        ip(&format!("route add {} via {} dev {BRIDGE}", node.pods, node.address))?;
        for other in nodes.iter().filter(|other| other.name != node.name) {
            ip(&format!("-n {} route add {} via {}", node.namespace, other.pods, other.address))?;
        }
    }
    if let Some(first) = nodes.first() {
        // Its kube-proxy translates.
        ip(&format!("route add {SERVICES} via {} dev {BRIDGE}", first.address))?;
    }
    Ok(())
}

fn cable(node: &Node) -> Result<()> {
    let Node { namespace, link, address, .. } = node;
    ip(&format!("netns add {namespace}"))?;
    ip(&format!("-n {namespace} link set lo up"))?;
    ip(&format!("link add {link} type veth peer name eth0 netns {namespace}"))?;
    ip(&format!("link set {link} master {BRIDGE} up"))?;
    ip(&format!("-n {namespace} addr add {address}/24 dev eth0"))?;
    ip(&format!("-n {namespace} link set eth0 up"))?;
    // A packet to a Service is translated after it was routed, so there must be a route; there is no default one.
    ip(&format!("-n {namespace} route add {SERVICES} via {HOST}"))?;
    let forward = ["-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"];
    let mut command = inside(namespace, "sh".as_ref());
    command.args(forward);
    let output = command.output()?;
    if !output.status.success() {
        bail!("{namespace} can't forward packets: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Says when an address range is somebody else's already.
fn clash() -> Result<()> {
    let routes = Command::new("ip").args(["-4", "route", "show"]).output()?;
    let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
    let ours = ["10.213.0.", "10.96.", "10.244."];
    if let Some(line) = routes.lines().find(|line| ours.iter().any(|range| line.contains(range))) {
        bail!(
            "the cluster needs 10.213.0.0/24, {SERVICES} and {PODS}, and this machine has the route `{line}`"
        );
    }
    Ok(())
}

/// Plugs a node's cable in or out.
pub(crate) fn link(node: &Node, up: bool) -> Result<()> {
    ip(&format!("link set {} {}", node.link, if up { "up" } else { "down" }))
}

/// Removes whatever of the network is there, and says what could not be removed.
pub(crate) fn remove() -> Vec<String> {
    let mut kept: Vec<String> =
        namespaces().iter().filter_map(|name| ip(&format!("netns delete {name}")).err()).map(text).collect();
    // A namespace takes its cables with it, a moment later; the routes over the bridge go with the bridge.
    let gone = until(REMOVED, || {
        for link in links() {
            // It may be gone by now.
            let _ = ip(&format!("link delete {link}"));
        }
        links().is_empty()
    });
    if !gone {
        kept.extend(links().into_iter().map(|link| format!("the network link {link} stays")));
    }
    let routes = Command::new("ip").args(["-4", "route", "show", "type", "unreachable"]).output();
    let routes =
        routes.map(|routes| String::from_utf8_lossy(&routes.stdout).into_owned()).unwrap_or_default();
    for range in [SERVICES, PODS] {
        if routes.lines().any(|line| line.contains(range) && line.contains("metric 9000")) {
            kept.extend(ip(&format!("route delete unreachable {range} metric 9000")).err().map(text));
        }
    }
    kept
}

fn text(error: anyhow::Error) -> String {
    format!("{error:#}")
}

/// Our bridge and the host's ends of our cables.
fn links() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let cable = |name: &str| name.strip_prefix("outrigger-n").is_some_and(|rest| rest.parse::<u8>().is_ok());
    names.filter(|name| name == BRIDGE || cable(name)).collect()
}

/// Our namespaces that exist.
pub(crate) fn namespaces() -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(NAMESPACE)).collect()
}

fn ip(words: &str) -> Result<()> {
    let mut command = run::command("ip", words.split(' '))?;
    let output = command.output().map_err(|error| anyhow::anyhow!("running ip {words}: {error}"))?;
    if !output.status.success() {
        bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
