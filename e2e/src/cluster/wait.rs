//! Waiting for conditions, with a bound, and with the cluster's state in the error when one does not come.

use super::{Cluster, report};
use anyhow::{Result, bail};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How often a condition is looked at again: a look is a process and a request.
const LOOK: Duration = Duration::from_millis(200);

impl Cluster {
    /// Looks until `condition` gives a value, and returns it. A look that fails is a condition that does not hold yet.
    ///
    /// # Errors
    /// When it has not come after `bound`: with what was waited for, the last failed look, and the pods and events of
    /// `namespace`.
    pub fn wait_for<T>(
        &self,
        namespace: &str,
        what: &str,
        bound: Duration,
        mut condition: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let begin = Instant::now();
        loop {
            let failed = match condition() {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            if begin.elapsed() >= bound {
                let failed =
                    failed.map(|error| format!("the last look failed: {error:#}\n")).unwrap_or_default();
                bail!("waited {bound:?} for {what}\n{failed}{}", report::of(self, namespace));
            }
            std::thread::sleep(LOOK); // between two looks
        }
    }

    /// Looks until `condition` holds.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn wait_until(
        &self,
        namespace: &str,
        what: &str,
        bound: Duration,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        self.wait_for(namespace, what, bound, || Ok(condition()?.then_some(())))
    }

    /// Waits until all replicas of a Deployment are available.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn wait_available(&self, namespace: &str, deployment: &str, bound: Duration) -> Result<()> {
        let what = format!("all replicas of {deployment} to be available");
        self.wait_until(namespace, &what, bound, || {
            let found = self.json(&["get", "deployment", deployment, "-n", namespace])?;
            let number = |path: &str| found.pointer(path).and_then(Value::as_i64);
            let seen = number("/status/observedGeneration") == number("/metadata/generation");
            let wanted = number("/spec/replicas");
            let all = [number("/status/availableReplicas"), number("/status/updatedReplicas")];
            Ok(seen && all.iter().all(|count| count.unwrap_or(0) == wanted.unwrap_or(1)))
        })
    }

    /// Waits until a node is Ready, or is not.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub fn wait_node(&self, node: &str, ready: bool, bound: Duration) -> Result<()> {
        let what = format!("{node} to {}", if ready { "be Ready" } else { "lose Ready" });
        self.wait_until("kube-system", &what, bound, || {
            let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
            Ok((self.kubectl(&["get", "node", node, "-o", path])? == "True") == ready)
        })
    }
}
