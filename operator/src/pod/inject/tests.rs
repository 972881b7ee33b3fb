//! Pods in, pods out: each file of `tests/cases` beside what becomes of it, and whatever else may be drawn.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod drawn;

use super::{choose, inject};
use crate::names;
use crate::render::Installation;
use k8s_openapi::api::core::v1::Pod;
use outrigger_wire::EngineKind;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The installation whose sidecar is put in.
fn installation() -> Installation {
    Installation {
        namespace: "outrigger-system".to_owned(),
        table: "outrigger-operator.outrigger-system.svc:8443".to_owned(),
        sidecar_image: "outrigger/sidecar:0.1.0".to_owned(),
        pull_policy: None,
    }
}

/// What became of a pod, as it stands beside the case.
#[derive(Serialize)]
#[serde(untagged)]
enum Became {
    Refused { reason: &'static str, message: String },
    Injected { pod: Box<Pod>, warnings: Vec<String> },
}

#[test]
fn becomes_what_stands_beside_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pod/inject/tests/cases");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = files.filter(|p| p.extension().is_some_and(|e| e == "yaml")).collect();
    cases.sort();
    assert!(cases.len() >= 20);
    for case in cases {
        let name = case.file_stem().unwrap().to_str().unwrap();
        let pod: Pod = serde_yaml::from_str(&std::fs::read_to_string(&case).unwrap()).unwrap();
        let became = match inject(&pod, "team", &installation()) {
            Ok(None) => panic!("{name}: nothing was done"),
            Err(refusal) => Became::Refused { reason: refusal.reason.as_str(), message: refusal.to_string() },
            Ok(Some(injected)) => {
                let again = inject(&injected.pod, "team", &installation()).unwrap();
                assert!(again.is_none(), "{name}: it is done once");
                Became::Injected { pod: Box::new(injected.pod), warnings: injected.warnings }
            }
        };
        let mut settings = insta::Settings::clone_current();
        settings.set_omit_expression(true);
        settings.set_prepend_module_to_snapshot(false);
        settings.set_snapshot_path("tests/cases");
        settings.bind(|| insta::assert_yaml_snapshot!(name, became));
    }
}

fn labelled(labels: &[(&str, &str)]) -> Pod {
    let text = include_str!("tests/cases/triton.yaml");
    let mut pod: Pod = serde_yaml::from_str(text).unwrap();
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    pod.metadata.labels = Some(labels.collect::<BTreeMap<_, _>>());
    pod
}

#[test]
fn others_are_left_alone() {
    let asks = (names::INJECT, "true");
    for labels in [
        vec![],
        vec![(names::INJECT, "false")],
        vec![(names::INJECT, "yes")],
        vec![asks, (names::DEPLOYMENT, "chat")],
        vec![asks, (names::MANAGED_BY, names::OUTRIGGER)],
    ] {
        assert_eq!(inject(&labelled(&labels), "team", &installation()), Ok(None), "{labels:?}");
    }
    assert_eq!(inject(&labelled(&[asks]), "outrigger-system", &installation()), Ok(None));
    assert!(inject(&labelled(&[asks]), "team", &installation()).unwrap().is_some());
    assert!(
        inject(&labelled(&[asks, (names::MANAGED_BY, "Helm")]), "team", &installation()).unwrap().is_some()
    );
}

#[test]
fn kinds_are_guessed_from_the_images_name_alone() {
    for (image, kind) in [
        ("vllm/vllm-openai:latest", EngineKind::VLlm),
        ("registry:5000/x/vllm-openai-cpu:v1@sha256:00", EngineKind::VLlm),
        ("rocm/vllm", EngineKind::VLlm),
        ("seldonio/mlserver:1.6", EngineKind::MLServer),
        ("mlserver-slim", EngineKind::MLServer),
        ("nvcr.io/nvidia/tritonserver:25.09-py3", EngineKind::Custom),
        ("vllm/router", EngineKind::Custom),
        ("mlserver/other", EngineKind::Custom),
        ("", EngineKind::Custom),
    ] {
        assert_eq!(choose::guess(image), kind, "{image}");
    }
}
