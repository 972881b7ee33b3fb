//! The network: one bridge, one namespace per node. Nothing in a node has a route that leaves the machine, and the
//! host gets its routes to Services and pods before anything dials them: otherwise such a packet would leave through
//! its default route.

use super::process::until;
use super::state::Node;
use crate::run;
use anyhow::{Result, bail};
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

/// The bridge, and the host on it.
pub(crate) const BRIDGE: &str = "outrigger0";
pub(crate) const HOST: &str = "10.213.0.1";
/// The bridge's addresses.
const LINKS: &str = "10.213.0.0/24";
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

/// Says when an address range is somebody else's already. A wider route of theirs is none of ours: it leads on to all
/// the rest of it.
fn clash() -> Result<()> {
    let routes = Command::new("ip").args(["-4", "route", "show"]).output()?;
    let routes = String::from_utf8_lossy(&routes.stdout).into_owned();
    if let Some(line) = routes.lines().find(|line| clashes(line)) {
        bail!("the cluster needs {LINKS}, {SERVICES} and {PODS}, and this machine has the route `{line}`");
    }
    Ok(())
}

/// Whether a line of `ip route` leads into our ranges.
fn clashes(line: &str) -> bool {
    // A kind of route (`unreachable`, `blackhole`) may stand before where it leads to.
    let destination = line.split_whitespace().take(2).find_map(range);
    [LINKS, SERVICES, PODS].into_iter().filter_map(range).any(|(ours, length)| {
        let mask = u32::MAX << (32 - length);
        destination.is_some_and(|(theirs, narrow)| narrow >= length && theirs & mask == ours)
    })
}

/// `10.96.0.0/16`, or one address: its bits, and how many of them count.
fn range(text: &str) -> Option<(u32, u32)> {
    let (address, length) = text.split_once('/').unwrap_or((text, "32"));
    let length = length.parse().ok().filter(|length| (1..=32).contains(length))?;
    Some((address.parse::<Ipv4Addr>().ok()?.to_bits(), length))
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

#[cfg(test)]
mod tests {
    use super::clashes;

    #[test]
    fn only_routes_into_our_ranges_clash() {
        for line in [
            "10.96.0.0/16 via 10.0.0.1 dev eth0",
            "10.244.7.0/24 dev cni0 proto kernel scope link src 10.244.7.1",
            "unreachable 10.213.0.128/25",
            "10.96.0.10 dev tun0",
        ] {
            assert!(clashes(line), "{line}");
        }
        for line in [
            "default via 10.96.0.1 dev eth0",
            "10.0.0.0/8 via 192.168.0.1 dev tun0",
            "110.96.0.0/16 dev eth0",
            "192.168.0.0/24 dev eth0 src 10.244.1.1",
            "10.213.1.0/24 dev eth0",
        ] {
            assert!(!clashes(line), "{line}");
        }
    }
}
