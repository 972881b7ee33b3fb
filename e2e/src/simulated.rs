//! ModelDeployments of the simulated engine, small and quick, for tests on the real cluster.

use crate::caller::complete;
use crate::cluster::Namespace;
use crate::installed::Installed;
use anyhow::Result;
use std::time::Duration;

/// The engine's image, as `cargo xtask cluster load` imports it.
pub const IMAGE: &str = "outrigger/engine-sim:0.1.0";
/// The deployment's name, in its own namespace.
pub const NAME: &str = "chat";

/// From apply to a first answer, on a busy machine of two cores.
const SOON: Duration = Duration::from_secs(90);

/// A ModelDeployment named [`NAME`] of `replicas` engines with these arguments, and three steps of five seconds. It runs
/// under the restricted Pod Security level.
pub fn deployment(model: &str, replicas: u32, args: &[&str], image: &str) -> String {
    let args = serde_json::json!(args);
    format!(
        r#"
apiVersion: outrigger.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: {NAME}}}
spec:
  model: {{name: {model}}}
  engine:
    kind: vLLM
    image: {image}
    args: {args}
    resources: {{requests: {{cpu: 5m, memory: 16Mi}}}}
    podTemplate:
      spec:
        securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
  scale: {{replicas: {replicas}}}
  serving:
    timeouts: {{connect: 1s, firstByte: 3s, idle: 3s, total: 180s}}
    health: {{stallAfter: 5s}}
    maxDrain: 100s
  rollout:
    steps: [{{weight: 10, hold: 5s}}, {{weight: 25, hold: 5s}}, {{weight: 50, hold: 5s}}]
    # Everything shares two cores here: what is judged is errors and health.
    analysis: {{minRequests: 50, errorsMargin: 10%, firstTokenMargin: 1000%}}
    progressDeadline: 60s
"#
    )
}

fn args<'a>(model_flag: &'a str, version: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec![model_flag, "--iteration=15ms", "--version", version];
    args.extend(more);
    args
}

/// A namespace of its own, under the restricted level, with two replicas of version `v1` that answer through the
/// gateway.
///
/// # Errors
/// When it does not come to that.
pub fn serving(installed: &'static Installed, prefix: &str, model: &str) -> Result<Namespace> {
    serving_as(installed, prefix, model, |text| text)
}

/// The same, with its text changed by `change` before it is applied.
///
/// # Errors
/// When it does not come to that.
pub fn serving_as(
    installed: &'static Installed,
    prefix: &str,
    model: &str,
    change: impl Fn(String) -> String,
) -> Result<Namespace> {
    let namespace = installed.cluster.restricted_namespace(prefix)?;
    namespace.apply(&change(text(model, "v1", &[], IMAGE)))?;
    installed.wait_condition(namespace.name(), NAME, "Available", "True", SOON)?;
    installed.cluster.wait_until(namespace.name(), "a first answer", SOON, || {
        Ok(complete(installed.gateway(), model, 4, false)?.status == 200)
    })?;
    Ok(namespace)
}

/// Applies the same with another version, further arguments or another image: another revision.
///
/// # Errors
/// When kubectl fails.
pub fn edit(namespace: &Namespace, model: &str, version: &str, more: &[&str], image: &str) -> Result<()> {
    namespace.apply(&text(model, version, more, image)).map(drop)
}

/// What [`edit`] applies.
pub fn text(model: &str, version: &str, more: &[&str], image: &str) -> String {
    let flag = format!("--model={model}");
    deployment(model, 2, &args(&flag, version, more), image)
}

/// Replaces a part of a deployment's text.
///
/// # Panics
/// When the text has no such part: then the test would be about something else.
pub fn changed(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "`{from}` is not in {text}");
    text.replace(from, to)
}
