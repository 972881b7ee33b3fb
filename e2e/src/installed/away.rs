//! The installation without an operator.

use super::{INSTALLING, Installed, NAMESPACE};
use anyhow::Result;
use serde_json::Value;
use std::time::Duration;

/// Its last words, and its pods' end.
const ENDS: Duration = Duration::from_secs(60);
const OPERATOR: &str = "outrigger-operator";

/// No operator runs, until this is brought back or dropped.
#[derive(Debug)]
pub struct OperatorAway {
    installed: &'static Installed,
    back: bool,
}

impl OperatorAway {
    /// Takes all its replicas away, and waits until their pods are gone.
    ///
    /// # Errors
    /// When they do not go.
    pub fn begin(installed: &'static Installed) -> Result<Self> {
        let away = Self { installed, back: false };
        away.scale("0")?;
        let label = "app.kubernetes.io/component=operator";
        installed.cluster.wait_until(NAMESPACE, "the operator to be gone", ENDS, || {
            let pods = installed.cluster.json(&["get", "pods", "-n", NAMESPACE, "-l", label])?;
            Ok(pods.pointer("/items").and_then(Value::as_array).is_some_and(Vec::is_empty))
        })?;
        Ok(away)
    }

    /// Brings it back, and waits until it is available.
    ///
    /// # Errors
    /// When it does not become so.
    pub fn back(mut self) -> Result<()> {
        self.back = true;
        self.scale("2")?;
        self.installed.cluster.wait_available(NAMESPACE, OPERATOR, INSTALLING)
    }

    fn scale(&self, replicas: &str) -> Result<()> {
        let (count, name) = (format!("--replicas={replicas}"), format!("deployment/{OPERATOR}"));
        self.installed.cluster.kubectl(&["scale", &name, "-n", NAMESPACE, &count]).map(drop)
    }
}

impl Drop for OperatorAway {
    fn drop(&mut self) {
        if !self.back {
            // The next test must find one. If it doesn't, that test says so.
            let _ = self.scale("2");
            let _ = self.installed.cluster.wait_available(NAMESPACE, OPERATOR, INSTALLING);
        }
    }
}
