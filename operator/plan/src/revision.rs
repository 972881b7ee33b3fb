//! A revision's identity: a hash over what the user wrote, in a form that outlives changes of the schema.

use outrigger_crds::{Engine, Resources};
use outrigger_wire::{EngineKind, RevisionId};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The name of the canonical form. A form that is changed gets another name and with it other revisions, so forms
/// are added for new fields (absent ones leave the text as it was) and this one is never changed.
const FORM: &str = "outrigger.dev/engine/1";

/// The canonical form: fields in a fixed order, defaults of today written out, what is absent left out.
#[derive(Serialize)]
struct Canonical<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<CanonicalProcess<'a>>,
    args: &'a [String],
    http_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<&'a Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_template: Option<BTreeMap<&'a str, Sorted<'a>>>,
}

/// A value whose maps are written by rising keys, whatever their order in memory is.
struct Sorted<'a>(&'a Value);

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(map) => sorted(map).serialize(serializer),
            Value::Array(list) => serializer.collect_seq(list.iter().map(Sorted)),
            other => other.serialize(serializer),
        }
    }
}

fn sorted(map: &Map<String, Value>) -> BTreeMap<&str, Sorted<'_>> {
    map.iter().map(|(name, value)| (name.as_str(), Sorted(value))).collect()
}

#[derive(Serialize)]
struct CanonicalProcess<'a> {
    command: &'a str,
    args: &'a [String],
    env: &'a BTreeMap<String, String>,
}

/// The port on which an engine answers HTTP in its pod.
pub fn http_port(engine: &Engine) -> u16 {
    let default = match engine.kind.unwrap_or_default() {
        EngineKind::VLlm => 8000,
        EngineKind::MLServer | EngineKind::Custom => 8080,
    };
    engine.ports.as_ref().and_then(|ports| ports.http).unwrap_or(default)
}

/// The revision of this engine: ten hexadecimal digits of SHA-256 over its canonical form. A field that is left
/// out and the same field with its default are one revision.
pub fn of(engine: &Engine) -> RevisionId {
    let canonical = Canonical {
        kind: engine.kind.unwrap_or_default().as_str(),
        image: engine.image.as_deref(),
        process: engine.process.as_ref().map(|process| CanonicalProcess {
            command: &process.command,
            args: &process.args,
            env: &process.env,
        }),
        args: &engine.args,
        http_port: http_port(engine),
        resources: engine.resources.as_ref().filter(|resources| !resources.is_empty()),
        pod_template: engine
            .pod_template
            .as_ref()
            .map(|template| sorted(&template.0))
            .filter(|map| !map.is_empty()),
    };
    let mut hash = Sha256::new();
    hash.update(FORM);
    hash.update("\n");
    // Text, numbers and lists of them always have a JSON form.
    hash.update(serde_json::to_vec(&canonical).unwrap_or_default());
    let digits = hash.finalize().iter().take(5).fold(String::with_capacity(10), |mut text, byte| {
        // Writing to a String does not fail.
        let _written = write!(text, "{byte:02x}");
        text
    });
    RevisionId(digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_crds::{Ports, Process};

    fn engine() -> Engine {
        Engine {
            image: Some("example.org/engine:1".into()),
            args: vec!["--fast".into()],
            ..Engine::default()
        }
    }

    /// Revisions that stand in stored objects must be found again by every later version: these digits are for
    /// ever.
    #[test]
    fn digits_are_for_ever() {
        let process = Process {
            command: "engine-sim".into(),
            args: vec!["--port={httpPort}".into()],
            env: [("SEED".into(), "1".into())].into(),
        };
        let local = Engine { kind: Some(EngineKind::VLlm), process: Some(process), ..Engine::default() };
        assert_eq!(of(&engine()).as_str(), "ba56c2d245");
        assert_eq!(of(&local).as_str(), "739384ed4a");
        assert_eq!(of(&with_pod()).as_str(), "6eb8a62f92");
    }

    fn with_pod() -> Engine {
        let pod: Engine = serde_json::from_value(serde_json::json!({
            "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "24Gi"}, "claims": [{"name": "link"}]},
            "podTemplate": {"spec": {"nodeSelector": {"gpu": "h200", "a": "b"}, "tolerations": [{"operator": "Exists"}]}},
        }))
        .unwrap();
        Engine { resources: pod.resources, pod_template: pod.pod_template, ..engine() }
    }

    #[test]
    fn a_default_written_out_is_no_change() {
        let written =
            Engine { kind: Some(EngineKind::Custom), ports: Some(Ports { http: Some(8080) }), ..engine() };
        assert_eq!(of(&written), of(&engine()));
        assert_eq!(of(&Engine { ports: Some(Ports::default()), ..engine() }), of(&engine()));
        let nothing =
            serde_json::from_value(serde_json::json!({"resources": {"limits": {}}, "podTemplate": {}}));
        let nothing: Engine = nothing.unwrap();
        let empty = Engine { resources: nothing.resources, pod_template: nothing.pod_template, ..engine() };
        assert_eq!(of(&empty), of(&engine()));
    }

    /// A number and the same number in quotes are one amount, and an object's fields have no order.
    #[test]
    fn the_same_pod_is_no_change() {
        let text = r#"{
            "podTemplate": {"spec": {"tolerations": [{"operator": "Exists"}], "nodeSelector": {"a": "b", "gpu": "h200"}}},
            "resources": {"claims": [{"name": "link"}], "limits": {"memory": "24Gi", "nvidia.com/gpu": "1"}}
        }"#;
        let pod: Engine = serde_json::from_str(text).unwrap();
        let same = Engine { resources: pod.resources, pod_template: pod.pod_template, ..engine() };
        assert_eq!(of(&same), of(&with_pod()));
    }

    #[test]
    fn every_field_makes_a_revision() {
        let with = |process: Process| Engine { process: Some(process), ..engine() };
        let process = Process { command: "a".into(), ..Process::default() };
        let engines = [
            engine(),
            Engine { kind: Some(EngineKind::MLServer), ..engine() },
            Engine { image: Some("example.org/engine:2".into()), ..engine() },
            Engine { image: None, ..engine() },
            Engine { args: vec![], ..engine() },
            Engine { args: vec!["--fast".into(), String::new()], ..engine() },
            Engine { ports: Some(Ports { http: Some(9000) }), ..engine() },
            with(process.clone()),
            with(Process { command: "b".into(), ..process.clone() }),
            with(Process { args: vec!["--fast".into()], ..process.clone() }),
            with(Process { env: [("A".into(), "1".into())].into(), ..process.clone() }),
            with_pod(),
            Engine { resources: None, ..with_pod() },
            Engine { pod_template: None, ..with_pod() },
        ];
        let mut ids: Vec<_> = engines.iter().map(of).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), engines.len());
        assert!(ids.iter().all(|id| id.as_str().len() == 10));
    }
}
