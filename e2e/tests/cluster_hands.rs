//! Watching and steering a real canary from the command line, and who may: RBAC decides, nobody forges.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use outrigger_e2e::cluster::{Cluster, Namespace};
use outrigger_e2e::installed::Installed;
use outrigger_e2e::program::{outrigger, root};
use outrigger_e2e::simulated::{IMAGE, deployment, edit, serving};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// From a decision to its effect, on a busy machine of two cores.
const SOON: Duration = Duration::from_secs(60);

/// A canary that stays at its first step of 10 % unless somebody moves it.
fn canary(prefix: &str) -> Namespace {
    let installed = Installed::get().unwrap();
    let namespace = serving(installed, prefix, prefix).unwrap();
    let steps =
        json!({"spec": {"rollout": {"steps": [{"weight": 10, "hold": "1h"}, {"weight": 50, "hold": "1h"}]}}});
    namespace.kubectl(&["patch", "md", "chat", "--type=merge", "-p", &steps.to_string()]).unwrap();
    begin(&namespace, prefix, "v2");
    namespace
}

/// Another version, with the steps that are there.
fn begin(namespace: &Namespace, model: &str, version: &str) {
    let path = "jsonpath={.spec.rollout.steps}";
    let steps = namespace.kubectl(&["get", "md", "chat", "-o", path]).unwrap();
    edit(namespace, model, version, &[], IMAGE).unwrap();
    let patch = format!("{{\"spec\":{{\"rollout\":{{\"steps\":{steps}}}}}}}");
    namespace.kubectl(&["patch", "md", "chat", "--type=merge", "-p", &patch]).unwrap();
    at(namespace, Some(0));
}

/// Waits until the canary is at this step and takes its weight, or there is none.
fn at(namespace: &Namespace, step: Option<u64>) -> Value {
    let cluster = Installed::get().unwrap().cluster;
    let what = format!("the canary to be at step {step:?}");
    cluster
        .wait_for(namespace.name(), &what, SOON, || {
            let status = namespace.json(&["get", "md", "chat"])?["status"].clone();
            let canary = &status["canary"];
            let there = match step {
                None => canary.is_null(),
                Some(step) => canary["step"] == step && !canary["stepReached"].is_null(),
            };
            Ok(there.then_some(status))
        })
        .unwrap()
}

/// `outrigger VERB chat`, in this namespace.
fn ours(cluster: &Cluster, namespace: &Namespace, args: &[&str]) -> Output {
    let mut command = Command::new(outrigger().unwrap());
    command.args(args).args(["chat", "-n", namespace.name()]);
    command.env("KUBECONFIG", &cluster.description().kubeconfig).output().unwrap()
}

fn told(output: &Output) -> (Option<i32>, String) {
    let text = [output.stdout.clone(), output.stderr.clone()].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// proves R.21 on a real cluster.
#[test]
fn each_verb_works_on_a_real_canary() {
    let cluster = Installed::get().unwrap().cluster;
    let namespace = canary("verbs");
    let ask = |args: &[&str]| told(&ours(cluster, &namespace, args));
    let (code, text) = ask(&["status"]);
    assert!(code == Some(0) && text.contains("[10% now,") && text.contains("2 of 2 pods ready"), "{text}");
    let (code, text) = ask(&["pause"]);
    assert!(code == Some(0) && text.contains("is paused at step 1 of 2"), "{text}");
    let (code, text) = ask(&["pause"]);
    assert!(code == Some(1) && text.contains("is paused already"), "{text}");
    assert!(ask(&["status"]).1.contains("paused by hand since"));
    let (code, text) = ask(&["resume"]);
    assert!(code == Some(0) && text.contains("goes on"), "{text}");
    let (code, text) = ask(&["promote"]);
    assert!(code == Some(0) && text.contains("goes on to 50%"), "{text}");
    at(&namespace, Some(1));
    let (code, text) = ask(&["promote"]);
    assert!(code == Some(0) && text.contains("takes over"), "{text}");
    let status = at(&namespace, None);
    assert_eq!(status["failed"], json!([]), "{status}");
    let (code, text) = ask(&["watch", "--exit-when-settled", "--timeout=60s"]);
    assert!(code == Some(0) && text.contains(" available "), "{text}");
    // The same annotation again, as an older manifest would write it: it is known.
    let consumed = status["action"]["text"].as_str().unwrap().to_owned();
    begin(&namespace, "verbs", "v3");
    namespace.kubectl(&["annotate", "md", "chat", "outrigger.dev/action-"]).unwrap();
    let again = format!("outrigger.dev/action={consumed}");
    namespace.kubectl(&["annotate", "md", "chat", &again]).unwrap();
    let (code, text) = ask(&["abort"]);
    assert!(code == Some(0) && text.contains("is rolled back"), "{text}");
    let status = at(&namespace, None);
    assert_eq!(status["failed"][0]["reason"], "aborted by hand", "{status}");
    let (code, text) = ask(&["watch", "--exit-when-settled", "--timeout=60s"]);
    assert!(code == Some(3) && text.contains(" rolled back ") && text.contains("aborted by hand"), "{text}");
    let (code, text) = ask(&["promote"]);
    assert!(code == Some(1) && text.contains("no canary is under way"), "{text}");
}

/// Lets a user of this test do what these rules say, in the namespace.
fn allow(namespace: &Namespace, user: &str, role: &str) {
    let binding = format!("{user}-{}", role.rsplit('/').next().unwrap());
    let user = format!("--user={user}");
    namespace.kubectl(&["create", "rolebinding", &binding, &format!("--{role}"), &user]).unwrap();
}

/// proves R.21 on a real API server: who may change a deployment may not for that alone steer it, nor say what is so.
#[test]
fn rbac_decides_who_may_steer_and_nobody_forges_the_status() {
    let cluster = Installed::get().unwrap().cluster;
    let namespace = canary("rights");
    let user = "eve";
    let all = "--verb=get,list,create,update,patch";
    let resources = "--resource=modeldeployments.outrigger.dev,modeldeployments.outrigger.dev/status";
    namespace.kubectl(&["create", "role", "edit", all, resources]).unwrap();
    allow(&namespace, user, "role=edit");
    let who = ["--as", user];
    let ours = |verb: &str| told(&ours(cluster, &namespace, &[&[verb], &who[..]].concat()));
    let words = "you need the verb \"pause\" on modeldeployments.outrigger.dev in the namespace";
    let (code, text) = ours("pause");
    assert!(code == Some(1) && text.contains(words) && text.contains("outrigger-rollout-manager"), "{text}");
    let refused = |args: &[&str], words: &str| {
        let args = [&["-n", namespace.name()], args, &who[..]].concat();
        let (code, text) = told(&cluster.try_kubectl(&args).unwrap());
        assert!(code == Some(1) && text.contains(words), "{args:?}: {text}");
    };
    let status = at(&namespace, Some(0));
    let revision = status["canary"]["revision"].as_str().unwrap();
    let annotate = |text: &str| format!("outrigger.dev/action={text}");
    refused(&["annotate", "md", "chat", &annotate(&format!("pause@{revision}/0/x1"))], words);
    refused(&["annotate", "md", "chat", &annotate("pause")], "must have the form");
    refused(
        &[
            "patch",
            "md",
            "chat",
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status":{"stable":"0"}}"#,
        ],
        "needs the verb \"report\"",
    );
    // One that comes into being with an annotation asks for the same.
    let made = deployment("other", 0, &[], IMAGE)
        .replace("{name: chat}", "{name: other, annotations: {outrigger.dev/action: pause@a/0/1}}");
    let args = ["create", "-n", namespace.name(), "--as", user, "-f", "-"];
    let (_, text) = told(&cluster.try_feed(&args, &made).unwrap());
    assert!(text.contains(words), "{text}");
    // What else they may, they may.
    let label = ["label", "md", "chat", "team=a", "--as", user];
    namespace.kubectl(&label).unwrap();
    allow(&namespace, user, "clusterrole=outrigger-rollout-manager");
    let (code, text) = ours("pause");
    assert!(code == Some(0) && text.contains("is paused"), "{text}");
    refused(
        &[
            "patch",
            "md",
            "chat",
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status":{"stable":"0"}}"#,
        ],
        "needs the verb \"report\"",
    );
    // Whose rights end with the namespace.
    let (code, text) = told(&self::ours(cluster, &namespace, &["status", "--as", "mallory"]));
    assert!(code == Some(1) && text.contains("outrigger-view"), "{text}");
}

/// `kubectl outrigger …` is the same program under another name.
#[test]
fn kubectl_finds_it_as_a_plugin() {
    let cluster = Installed::get().unwrap().cluster;
    let namespace = serving(Installed::get().unwrap(), "plugin", "plugin").unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outrigger().unwrap(), folder.path().join("kubectl-outrigger")).unwrap();
    let kubectl = |args: &[&str]| {
        let mut command = cluster.command("kubectl", args).unwrap();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = [folder.path().to_owned()].into_iter().chain(std::env::split_paths(&path));
        told(&command.env("PATH", std::env::join_paths(all).unwrap()).output().unwrap())
    };
    let (code, text) = kubectl(&["outrigger", "status", "chat", "-n", namespace.name()]);
    assert!(code == Some(0) && text.contains("serves all callers"), "{text}");
    let (_, text) = kubectl(&["outrigger", "--help"]);
    assert!(text.contains("kubectl outrigger"), "{text}");
    let (code, text) = kubectl(&["outrigger", "status", "chat", "-n", namespace.name(), "-o", "json"]);
    let status: Value = serde_json::from_str(&text).unwrap();
    assert!(code == Some(0) && status["stable"].is_string(), "{text}");
}

/// Without a cluster, and with one that is not ours, it is said what is missing.
#[test]
fn what_is_missing_is_said_in_words() {
    let cluster = Cluster::get().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ours = |kubeconfig: &Path, args: &[&str]| {
        let mut command = Command::new(outrigger().unwrap());
        command.current_dir(root()).env("KUBECONFIG", kubeconfig).env("HOME", folder.path());
        told(&command.args(args).output().unwrap())
    };
    let (code, text) = ours(&folder.path().join("absent"), &["status", "chat"]);
    assert!(
        code == Some(1) && text.contains("no cluster is known") && text.contains("outrigger up"),
        "{text}"
    );
    let known = &cluster.description().kubeconfig;
    let (code, text) = ours(known, &["status", "chat", "--context", "elsewhere"]);
    assert!(code == Some(1) && text.contains("has no context \"elsewhere\"; it has"), "{text}");
    Installed::get().unwrap();
    let (code, text) = ours(known, &["status", "nobody", "-n", "default"]);
    assert!(code == Some(1) && text.contains("there is no ModelDeployment \"nobody\""), "{text}");
    let closed = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "closed",
        "clusters": [{"name": "closed", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "me", "user": {"token": "none"}}],
        "contexts": [{"name": "closed", "context": {"cluster": "closed", "user": "me"}}],
    });
    let file = folder.path().join("closed");
    std::fs::write(&file, closed.to_string()).unwrap();
    let (code, text) = ours(&file, &["status", "chat"]);
    assert!(code == Some(1) && text.contains("https://127.0.0.1:1") && text.contains("refused"), "{text}");
}
