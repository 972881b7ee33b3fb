//! Packages of the distribution: installed where they are missing, without a service of theirs being started.

use crate::programs::find;
use crate::run;
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the cluster needs of Debian's packages, each with a program that tells whether it is there.
const CLUSTER: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("nftables", "nft"),
    ("iproute2", "ip"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("openssl", "openssl"),
    ("prometheus", "prometheus"),
    ("util-linux", "nsenter"),
];

/// What a package's scripts ask before they start its service.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// 101: nothing is started. The second line tells ours from an administrator's.
const NOTHING_STARTS: &str = "#!/bin/sh\n# Made by cargo xtask while it installs packages.\nexit 101\n";

/// Installs what is missing for the cluster.
pub(crate) fn for_cluster() -> Result<()> {
    let missing = CLUSTER.iter().filter(|(_, program)| find(program).is_none());
    install(&missing.map(|(package, _)| *package).collect::<Vec<_>>())
}

/// Installs packages; as root and with apt-get it can, else it says what to do.
pub(crate) fn install(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !rustix::process::geteuid().is_root() || find("apt-get").is_none() {
        bail!("these packages are needed (Debian's names), please install them: {list}");
    }
    let mut update = run::command("apt-get", ["update", "-qq"])?;
    update.env("DEBIAN_FRONTEND", "noninteractive");
    run::must("apt-get update", update)?;
    let before = enabled();
    let _policy = Policy::make(Path::new(POLICY))?;
    let mut install = run::command("apt-get", ["install", "-y", "-qq", "--no-install-recommends"])?;
    install.args(missing).env("DEBIAN_FRONTEND", "noninteractive");
    let installed = run::must(&format!("apt-get install {list}"), install);
    // Also after a failure: some of them may have been installed.
    disable(enabled().difference(&before));
    installed.map(drop)
}

/// Keeps services of packages from starting, until it is dropped: the cluster and the tests run their own, and the
/// machine's owner asked for none. A policy that is there already stays, and decides.
struct Policy {
    ours: Option<PathBuf>,
}

impl Policy {
    fn make(path: &Path) -> Result<Self> {
        // Left by a run that was killed.
        if fs::read_to_string(path).is_ok_and(|text| text == NOTHING_STARTS) {
            return Ok(Self { ours: Some(path.to_owned()) });
        }
        match fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(path) {
            Ok(mut file) => {
                // First the guard: a file that is half written is removed, too.
                let this = Self { ours: Some(path.to_owned()) };
                file.write_all(NOTHING_STARTS.as_bytes())?;
                Ok(this)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Self { ours: None }),
            Err(error) => bail!("making {}, by which no service is started: {error}", path.display()),
        }
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if let Some(path) = &self.ours {
            let _ = fs::remove_file(path);
        }
    }
}

/// The units that systemd would start at the machine's next start; none where there is no systemd.
fn enabled() -> BTreeSet<String> {
    // Read from files: it need not run.
    let args = ["--root=/", "list-unit-files", "--state=enabled", "--no-legend", "--no-pager"];
    let output = Command::new("systemctl").args(args).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

fn disable<'a>(units: impl Iterator<Item = &'a String>) {
    let units: Vec<&String> = units.collect();
    if units.is_empty() {
        return;
    }
    let done = Command::new("systemctl").args(["--root=/", "disable"]).args(&units).output();
    if !done.is_ok_and(|output| output.status.success()) {
        println!("these services are enabled now, and nothing here needs them: {units:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::{NOTHING_STARTS, Policy};
    use std::fs;

    #[test]
    fn a_policy_of_ours_goes_and_another_stays() {
        let path = std::env::temp_dir().join(format!("outrigger-policy-{}", std::process::id()));
        drop(Policy::make(&path).unwrap());
        assert!(!path.exists());
        // A run that was killed left it.
        fs::write(&path, NOTHING_STARTS).unwrap();
        drop(Policy::make(&path).unwrap());
        assert!(!path.exists());
        fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        drop(Policy::make(&path).unwrap());
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
    }
}
