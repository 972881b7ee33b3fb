//! Faults on purpose, mended when their guards are dropped. Only in a native cluster: see [`Cluster::owned`].

use super::{Cluster, said, xtask};
use anyhow::{Context as _, Result};
use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// A part that does not run, or is frozen. Dropped, it runs again.
#[derive(Debug)]
pub struct Broken {
    part: String,
    mend: &'static str,
    mended: bool,
}

impl Broken {
    /// Lets it run again, and waits until it does its work.
    ///
    /// # Errors
    /// When it does not.
    pub fn mend(mut self) -> Result<()> {
        self.mended = true;
        xtask(&["cluster", self.mend, &self.part]).map(drop)
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        if !self.mended {
            // The next test's `up` says what is wrong, if anything.
            let _ = xtask(&["cluster", self.mend, &self.part]);
        }
    }
}

/// A node's cable, pulled out. Dropped, it is plugged in.
#[derive(Debug)]
pub struct Cable {
    node: String,
    plugged: bool,
}

impl Cable {
    /// Plugs it in.
    ///
    /// # Errors
    /// When the link can't be set up.
    pub fn plug(mut self) -> Result<()> {
        self.plugged = true;
        xtask(&["cluster", "link", &self.node, "up"]).map(drop)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        if !self.plugged {
            let _ = xtask(&["cluster", "link", &self.node, "up"]);
        }
    }
}

impl Cluster {
    /// Kills a part: `apiserver`, `etcd`, `controller-manager`, `scheduler`, `kubelet-1`, `containerd-1`, `proxy-1`.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn kill(&self, part: &str) -> Result<Broken> {
        self.break_part("kill", "start", part)
    }

    /// Asks a part to end, and waits until it has.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn stop(&self, part: &str) -> Result<Broken> {
        self.break_part("stop", "start", part)
    }

    /// Stops a part where it is: its sockets stay open and nobody answers.
    ///
    /// # Errors
    /// When there is no such part, or it does not run.
    pub fn freeze(&self, part: &str) -> Result<Broken> {
        self.break_part("freeze", "thaw", part)
    }

    fn break_part(&self, verb: &str, mend: &'static str, part: &str) -> Result<Broken> {
        xtask(&["cluster", verb, part])?;
        Ok(Broken { part: part.to_owned(), mend, mended: false })
    }

    /// Pulls a node's cable. Not node 1's, which carries the host's way to Services and the DNS server.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn unplug(&self, node: &str) -> Result<Cable> {
        xtask(&["cluster", "link", node, "down"])?;
        Ok(Cable { node: node.to_owned(), plugged: false })
    }

    /// Says how many GPUs a node has.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn set_gpus(&self, node: &str, count: u32) -> Result<()> {
        xtask(&["cluster", "gpus", node, &count.to_string()]).map(drop)
    }

    /// Runs a program of this machine in a node's network.
    ///
    /// # Errors
    /// When it can't be run or fails.
    pub fn node_exec<S: AsRef<OsStr>>(
        &self,
        node: &str,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let namespace = &self.description().node(node)?.namespace;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).arg(program).args(args).stdin(Stdio::null());
        said(&command.output().context("running nsenter")?, &format!("{program} on {node}"))
    }

    /// Gives an image of every node a second name, as if it were another version.
    ///
    /// # Errors
    /// When there is no such image: names are `outrigger/sidecar:0.1.0`.
    pub fn tag_image(&self, image: &str, tag: &str) -> Result<()> {
        let name = |name: &str| format!("docker.io/{name}");
        for node in &self.description().nodes {
            let mut command = self.command("ctr", [OsStr::new("-a"), node.containerd.as_os_str()])?;
            command.args(["-n", "k8s.io", "images", "tag", "--force", &name(image), &name(tag)]);
            said(&command.output()?, &format!("tagging {image} on {}", node.name))?;
        }
        Ok(())
    }
}
