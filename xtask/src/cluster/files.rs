//! The files that the cluster's parts read: kubeconfigs, configurations, tokens, the audit policy. All of them are
//! values of the plan; writing them is the last function.

use super::parts::{DNS, SERVER};
use super::state::{Node, State};
use crate::run;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Tags of our images, the pause image among them.
pub(crate) const TAG: &str = env!("CARGO_PKG_VERSION");

/// Who speaks to the API server with a token of its own: name, groups, and where the kubeconfig goes.
fn users(nodes: &[Node]) -> Vec<(String, &'static str, String)> {
    let config = |name: &str| format!("config/{name}.kubeconfig");
    let mut users = vec![
        ("admin".to_owned(), "system:masters", "kubeconfig".to_owned()),
        ("system:kube-controller-manager".to_owned(), "", config("controller-manager")),
        ("system:kube-scheduler".to_owned(), "", config("scheduler")),
        ("system:kube-proxy".to_owned(), "system:node-proxiers", config("proxy")),
    ];
    users.extend(nodes.iter().map(|node| {
        let name = format!("system:node:{}", node.name);
        (name, "system:nodes", format!("{}/kubelet.kubeconfig", node.name))
    }));
    users
}

/// Writes everything that is needed before the API server starts. The kubeconfigs name the certificate that the API
/// server makes at its first start.
pub(crate) fn write(state: &State, folder: &Path) -> Result<()> {
    for name in ["pki", "config", "logs"] {
        fs::create_dir_all(folder.join(name))?;
    }
    // Keys and tokens lie here.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    let mut tokens = String::new();
    for (number, (user, group, path)) in users(&state.nodes).into_iter().enumerate() {
        let token = secret()?;
        tokens.push_str(&format!("{token},{user},{number},\"{group}\"\n"));
        put(&folder.join(path), &kubeconfig(&user, &token, &folder.join("pki/apiserver.crt")))?;
    }
    put(&folder.join("pki/tokens.csv"), &tokens)?;
    put(&folder.join("config/audit.yaml"), AUDIT)?;
    signing_key(&folder.join("pki/sa.key"))?;
    for node in &state.nodes {
        let home = folder.join(&node.name);
        put(&home.join("kubelet.yaml"), &kubelet(node, folder))?;
        put(&home.join("containerd.toml"), &containerd(node, folder, overlay()))?;
        put(&home.join("cni/10-outrigger.conflist"), &cni(node, folder))?;
        put(&home.join("resolv.conf"), "# Names are the cluster's own.\nnameserver 10.96.0.10\n")?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// 128 bits that nobody guesses.
fn secret() -> Result<String> {
    let mut bytes = [0_u8; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn signing_key(path: &Path) -> Result<()> {
    let mut command = run::command("openssl", ["genrsa", "-out"])?;
    let output = command.arg(path).arg("2048").output().context("running openssl")?;
    if !output.status.success() {
        bail!("openssl genrsa: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn kubeconfig(user: &str, token: &str, authority: &Path) -> String {
    let authority = authority.display();
    format!(
        "apiVersion: v1
kind: Config
current-context: outrigger
clusters:
- name: outrigger
  cluster: {{server: \"{SERVER}\", certificate-authority: \"{authority}\"}}
contexts:
- name: outrigger
  context: {{cluster: outrigger, user: \"{user}\"}}
users:
- name: \"{user}\"
  user: {{token: \"{token}\"}}
"
    )
}

/// Everything that people, operators and workloads ask, and nothing of the control plane's own talk.
const AUDIT: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: [system:apiserver, system:kube-controller-manager, system:kube-scheduler, system:kube-proxy, admin]
- level: None
  userGroups: [system:nodes, \"system:serviceaccounts:kube-system\"]
- level: None
  nonResourceURLs: [/livez*, /readyz*, /healthz*, /openapi*, /version, /api, /apis]
- level: Metadata
";

fn kubelet(node: &Node, folder: &Path) -> String {
    let home = folder.join(&node.name);
    let home = home.display();
    let socket = node.containerd.display();
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: \"unix://{socket}\"
# The hierarchy is flat: this machine's cgroups belong to somebody else.
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
evictionHard: {{memory.available: 100Mi}}
# Images are imported, so none may be collected.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
clusterDNS: [{DNS}]
clusterDomain: cluster.local
resolvConf: \"{home}/resolv.conf\"
podLogsDir: \"{home}/pods\"
volumePluginDir: \"{home}/volume-plugins\"
maxPods: 240
serializeImagePulls: false
eventRecordQPS: 0
syncFrequency: 10s
nodeStatusUpdateFrequency: 4s
nodeLeaseDurationSeconds: 12
readOnlyPort: 0
# Reached on this machine's bridge alone; `logs` and `exec` need it.
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
"
    )
}

fn containerd(node: &Node, folder: &Path, overlay: bool) -> String {
    let home = folder.join(&node.name);
    let home = home.display();
    let socket = node.containerd.display();
    let snapshotter = if overlay { "overlayfs" } else { "native" };
    format!(
        "version = 2
root = \"{home}/containerd\"
state = \"{home}/containerd-state\"
disabled_plugins = [\"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.btrfs\",
  \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.zfs\"]
[grpc]
address = \"{socket}\"
[plugins.\"io.containerd.internal.v1.opt\"]
path = \"{home}/opt\"
[plugins.\"io.containerd.grpc.v1.cri\"]
sandbox_image = \"docker.io/outrigger/pause:{TAG}\"
# Without CAP_SYS_RESOURCE no sandbox starts otherwise.
restrict_oom_score_adj = true
# What is mounted lies below the run folder, where `down` finds it.
netns_mounts_under_state_dir = true
[plugins.\"io.containerd.grpc.v1.cri\".cni]
bin_dir = \"/usr/lib/cni\"
conf_dir = \"{home}/cni\"
[plugins.\"io.containerd.grpc.v1.cri\".containerd]
snapshotter = \"{snapshotter}\"
[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]
runtime_type = \"io.containerd.runc.v2\"
[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]
SystemdCgroup = false
"
    )
}

/// Whether the kernel has overlay file systems; containerd's plain copies serve without.
fn overlay() -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.contains("overlay"))
}

fn cni(node: &Node, folder: &Path) -> String {
    let data = folder.join(&node.name).join("cni-data");
    let (data, pods) = (data.display(), &node.pods);
    format!(
        r#"{{
  "cniVersion": "0.4.0",
  "name": "outrigger-pods",
  "plugins": [
    {{
      "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
      "ipam": {{
        "type": "host-local", "dataDir": "{data}", "ranges": [[{{"subnet": "{pods}"}}]],
        "routes": [{{"dst": "0.0.0.0/0"}}]
      }}
    }},
    {{"type": "portmap", "capabilities": {{"portMappings": true}}, "snat": false}}
  ]
}}
"#
    )
}
