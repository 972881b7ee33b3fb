//! Which pods there are, and which lives of their containers: two looks that are equal had no reload between them.

use crate::cluster::Cluster;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Life {
    /// A pod that is made anew may have the name of the one before it; never its uid.
    uid: String,
    revision: String,
    restarts: BTreeMap<String, i64>,
}

/// Pods as they were at one moment, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lives(BTreeMap<String, Life>);

impl Lives {
    /// The pods that a label selector names, and which are not going.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn of(cluster: &Cluster, namespace: &str, selector: &str) -> Result<Self> {
        let found = cluster.json(&["get", "pods", "-n", namespace, "-l", selector])?;
        let pods = found.pointer("/items").and_then(Value::as_array).context("a list has items")?;
        let stays = |pod: &&Value| pod.pointer("/metadata/deletionTimestamp").is_none();
        Ok(Self(pods.iter().filter(stays).map(life).collect()))
    }

    /// Their names.
    pub fn pods(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Their uids.
    pub fn uids(&self) -> BTreeSet<&str> {
        self.0.values().map(|life| life.uid.as_str()).collect()
    }

    /// The uids of one revision's.
    pub fn uids_of(&self, revision: &str) -> BTreeSet<&str> {
        self.0.values().filter(|life| life.revision == revision).map(|life| life.uid.as_str()).collect()
    }

    /// How often this container of this pod has restarted.
    ///
    /// # Errors
    /// When there is no such pod any more, or it has told nothing of such a container: that is not the same as never.
    pub fn restarts(&self, pod: &str, container: &str) -> Result<i64> {
        let life = self.0.get(pod).with_context(|| format!("pod {pod} is gone: {self:?}"))?;
        let count = life.restarts.get(container).copied();
        count.with_context(|| format!("nothing is known of container {container} of {pod}: {life:?}"))
    }

    /// How often containers of this name have restarted, in all of the pods.
    pub fn all_restarts(&self, container: &str) -> i64 {
        self.0.values().filter_map(|life| life.restarts.get(container)).sum()
    }
}

fn life(pod: &Value) -> (String, Life) {
    let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
    let statuses = lists.iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten();
    let restarts = statuses.filter_map(|status| {
        let name = status.get("name")?.as_str()?.to_owned();
        Some((name, status.get("restartCount")?.as_i64()?))
    });
    let revision = text("/metadata/labels/outrigger.dev~1revision");
    (text("/metadata/name"), Life { uid: text("/metadata/uid"), revision, restarts: restarts.collect() })
}
