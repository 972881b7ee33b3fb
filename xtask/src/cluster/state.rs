//! `cluster.json`: what was started, where it keeps its things, and how it is reached. It is written before what it
//! speaks of is made, so that a crash leaves nothing unknown.

use super::process::Process;
use crate::run;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Whose cluster it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Started by this command from Kubernetes' own programs.
    #[default]
    Native,
    /// Started by this command in Docker.
    #[serde(rename = "kind")]
    Docker,
    /// Named by `KUBECONFIG`; nothing of it is ours.
    External,
}

/// One node of a native cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    /// Its name in Kubernetes.
    pub(crate) name: String,
    /// Its network namespace, as `ip netns` names it.
    pub(crate) namespace: String,
    /// The bridge's end of its cable.
    pub(crate) link: String,
    /// Its address.
    pub(crate) address: String,
    /// Its pods' addresses.
    pub(crate) pods: String,
    /// containerd's socket.
    pub(crate) containerd: PathBuf,
    /// The GPUs that it is said to have.
    pub(crate) gpus: u32,
    /// What of each image was imported: its digest.
    pub(crate) images: BTreeMap<String, String>,
}

/// Everything about a cluster.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    /// Whose it is.
    pub(crate) kind: Kind,
    /// Ready, and not on its way up or down.
    pub(crate) ready: bool,
    /// The machine's start that the process ids belong to.
    pub(crate) boot: String,
    /// For kubectl and helm.
    pub(crate) kubeconfig: PathBuf,
    /// Programs by name.
    pub(crate) programs: BTreeMap<String, PathBuf>,
    /// Folder of one log file per process.
    pub(crate) logs: PathBuf,
    /// The API server's audit log, one JSON object per line.
    pub(crate) audit_log: PathBuf,
    /// The cluster's DNS server.
    pub(crate) dns: String,
    /// Its nodes.
    pub(crate) nodes: Vec<Node>,
    /// What runs, by name.
    pub(crate) processes: BTreeMap<String, Process>,
    /// Folders of the machine that were not there before, and go when the cluster goes.
    pub(crate) made: Vec<PathBuf>,
}

impl State {
    /// The state on disk, if there is one.
    pub(crate) fn load() -> Result<Option<Self>> {
        let path = file()?;
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let mut state: Self =
            serde_json::from_str(&text).with_context(|| format!("{} is not ours", path.display()))?;
        if state.boot != boot() {
            // The machine was restarted: nothing of it runs.
            state.processes.clear();
            state.ready = false;
        }
        Ok(Some(state))
    }

    /// Writes it, all or nothing.
    pub(crate) fn save(&self) -> Result<()> {
        let path = file()?;
        let draft = path.with_extension("json.new");
        fs::write(&draft, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&draft, &path).with_context(|| format!("writing {}", path.display()))
    }

    /// Whether the process of this name runs.
    pub(crate) fn runs(&self, name: &str) -> bool {
        self.processes.get(name).is_some_and(|process| process.alive())
    }

    /// The node of this name.
    pub(crate) fn node(&self, name: &str) -> Result<&Node> {
        let names = || self.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.nodes.iter().find(|node| node.name == name);
        found.with_context(|| format!("no node `{name}`; there are: {}", names()))
    }

    /// The program of this name.
    pub(crate) fn program(&self, name: &str) -> Result<&Path> {
        self.programs.get(name).map(PathBuf::as_path).with_context(|| format!("no program `{name}` is known"))
    }
}

/// Where the cluster keeps everything.
pub(crate) fn folder() -> Result<PathBuf> {
    Ok(run::cache()?.join("cluster"))
}

/// The description of the cluster.
pub(crate) fn file() -> Result<PathBuf> {
    Ok(folder()?.join("cluster.json"))
}

/// One command at a time changes the cluster; held until the file is dropped.
pub(crate) fn lock() -> Result<fs::File> {
    let path = run::cache()?.join("cluster.lock");
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    file.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}

/// A name of the machine's present start.
pub(crate) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}
