//! Into a pod from this machine: its processes, its network and its names. Only in a native cluster.

use super::{Cluster, said};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Where a container finds its names.
const NAMES: &str = "/etc/resolv.conf";
/// Shows the pod's names to a program of this machine, in a mount namespace that ends with it.
const WITH_ITS_NAMES: &str = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";

impl Cluster {
    /// The process of a running container, on this machine.
    ///
    /// # Errors
    /// When it does not run.
    pub fn container_pid(&self, namespace: &str, pod: &str, container: &str) -> Result<i32> {
        let pod = self.json(&["get", "pod", pod, "-n", namespace])?;
        let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).context("it is on no node")?;
        let lists = ["/status/initContainerStatuses", "/status/containerStatuses"];
        let all = lists.iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten();
        let mut named = all.filter(|status| status.get("name").and_then(Value::as_str) == Some(container));
        let id = named.next().and_then(|status| status.get("containerID")?.as_str());
        let id = id.and_then(|id| id.strip_prefix("containerd://")).context("the container has no id yet")?;
        let socket = self.description().node(node)?.containerd.as_os_str();
        let args =
            ["-a".as_ref(), socket].into_iter().chain(["-n", "k8s.io", "tasks", "list"].map(OsStr::new));
        let list = said(&self.command("ctr", args)?.output()?, "ctr tasks list")?;
        let line =
            list.lines().find_map(|line| line.strip_prefix(id)).context("the container does not run")?;
        Ok(line.split_whitespace().next().context("a task has a process")?.parse()?)
    }

    /// Sends a signal (`KILL`, `STOP`, `CONT`) to a running container's first process, and returns its id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, namespace: &str, pod: &str, container: &str, signal: &str) -> Result<i32> {
        let pid = self.container_pid(namespace, pod, container)?;
        let args = [format!("-{signal}"), pid.to_string()];
        said(&Command::new("kill").args(args).output()?, "kill")?;
        Ok(pid)
    }

    /// Runs a program of this machine in a pod's network, with the pod's names: images of static programs have no
    /// `curl`.
    ///
    /// # Errors
    /// When it can't be run or fails.
    pub fn from_pod(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        program: &str,
        args: &[&str],
    ) -> Result<String> {
        let process = format!("/proc/{}", self.container_pid(namespace, pod, container)?);
        // A copy: a mount of another mount namespace can't be bound here.
        let mut names = tempfile::NamedTempFile::new()?;
        names.write_all(&std::fs::read(format!("{process}/root{NAMES}"))?)?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={process}/ns/net")).args([
            "unshare",
            "--mount",
            "sh",
            "-c",
            WITH_ITS_NAMES,
        ]);
        command.arg(names.path()).arg(program).args(args).stdin(Stdio::null());
        said(&command.output().context("running nsenter")?, &format!("{program} in {pod}"))
    }
}
