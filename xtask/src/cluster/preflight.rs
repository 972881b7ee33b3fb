//! What the machine must have before anything is started, each said in a sentence when it lacks.

use crate::programs;
use anyhow::{Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A Unix socket's path is shorter than this, and containerd's lies below the run folder.
const SOCKET_PATH: usize = 108;

/// Looks at what no package brings.
pub(crate) fn check(folder: &Path) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("a cluster on this machine needs root: it makes network namespaces, mounts and cgroups");
    }
    // One hierarchy names its controllers, else each has a folder of its own.
    let unified = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok();
    for name in ["memory", "cpu", "pids"] {
        let there = match &unified {
            Some(list) => list.split_whitespace().any(|word| word == name),
            None => Path::new("/sys/fs/cgroup").join(name).join("cgroup.procs").exists(),
        };
        if !there {
            bail!(
                "the kubelet needs the cgroup controller `{name}`, which is not mounted below /sys/fs/cgroup"
            );
        }
    }
    let socket = folder.join("node-1/containerd-state").join("fifo-of-a-container-with-a-long-name");
    if socket.as_os_str().len() >= SOCKET_PATH {
        bail!(
            "{} is too long a path for sockets below it; set OUTRIGGER_CACHE to a shorter one",
            folder.display()
        );
    }
    Ok(())
}

/// Tries what the kernel must do, with the packages' programs.
pub(crate) fn kernel() -> Result<()> {
    let name = format!("outrigger-try-{}", std::process::id());
    let tries = [
        ("network namespaces", format!("ip netns add {name}")),
        ("veth pairs", format!("ip -n {name} link add try0 type veth peer name try1")),
        ("bridges", format!("ip -n {name} link add try2 type bridge")),
        ("nftables", format!("nsenter --net=/run/netns/{name} nft add table ip outrigger")),
        (
            "address translation in nftables",
            format!(
                "nsenter --net=/run/netns/{name} nft add chain ip outrigger c {{ type nat hook output priority 0 ; }}"
            ),
        ),
    ];
    let failed = tries.iter().find_map(|(what, words)| Some((what, refused(words)?)));
    // It may not have come to be.
    let _ = Command::new("ip").args(["netns", "delete", &name]).output();
    match failed {
        Some((what, why)) => bail!("the cluster needs {what}, and this kernel refuses: {why}"),
        None => Ok(()),
    }
}

/// Why a command failed; `None` when it didn't.
fn refused(words: &str) -> Option<String> {
    let mut words = words.split(' ');
    let program = words.next().and_then(programs::find)?;
    match Command::new(program).args(words).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    }
}
