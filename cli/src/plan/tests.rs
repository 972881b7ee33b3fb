//! What is printed for a first installation, a change and a file that is not in order.

use super::*;

const FILE: &str = "\
apiVersion: outrigger.dev/v1alpha1
kind: ModelDeployment
metadata: {name: chat}
spec:
  model: {name: tiny, aliases: [chat-default]}
  engine:
    kind: vLLM
    process: {command: engine-sim, args: [\"--port={httpPort}\"]}
  scale: {replicas: 2}
";

fn now() -> Timestamp {
    "2026-11-21T08:00:00Z".parse().unwrap()
}

fn args(directory: &Path, file: &str, world: Option<&str>, output: Output) -> PlanArgs {
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    PlanArgs {
        file: write("file.yaml", file),
        world: world.map(|world| write("world.yaml", world)),
        at: Some(now()),
        output,
    }
}

fn output(file: &str, world: Option<&str>, output: Output) -> Result<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let text = plan_files(&args(directory.path(), file, world, output), now());
    let here = format!("{}/", directory.path().display());
    text.map_err(|text| text.replace(&here, ""))
}

#[test]
fn a_first_installation_is_explained() {
    insta::assert_snapshot!("first_installation", output(FILE, None, Output::Text).unwrap());
}

/// The world in which a replica of the first revision has just got ready: all that follows is told at once.
#[test]
fn all_that_follows_before_something_is_waited_for_is_told() {
    let id = outrigger_plan::revision::of(&engine(FILE));
    let world = format!(
        "replicas: [{{id: a, revision: {id}, phase: ready, address: \"127.0.0.1:9001\", created: 2026-11-21T07:59:00Z}}]\n\
         gateways: [{{id: gateway, live: true, serial: 0, assignedStable: 0, assignedCanary: 0}}]\n"
    );
    let text = output(FILE, Some(&world), Output::Text).unwrap();
    for words in ["Starting: ", "Serving: ", "serial 0 → 2", "start 1 replica of", "1 of 2 replicas"] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(!text.contains("no gateway"), "{text}");
    let steps = "  rollout: {steps: [{weight: 5, hold: 10s, maxHold: 30s, onUndecided: abort}]}\n";
    let text = output(&format!("{FILE}{steps}"), None, Output::Text).unwrap();
    let line = "1. 5% of callers for at least 10s, on 1 replica; undecided after 30s: roll back";
    assert!(text.contains(line), "{text}");
}

#[test]
fn a_change_is_explained() {
    let world = "\
revisions:
- {id: \"\", created: 2026-11-21T07:00:00Z, engine: {kind: vLLM, process: {command: engine-sim, args: [\"--port={httpPort}\"]}}}
replicas:
- {id: a, revision: 739384ed4a, phase: ready, address: \"127.0.0.1:9001\", created: 2026-11-21T07:00:00Z}
- {id: b, revision: 739384ed4a, phase: unready, address: \"127.0.0.1:9002\", created: 2026-11-21T07:00:00Z}
status: {serial: 7, stable: 739384ed4a}
";
    let world = world.replace("739384ed4a", outrigger_plan::revision::of(&engine(FILE)).as_str());
    let changed = FILE.replace("[\"--port={httpPort}\"]", "[\"--port={httpPort}\", \"--fast\"]");
    insta::assert_snapshot!("change", output(&changed, Some(&world), Output::Text).unwrap());
}

fn engine(file: &str) -> outrigger_crds::Engine {
    document::read(file.as_bytes()).unwrap().spec.engine
}

#[test]
fn both_data_formats_hold_the_whole_plan() {
    let json: Plan = serde_json::from_str(&output(FILE, None, Output::Json).unwrap()).unwrap();
    let yaml: Plan = yaml::read(&output(FILE, None, Output::Yaml).unwrap()).unwrap().value;
    assert_eq!(json, yaml);
    assert_eq!(json.workloads.len(), 1);
}

#[test]
fn every_mistake_is_named_with_its_file_and_line() {
    let wrong = FILE.replace("replicas: 2", "replicas: 2000").replace("[chat-default]", "[tiny]");
    insta::assert_snapshot!("mistakes", output(&wrong, None, Output::Text).unwrap_err());
    insta::assert_snapshot!(
        "mistakes_of_world",
        output(FILE, Some("replica: []\ngateways: {}\n"), Output::Text).unwrap_err()
    );
    let directory = tempfile::tempdir().unwrap();
    let absent = PlanArgs {
        file: directory.path().join("absent"),
        ..args(directory.path(), FILE, None, Output::Text)
    };
    assert!(plan_files(&absent, now()).unwrap_err().contains("No such file"));
}
