//! `cluster.json`, as tests read it.

use super::named;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct Description {
    /// `native`, `kind` or `external`.
    pub kind: String,
    /// For kubectl and helm.
    pub kubeconfig: PathBuf,
    /// Programs by name.
    pub programs: BTreeMap<String, PathBuf>,
    /// Folder of one log per part; empty where the cluster isn't native.
    pub logs: PathBuf,
    /// The API server's audit log; empty where the cluster isn't native.
    pub audit_log: PathBuf,
    /// Nodes of a native cluster.
    pub nodes: Vec<Node>,
    /// Process ids of a native cluster's parts, by name.
    pub processes: BTreeMap<String, i32>,
}

/// A node of a native cluster.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name in Kubernetes.
    pub name: String,
    /// Its network namespace, as `ip netns` names it.
    pub namespace: String,
    /// Its address.
    pub address: String,
    /// containerd's socket.
    pub containerd: PathBuf,
}

impl Description {
    /// Where `cargo xtask cluster` writes it.
    ///
    /// # Errors
    /// Without a home folder.
    pub fn file() -> Result<PathBuf> {
        let cache = match std::env::var_os("OUTRIGGER_CACHE") {
            Some(path) => PathBuf::from(path),
            None => {
                std::env::home_dir().context("no home folder: set OUTRIGGER_CACHE")?.join(".cache/outrigger")
            }
        };
        Ok(cache.join("cluster/cluster.json"))
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is not there or lacks a field.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let value: Value = serde_json::from_str(&text)?;
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let map = |name: &str| value.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        let programs = map("programs").into_iter();
        let processes = map("processes").into_iter();
        let nodes = value.get("nodes").and_then(Value::as_array).cloned().unwrap_or_default();
        let kubeconfig = PathBuf::from(text("kubeconfig"));
        anyhow::ensure!(named(&kubeconfig), "{} names no kubeconfig", file.display());
        Ok(Self {
            kind: text("kind"),
            kubeconfig,
            programs: programs.filter_map(|(name, path)| Some((name, path.as_str()?.into()))).collect(),
            logs: text("logs").into(),
            audit_log: text("audit_log").into(),
            nodes: nodes.iter().map(Node::read).collect(),
            processes: processes
                .filter_map(|(name, process)| {
                    Some((name, process.get("pid").and_then(Value::as_i64)?.try_into().ok()?))
                })
                .collect(),
        })
    }

    /// Whether it is made of this machine's processes, so that a test may break them.
    pub fn native(&self) -> bool {
        self.kind == "native"
    }

    /// The node of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|node| node.name == name).with_context(|| format!("no node `{name}`"))
    }
}

impl Node {
    fn read(value: &Value) -> Self {
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            name: text("name"),
            namespace: text("namespace"),
            address: text("address"),
            containerd: text("containerd").into(),
        }
    }
}
