//! Where it is measured: namespaces of its own, a caller whom the API server treats as it treats the operator, and the
//! operator's processes.

use super::api::Server;
use crate::program::{cpu, resident};
use anyhow::{Context as _, Result, bail, ensure};
use outrigger_e2e::cluster::{Cluster, Namespace};
use outrigger_e2e::installed::{Installed, NAMESPACE};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long a namespace with thousands of objects may take to vanish.
const VANISHING: Duration = Duration::from_secs(120);

/// A service account that may do anything, until this is dropped. Not the cluster's administrator: the API server
/// neither queues nor audits that one's requests, which makes them cheaper than the operator's.
#[derive(Debug)]
pub(crate) struct Account {
    cluster: &'static Cluster,
    binding: String,
    /// As the audit log names it.
    pub(crate) user: String,
    /// What it shows.
    pub(crate) token: String,
}

impl Account {
    /// Makes it in this namespace.
    pub(crate) fn make(cluster: &'static Cluster, namespace: &Namespace) -> Result<Self> {
        let name = "bench";
        namespace.kubectl(&["create", "serviceaccount", name])?;
        let binding = format!("outrigger-bench-{}", namespace.name());
        let subject = format!("--serviceaccount={}:{name}", namespace.name());
        cluster.kubectl(&[
            "create",
            "clusterrolebinding",
            &binding,
            "--clusterrole=cluster-admin",
            &subject,
        ])?;
        let user = format!("system:serviceaccount:{}:{name}", namespace.name());
        // From here on its drop takes the binding away.
        let mut account = Self { cluster, binding, user, token: String::new() };
        let token = namespace.kubectl(&["create", "token", name, "--duration=1h"])?;
        token.trim().clone_into(&mut account.token);
        Ok(account)
    }

    /// The API server, asked as this account.
    pub(crate) fn server(&self) -> Result<Server> {
        Server::of(self.cluster, &self.token)
    }

    /// A kubeconfig with which a program is this account.
    pub(crate) fn kubeconfig(&self) -> Result<Value> {
        let text = self.cluster.kubectl(&["config", "view", "--raw", "-o", "json"])?;
        let mut config: Value = serde_json::from_str(&text)?;
        let user = config.pointer_mut("/users/0/user").context("the kubeconfig names no user")?;
        *user = json!({ "token": self.token });
        Ok(config)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let _ = self.cluster.kubectl(&["delete", "clusterrolebinding", &self.binding]);
    }
}

/// Deletes a namespace and waits until nothing of it is left, so that its end is not measured with what follows.
pub(crate) fn vanish(cluster: &Cluster, namespace: Namespace) -> Result<()> {
    let name = namespace.name().to_owned();
    drop(namespace);
    let what = format!("the namespace {name} to vanish");
    cluster.wait_until("kube-system", &what, VANISHING, || {
        Ok(cluster.kubectl(&["get", "namespace", &name, "--ignore-not-found", "-o", "name"])?.is_empty())
    })
}

/// The operator's processes: who leads, and all.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    /// The leader's.
    pub(crate) leader: u32,
    /// The others'.
    pub(crate) followers: Vec<u32>,
}

impl Operator {
    /// Of the release that is installed; of the chart of this checkout where none is.
    pub(crate) fn find(cluster: &Cluster) -> Result<Self> {
        let name = "deployment/outrigger-operator";
        if cluster.kubectl(&["get", name, "-n", NAMESPACE]).is_err() {
            Installed::get()?;
        }
        if std::env::var_os("OUTRIGGER_CLUSTER_JSON").is_none() {
            // Nobody else is at work here: with the images that were loaded last, and with nothing remembered.
            cluster.kubectl(&["rollout", "restart", name, "-n", NAMESPACE])?;
            // Until the former ones are gone, not only until enough are available.
            cluster.kubectl(&["rollout", "status", name, "-n", NAMESPACE, "--timeout=120s"])?;
        }
        cluster.wait_for(NAMESPACE, "a leader", Duration::from_secs(30), || Self::look(cluster).map(Some))
    }

    fn look(cluster: &Cluster) -> Result<Self> {
        let lease = cluster.json(&["get", "lease", "outrigger-operator", "-n", NAMESPACE])?;
        let holder = lease.pointer("/spec/holderIdentity").and_then(Value::as_str).unwrap_or_default();
        // What follows the pod's name tells two runs of one pod apart.
        let holder = holder.rsplit_once('_').map_or(holder, |(pod, _)| pod);
        let label = "app.kubernetes.io/component=operator";
        let pods = cluster.json(&["get", "pods", "-n", NAMESPACE, "-l", label])?;
        let pods = pods.pointer("/items").and_then(Value::as_array).context("no pods")?;
        let (mut leader, mut followers) = (None, Vec::new());
        for pod in pods {
            if pod.pointer("/metadata/deletionTimestamp").is_some() {
                continue;
            }
            let name = pod.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            let process = u32::try_from(cluster.container_pid(NAMESPACE, name, "operator")?)?;
            match name == holder {
                true => leader = Some(process),
                false => followers.push(process),
            }
        }
        Ok(Self { leader: leader.context("the lease's holder is no pod of the operator")?, followers })
    }

    /// The leader's memory in MiB.
    pub(crate) fn memory(&self) -> Result<f64> {
        resident(self.leader, "VmRSS")
    }

    /// The most memory that the leader ever had, in MiB.
    pub(crate) fn peak(&self) -> Result<f64> {
        resident(self.leader, "VmHWM")
    }

    /// The memory of the replica that has most of those that only follow, in MiB.
    pub(crate) fn following(&self) -> Result<f64> {
        self.followers.iter().try_fold(0.0, |most: f64, process| Ok(most.max(resident(*process, "VmRSS")?)))
    }

    /// Fails when another leads now: its figures would be two processes'.
    pub(crate) fn still(&self, cluster: &Cluster) -> Result<()> {
        let now = Self::look(cluster)?;
        ensure!(now.leader == self.leader, "another replica leads than at the start: measure again");
        Ok(())
    }
}

/// Processor time, in seconds, that the leader and the API server with its store have used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// The controller's.
    pub(crate) controller: f64,
    /// The API server's and etcd's.
    pub(crate) server: f64,
    /// Kubernetes' own controllers'.
    pub(crate) kubernetes: f64,
    /// The whole machine's, everything.
    pub(crate) machine: f64,
    at: Instant,
}

impl Work {
    /// Until now.
    pub(crate) fn now(cluster: &Cluster, controller: u32) -> Result<Self> {
        let processes = &cluster.description().processes;
        let of = |name: &str| -> Result<f64> {
            let process = processes.get(name).with_context(|| format!("no process `{name}`"))?;
            cpu(u32::try_from(*process)?)
        };
        Ok(Self {
            controller: cpu(controller)?,
            server: of("apiserver")? + of("etcd")?,
            kubernetes: of("controller-manager")?,
            machine: machine()?,
            at: Instant::now(),
        })
    }

    /// What was used since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            controller: self.controller - before.controller,
            server: self.server - before.server,
            kubernetes: self.kubernetes - before.kubernetes,
            machine: self.machine - before.machine,
            at: before.at,
        }
    }

    /// The part of the machine's processor time that went to nobody named here: other people's work.
    pub(crate) fn strange(self) -> f64 {
        (self.machine - self.controller - self.server - self.kubernetes) / self.machine
    }
}

/// Time that the machine's processors were not idle, in seconds.
fn machine() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("no cpu line")?;
    let ticks: Vec<f64> = line.split_whitespace().map_while(|ticks| ticks.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let [user, nice, system, _, _, irq, softirq, steal, ..] = ticks.as_slice() else {
        bail!("/proc/stat has too few columns: {line}")
    };
    let busy = user + nice + system + irq + softirq + steal;
    Ok(busy / rustix::param::clock_ticks_per_second() as f64)
}
