//! A real Prometheus that scrapes a cluster's pods as the chart's PodMonitors say. Debian's is built without the
//! discovery of pods: a thread writes a file of what that discovery would find.

use anyhow::{Context as _, Result};
use outrigger_e2e::caller::get;
use outrigger_e2e::cluster::Cluster;
use outrigger_e2e::program::root;
use serde::Deserialize as _;
use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// What there is to scrape, in the folder that Prometheus runs in.
const TARGETS: &str = "targets.json";
/// How often it scrapes: a test's canary lasts half a minute.
pub(crate) const INTERVAL: &str = "1s";
/// What Grafana makes of `$__rate_interval`: four scrapes, and some more where everything shares two cores.
pub(crate) const RATE: &str = "10s";

/// A Prometheus under way. Dropped, it is killed, and its data are gone.
#[derive(Debug)]
pub(crate) struct Prometheus {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
    began: SystemTime,
    stop: Arc<AtomicBool>,
}

impl Prometheus {
    /// Starts it on a free loopback port, for the pods that the chart's PodMonitors select.
    pub(crate) fn start(cluster: &'static Cluster) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let jobs = monitors(cluster)?.iter().map(job).collect::<Vec<_>>();
        let config = json!({"global": {"scrape_interval": INTERVAL}, "scrape_configs": jobs});
        fs::write(folder.path().join("prometheus.yaml"), config.to_string())?;
        // Free now, and taken in a moment.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let log = fs::File::create(folder.path().join("log"))?;
        let mut command = cluster.command("prometheus", ["--config.file=prometheus.yaml"])?;
        command
            .args(["--storage.tsdb.path=data", "--log.level=warn"])
            .arg(format!("--web.listen-address={address}"));
        command.current_dir(folder.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let stop = Arc::new(AtomicBool::new(false));
        let (file, stopped) = (folder.path().join(TARGETS), Arc::clone(&stop));
        discover(cluster, &file)?;
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // A look that fails leaves what the last one found.
                let _ = discover(cluster, &file);
                std::thread::sleep(Duration::from_secs(1)); // between two looks
            }
        });
        let this = Self { child: command.spawn()?, address, folder, began: SystemTime::now(), stop };
        let until = Instant::now() + Duration::from_secs(30);
        while get(&this.address, "/-/ready").ok().is_none_or(|answer| answer.status != 200) {
            let log = fs::read_to_string(this.folder.path().join("log"))?;
            anyhow::ensure!(Instant::now() < until, "Prometheus is not ready: {log}");
            std::thread::sleep(Duration::from_millis(100)); // between two looks
        }
        Ok(this)
    }

    /// Every series that an expression gave since the start: its labels, and its values that are numbers.
    pub(crate) fn since_the_start(&self, expression: &str) -> Result<Vec<(Value, Vec<f64>)>> {
        let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).map(|age| age.as_secs_f64());
        let (from, to) = (seconds(self.began)?, seconds(SystemTime::now())?);
        let query = escape(expression);
        let path = format!("/api/v1/query_range?query={query}&start={from}&end={to}&step=1");
        let answer = get(&self.address, &path)?;
        let answer = unchunked(&answer.body);
        let value: Value = serde_json::from_str(&answer).with_context(|| answer.clone())?;
        anyhow::ensure!(value["status"] == "success", "{expression}: {answer}");
        let series = value["data"]["result"].as_array().context("no result")?.iter();
        let numbers = |one: &Value| -> Vec<f64> {
            let values = one["values"].as_array().into_iter().flatten();
            let parsed = values.filter_map(|pair| pair[1].as_str()?.parse::<f64>().ok());
            parsed.filter(|number| number.is_finite()).collect()
        };
        Ok(series.map(|one| (one["metric"].clone(), numbers(one))).collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The PodMonitors that the chart renders.
fn monitors(cluster: &Cluster) -> Result<Vec<Value>> {
    let chart = root().join("charts/outrigger");
    let chart = chart.to_str().context("the checkout's path is no text")?;
    let more = ["--set=monitoring.podMonitor.enabled=true", "--show-only=templates/monitoring/scraping.yaml"];
    let args = ["template", "outrigger", chart, "-n", outrigger_e2e::installed::NAMESPACE];
    let text = cluster.helm(&[args.as_slice(), more.as_slice()].concat())?;
    let all = serde_yaml::Deserializer::from_str(&text).map(Value::deserialize);
    let all: Vec<Value> = all.collect::<Result<_, _>>()?;
    anyhow::ensure!(all.len() == 2, "{} PodMonitors", all.len());
    Ok(all)
}

/// What the Prometheus operator makes of a PodMonitor.
fn job(monitor: &Value) -> Value {
    let mut rules = Vec::new();
    let selector = &monitor["spec"]["selector"];
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        rules.push(json!({"action": "keep", "source_labels": [label(key)], "regex": value}));
    }
    for rule in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = label(rule["key"].as_str().unwrap());
        let words: Vec<&str> =
            rule["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let regex = if rule["operator"] == "Exists" { ".+".to_owned() } else { words.join("|") };
        rules.push(json!({"action": "keep", "source_labels": [key], "regex": regex}));
    }
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    let port = "__meta_kubernetes_pod_container_port_name";
    rules.push(json!({"action": "keep", "source_labels": [port], "regex": endpoint["port"]}));
    for (from, to) in [("namespace", "namespace"), ("pod_name", "pod"), ("pod_container_name", "container")] {
        rules.push(json!({"source_labels": [format!("__meta_kubernetes_{from}")], "target_label": to}));
    }
    for rule in endpoint["relabelings"].as_array().into_iter().flatten() {
        rules.push(json!({"source_labels": rule["sourceLabels"], "target_label": rule["targetLabel"]}));
    }
    for name in monitor["spec"]["namespaceSelector"]["matchNames"].as_array().into_iter().flatten() {
        rules
            .push(json!({"action": "keep", "source_labels": ["__meta_kubernetes_namespace"], "regex": name}));
    }
    json!({
        "job_name": monitor["metadata"]["name"],
        "metrics_path": endpoint["path"],
        "honor_labels": endpoint["honorLabels"].as_bool().unwrap_or(false),
        "file_sd_configs": [{"files": [TARGETS]}],
        "relabel_configs": rules,
    })
}

/// The label that discovery makes of a pod's.
fn label(key: &str) -> String {
    let key: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("__meta_kubernetes_pod_label_{key}")
}

/// Writes what Prometheus' discovery of pods would find: each port of each pod with an address.
fn discover(cluster: &Cluster, file: &Path) -> Result<()> {
    let pods = cluster.json(&["get", "pods", "--all-namespaces"])?;
    let mut targets = Vec::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        let Some(address) = pod["status"]["podIP"].as_str().filter(|_| pod["status"]["phase"] == "Running")
        else {
            continue;
        };
        let mut labels = serde_json::Map::new();
        labels.insert("__meta_kubernetes_namespace".to_owned(), pod["metadata"]["namespace"].clone());
        labels.insert("__meta_kubernetes_pod_name".to_owned(), pod["metadata"]["name"].clone());
        for (key, value) in pod["metadata"]["labels"].as_object().into_iter().flatten() {
            labels.insert(label(key), value.clone());
        }
        let lists = ["containers", "initContainers"];
        for container in lists.iter().filter_map(|list| pod["spec"][list].as_array()).flatten() {
            for port in container["ports"].as_array().into_iter().flatten() {
                let mut labels = labels.clone();
                labels.insert("__meta_kubernetes_pod_container_name".to_owned(), container["name"].clone());
                labels.insert("__meta_kubernetes_pod_container_port_name".to_owned(), port["name"].clone());
                let target = format!("{address}:{}", port["containerPort"]);
                labels.retain(|_, value| value.is_string());
                targets.push(json!({"targets": [target], "labels": labels}));
            }
        }
    }
    let new: PathBuf = file.with_extension("new");
    fs::write(&new, Value::from(targets).to_string())?;
    Ok(fs::rename(&new, file)?)
}

/// For a URL.
fn escape(text: &str) -> String {
    let each = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    each.collect()
}

/// A body that came in chunks, or at once.
fn unchunked(body: &str) -> String {
    let mut rest = body;
    let mut whole = String::new();
    while let Some((length, after)) = rest.split_once("\r\n") {
        let Ok(length) = usize::from_str_radix(length.trim(), 16) else { return body.to_owned() };
        let Some((chunk, next)) = after.split_at_checked(length) else { return body.to_owned() };
        whole.push_str(chunk);
        rest = next.strip_prefix("\r\n").unwrap_or(next);
    }
    if whole.is_empty() { body.to_owned() } else { whole }
}

/// The configuration itself, read by Prometheus' own tool.
#[test]
fn prometheus_reads_what_the_monitors_mean() {
    let cluster = Cluster::get().unwrap();
    let jobs: Vec<Value> = monitors(cluster).unwrap().iter().map(job).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yaml");
    fs::write(&file, json!({"scrape_configs": jobs}).to_string()).unwrap();
    let output = Command::new("promtool").args(["check", "config"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
