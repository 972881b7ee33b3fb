//! The cluster's programs and what each is told: pure, so that a part can be started again just as it was.

use super::network::{HOST, PODS, SERVICES};
use super::state::{Node, State};
use std::path::Path;

/// One program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its name here and the name of its log.
    pub(crate) name: String,
    /// The program's name.
    pub(crate) program: &'static str,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// The network namespace it runs in; the host's when there is none.
    pub(crate) namespace: Option<String>,
}

/// etcd's client port on the loopback interface, away from the usual one.
pub(crate) const ETCD: &str = "127.0.0.1:23791";
const ETCD_PEERS: &str = "127.0.0.1:23801";
/// The API server's address.
pub(crate) const SERVER: &str = "https://10.213.0.1:6443";
/// The DNS server's Service.
pub(crate) const DNS: &str = "10.96.0.10";

/// All parts, in the order in which they start.
pub(crate) fn all(state: &State, folder: &Path) -> Vec<Part> {
    let mut parts = vec![etcd(folder), apiserver(folder), controller_manager(folder), scheduler(folder)];
    for node in &state.nodes {
        parts.extend([containerd(node, folder), kubelet(node, folder), proxy(node, folder)]);
    }
    parts
}

fn part(name: &str, program: &'static str, args: Vec<String>) -> Part {
    Part { name: name.to_owned(), program, args, namespace: None }
}

fn etcd(folder: &Path) -> Part {
    let (client, peers) = (format!("http://{ETCD}"), format!("http://{ETCD_PEERS}"));
    let args = vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        // The data need not outlive the machine.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    part("etcd", "etcd", args)
}

fn apiserver(folder: &Path) -> Part {
    let at = |name: &str| folder.join(name).display().to_string();
    let args = vec![
        format!("--etcd-servers=http://{ETCD}"),
        "--secure-port=6443".to_owned(),
        format!("--bind-address={HOST}"),
        format!("--advertise-address={HOST}"),
        format!("--cert-dir={}", at("pki")),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!("--service-account-key-file={}", at("pki/sa.key")),
        format!("--service-account-signing-key-file={}", at("pki/sa.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--token-auth-file={}", at("pki/tokens.csv")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        // Webhooks are dialled at their pods, so that no one node is needed for all of them.
        "--enable-aggregator-routing=true".to_owned(),
        format!("--audit-policy-file={}", at("config/audit.yaml")),
        format!("--audit-log-path={}", at("logs/audit.log")),
        // In megabytes, more than any test writes: tests read it from where they began.
        "--audit-log-maxsize=2000".to_owned(),
    ];
    part("apiserver", "kube-apiserver", args)
}

fn controller_manager(folder: &Path) -> Part {
    let at = |name: &str| folder.join(name).display().to_string();
    let args = vec![
        format!("--kubeconfig={}", at("config/controller-manager.kubeconfig")),
        format!("--service-account-private-key-file={}", at("pki/sa.key")),
        format!("--root-ca-file={}", at("pki/apiserver.crt")),
        "--use-service-account-credentials=true".to_owned(),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        // A lost node is noticed while a test waits, and not after every pause of a busy machine.
        "--node-monitor-grace-period=20s".to_owned(),
        "--node-monitor-period=2s".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
    ];
    part("controller-manager", "kube-controller-manager", args)
}

fn scheduler(folder: &Path) -> Part {
    let kubeconfig = folder.join("config/scheduler.kubeconfig");
    let args = vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
    ];
    part("scheduler", "kube-scheduler", args)
}

/// The number at the end of a node's name, which its parts carry too.
fn number(node: &Node) -> &str {
    node.name.rsplit('-').next().unwrap_or_default()
}

fn of_node(node: &Node, what: &str, program: &'static str, args: Vec<String>) -> Part {
    let name = format!("{what}-{}", number(node));
    Part { name, program, args, namespace: Some(node.namespace.clone()) }
}

fn containerd(node: &Node, folder: &Path) -> Part {
    let config = folder.join(&node.name).join("containerd.toml");
    of_node(node, "containerd", "containerd", vec![format!("--config={}", config.display())])
}

fn kubelet(node: &Node, folder: &Path) -> Part {
    let at = |name: &str| folder.join(&node.name).join(name).display().to_string();
    let args = vec![
        format!("--kubeconfig={}", at("kubelet.kubeconfig")),
        format!("--config={}", at("kubelet.yaml")),
        format!("--hostname-override={}", node.name),
        format!("--node-ip={}", node.address),
        format!("--root-dir={}", at("kubelet")),
        format!("--cert-dir={}", at("kubelet-pki")),
    ];
    of_node(node, "kubelet", "kubelet", args)
}

fn proxy(node: &Node, folder: &Path) -> Part {
    let kubeconfig = folder.join("config/proxy.kubeconfig");
    let args = vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        "--proxy-mode=nftables".to_owned(),
        format!("--cluster-cidr={PODS}"),
        format!("--hostname-override={}", node.name),
        format!("--bind-address={}", node.address),
        // The whole machine's, which are not ours to change.
        "--conntrack-max-per-core=0".to_owned(),
        "--conntrack-min=0".to_owned(),
        "--conntrack-tcp-timeout-established=0s".to_owned(),
        "--conntrack-tcp-timeout-close-wait=0s".to_owned(),
    ];
    of_node(node, "proxy", "kube-proxy", args)
}

#[cfg(test)]
mod tests {
    use super::{State, all};
    use crate::cluster::network;
    use std::path::Path;

    #[test]
    fn each_node_has_its_three_parts_in_its_own_network() {
        let folder = Path::new("/run/x");
        let nodes = vec![network::node(1, folder), network::node(2, folder)];
        let parts = all(&State { nodes, ..State::default() }, folder);
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let expected = "etcd apiserver controller-manager scheduler containerd-1 kubelet-1 proxy-1 containerd-2 \
                        kubelet-2 proxy-2";
        assert_eq!(names.join(" "), expected);
        for part in &parts {
            let number = part.name.rsplit('-').next().filter(|end| end.parse::<u8>().is_ok());
            assert_eq!(part.namespace.as_deref(), number.map(|n| format!("outrigger-node-{n}")).as_deref());
        }
    }
}
