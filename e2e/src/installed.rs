//! Outrigger installed into the real cluster by its chart, as a user installs it; once for all tests of a program.

use crate::cluster::Cluster;
use crate::program::root;
use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;
use std::sync::OnceLock;
use std::time::Duration;

/// The release, and the namespace that it is installed in.
pub const RELEASE: &str = "outrigger";
/// See [`RELEASE`].
pub const NAMESPACE: &str = "outrigger-system";

/// How long an installation may take until all its pods are available: images are on the nodes already.
const INSTALLING: Duration = Duration::from_secs(120);

/// The installed release.
#[derive(Debug)]
pub struct Installed {
    /// Where.
    pub cluster: &'static Cluster,
    gateway: String,
}

impl Installed {
    /// Installs or upgrades to the chart of this checkout, under the restricted Pod Security level.
    ///
    /// # Errors
    /// When there is no cluster, or the installation fails.
    pub fn get() -> Result<&'static Self> {
        static INSTALLED: OnceLock<Result<Installed, String>> = OnceLock::new();
        let installed = INSTALLED.get_or_init(|| Self::install().map_err(|error| format!("{error:#}")));
        installed.as_ref().map_err(|error| anyhow!("{error}"))
    }

    fn install() -> Result<Self> {
        let cluster = Cluster::get()?;
        // Exists already, the second time.
        let _ = cluster.kubectl(&["create", "namespace", NAMESPACE]);
        let level = "pod-security.kubernetes.io/enforce=restricted";
        cluster.kubectl(&["label", "--overwrite", "namespace", NAMESPACE, level])?;
        let chart = root().join("charts/outrigger");
        let chart = chart.to_str().context("the checkout's path is no text")?;
        cluster.helm(&["upgrade", "--install", RELEASE, chart, "-n", NAMESPACE])?;
        for part in ["outrigger-operator", "outrigger-gateway"] {
            cluster.wait_available(NAMESPACE, part, INSTALLING)?;
        }
        let path = "jsonpath={.spec.clusterIP}";
        let address =
            cluster.kubectl(&["get", "service", "outrigger-gateway", "-n", NAMESPACE, "-o", path])?;
        Ok(Self { cluster, gateway: format!("{}:80", address.trim()) })
    }

    /// The gateway, `address:port`.
    pub fn gateway(&self) -> &str {
        &self.gateway
    }

    /// A ModelDeployment, as JSON.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn deployment(&self, namespace: &str, name: &str) -> Result<Value> {
        self.cluster.json(&["get", "modeldeployment", name, "-n", namespace])
    }

    /// Waits until a condition of a ModelDeployment has this status (`True`), for the present generation.
    ///
    /// # Errors
    /// When it has not after `bound`.
    pub fn wait_condition(
        &self,
        namespace: &str,
        name: &str,
        condition: &str,
        status: &str,
        bound: Duration,
    ) -> Result<Value> {
        let what = format!("{condition} of {name} to be {status}");
        self.cluster.wait_for(namespace, &what, bound, || {
            let found = self.deployment(namespace, name)?;
            let present =
                found.pointer("/status/observedGeneration") == found.pointer("/metadata/generation");
            let holds =
                condition_of(&found, condition).is_some_and(|c| c.get("status") == Some(&status.into()));
            Ok((present && holds).then_some(found))
        })
    }

    /// Waits until the stable revision is another than `before` and no canary is under way.
    ///
    /// # Errors
    /// When it is not after `bound`.
    pub fn wait_promoted(&self, namespace: &str, name: &str, before: &str, bound: Duration) -> Result<Value> {
        self.cluster.wait_for(namespace, &format!("{name} to be promoted"), bound, || {
            let found = self.deployment(namespace, name)?;
            let stable = found.pointer("/status/stable").and_then(Value::as_str);
            let over = found.pointer("/status/canary").is_none_or(Value::is_null);
            Ok((over && stable.is_some_and(|stable| stable != before)).then_some(found))
        })
    }

    /// Waits until a revision was rolled back, and says why it was.
    ///
    /// # Errors
    /// When none was after `bound`.
    pub fn wait_rolled_back(&self, namespace: &str, name: &str, bound: Duration) -> Result<String> {
        self.cluster.wait_for(namespace, &format!("{name} to be rolled back"), bound, || {
            let found = self.deployment(namespace, name)?;
            let over = found.pointer("/status/canary").is_none_or(Value::is_null);
            let why = found.pointer("/status/failed/0/reason").and_then(Value::as_str);
            Ok(why.filter(|_| over).map(str::to_owned))
        })
    }

    /// The stable revision.
    ///
    /// # Errors
    /// When there is none.
    pub fn stable(&self, namespace: &str, name: &str) -> Result<String> {
        let found = self.deployment(namespace, name)?;
        let stable = found.pointer("/status/stable").and_then(Value::as_str);
        stable.map(str::to_owned).with_context(|| format!("{name} has no stable revision"))
    }

    /// How often containers of this name restarted, in all pods of a deployment: pod names with their counts.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn restarts(&self, namespace: &str, name: &str, container: &str) -> Result<Vec<(String, i64)>> {
        let label = format!("outrigger.dev/deployment={name}");
        let pods = self.cluster.json(&["get", "pods", "-n", namespace, "-l", &label])?;
        let list = |value: &Value, path: &str| {
            value.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default()
        };
        let mut found = Vec::new();
        for pod in list(&pods, "/items") {
            let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            let lists = ["/status/containerStatuses", "/status/initContainerStatuses"];
            let all = lists.iter().flat_map(|path| list(&pod, path));
            let mine = all.filter(|c| c.get("name").and_then(Value::as_str) == Some(container));
            let count = mine.filter_map(|c| c.get("restartCount").and_then(Value::as_i64)).sum();
            found.push((name.to_owned(), count));
        }
        Ok(found)
    }
}

/// A condition of an object.
pub fn condition_of<'a>(object: &'a Value, condition: &str) -> Option<&'a Value> {
    object
        .pointer("/status/conditions")?
        .as_array()?
        .iter()
        .find(|c| c.get("type").is_some_and(|kind| kind == condition))
}
