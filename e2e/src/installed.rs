//! Outrigger installed into the real cluster by its chart, as a user installs it; once for all tests of a program.

use crate::cluster::Cluster;
use crate::program::root;
use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

mod away;
mod lives;

pub use away::OperatorAway;
pub use lives::Lives;

/// The release, and the namespace that it is installed in.
pub const RELEASE: &str = "outrigger";
/// See [`RELEASE`].
pub const NAMESPACE: &str = "outrigger-system";

/// The chart, in the checkout.
const CHART: &str = "charts/outrigger";
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
        if !stands(cluster, &plain()?).unwrap_or(false) {
            upgrade(cluster, &[])?;
        }
        let path = "jsonpath={.spec.clusterIP}";
        let address =
            cluster.kubectl(&["get", "service", "outrigger-gateway", "-n", NAMESPACE, "-o", path])?;
        Ok(Self { cluster, gateway: format!("{}:80", address.trim()) })
    }

    /// Upgrades the release to the chart of this checkout with these arguments of helm (`--set`, …) and no other
    /// values, and waits until it is available. Without any, it is as every test finds it.
    ///
    /// # Errors
    /// When helm fails, or it does not become available.
    pub fn upgrade(&self, args: &[&str]) -> Result<()> {
        upgrade(self.cluster, args)
    }

    /// The pods of a part of the installation (`operator`, `gateway`) that are not going, as JSON.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn pods_of(&self, part: &str) -> Result<Vec<Value>> {
        let label = format!("app.kubernetes.io/component={part}");
        let found = self.cluster.json(&["get", "pods", "-n", NAMESPACE, "-l", &label])?;
        let pods = found.pointer("/items").and_then(Value::as_array).cloned().unwrap_or_default();
        let stays = |pod: &Value| pod.pointer("/metadata/deletionTimestamp").is_none();
        Ok(pods.into_iter().filter(stays).collect())
    }

    /// The pods of a deployment and their containers as they are now.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn lives(&self, namespace: &str, name: &str) -> Result<Lives> {
        Lives::of(self.cluster, namespace, &format!("outrigger.dev/deployment={name}"))
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

/// What is told of an upgrade to the chart of this checkout without any values.
fn plain() -> Result<String> {
    Ok(format!("chart {:016x}, no values", digest(&root().join(CHART))?))
}

/// Every file of the chart, as one number.
fn digest(folder: &Path) -> Result<u64> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let mut hasher = DefaultHasher::new();
    for entry in entries {
        entry.file_name().hash(&mut hasher);
        if entry.file_type()?.is_dir() {
            digest(&entry.path())?.hash(&mut hasher);
        } else {
            fs::read(entry.path())?.hash(&mut hasher);
        }
    }
    Ok(hasher.finish())
}

/// Whether the last thing that was done to the release is an upgrade that was told so, and nobody has scaled it since.
fn stands(cluster: &Cluster, told: &str) -> Result<bool> {
    let history = cluster.helm(&["history", RELEASE, "-n", NAMESPACE, "--max", "1", "-o", "json"])?;
    let history: Value = serde_json::from_str(&history)?;
    let last = |field: &str| history.pointer(&format!("/0/{field}")).and_then(Value::as_str);
    let replicas = ["get", "deployments", "-n", NAMESPACE, "-o", "jsonpath={.items[*].spec.replicas}"];
    if last("status") != Some("deployed") || last("description") != Some(told) {
        return Ok(false);
    }
    let scaled = cluster.kubectl(&replicas)? != "2 2";
    if !scaled {
        available(cluster)?;
    }
    Ok(!scaled)
}

fn upgrade(cluster: &Cluster, args: &[&str]) -> Result<()> {
    let chart = root().join(CHART);
    let chart = chart.to_str().context("the checkout's path is no text")?;
    // Values of a test that failed must not reach the next one.
    let common = ["upgrade", "--install", "--reset-values", RELEASE, chart, "-n", NAMESPACE];
    let told = plain()?;
    let args = if args.is_empty() { &["--description", &told] } else { args };
    cluster.helm(&[&common, args].concat())?;
    available(cluster)
}

fn available(cluster: &Cluster) -> Result<()> {
    for part in ["outrigger-operator", "outrigger-gateway"] {
        cluster.wait_available(NAMESPACE, part, INSTALLING)?;
    }
    Ok(())
}

/// A condition of an object.
pub fn condition_of<'a>(object: &'a Value, condition: &str) -> Option<&'a Value> {
    object
        .pointer("/status/conditions")?
        .as_array()?
        .iter()
        .find(|c| c.get("type").is_some_and(|kind| kind == condition))
}
