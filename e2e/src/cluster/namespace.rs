//! A namespace of one test's own.

use super::Cluster;
use anyhow::Result;
use std::sync::atomic::{AtomicU32, Ordering};

/// A namespace with a name that nobody else has; deleted, with all that is in it, when dropped. A test that failed
/// leaves its namespace when `OUTRIGGER_KEEP` is set.
#[derive(Debug)]
pub struct Namespace {
    cluster: &'static Cluster,
    name: String,
}

impl Namespace {
    pub(super) fn make(cluster: &'static Cluster, prefix: &str, labels: &[(&str, &str)]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        cluster.kubectl(&["create", "namespace", &name])?;
        let namespace = Self { cluster, name };
        for (label, value) in labels {
            cluster.kubectl(&["label", "namespace", &namespace.name, &format!("{label}={value}")])?;
        }
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Applies objects in it.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn apply(&self, objects: &str) -> Result<String> {
        self.cluster.apply(&self.name, objects)
    }

    /// Runs kubectl in it.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let args: Vec<&str> = ["-n", &self.name].iter().chain(args).copied().collect();
        self.cluster.kubectl(&args)
    }

    /// Objects in it, as JSON.
    ///
    /// # Errors
    /// When kubectl fails.
    pub fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let args: Vec<&str> = ["-n", &self.name].iter().chain(args).copied().collect();
        self.cluster.json(&args)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let keep = std::thread::panicking() && std::env::var_os("OUTRIGGER_KEEP").is_some();
        if !keep {
            // Its end is Kubernetes' work; the next test has a namespace of its own.
            let _ = self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        }
    }
}
