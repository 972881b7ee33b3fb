//! What a cluster leaves outside of its run folder: links to pods' logs, results of the network plugins, sockets of
//! shims, folders that were not there before. Others may keep things beside it, also in a folder that we made, so only
//! what is known to be ours goes, and folders go when they are empty.

use super::process;
use super::state::State;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders that containerd, the kubelet and the network plugins make, wherever they are told to keep their things.
const MAKES: [&str; 7] = [
    "/run/containerd",
    "/run/netns",
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/containers",
    "/var/log/pods",
    "/etc/cni",
];
/// What a kubelet with another root still keeps in its usual place: where device plugins would look for it.
const KUBELETS: [&str; 2] = [
    "/var/lib/kubelet/device-plugins/kubelet.sock",
    "/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint",
];
/// Where shims listen and where runc notes what runs, whatever containerd's own folders are.
const SHIMS: &str = "/run/containerd/s";
const RUNC: &str = "/run/containerd/runc/k8s.io";

/// The folders of the machine that are not there now.
pub(crate) fn absent() -> Vec<PathBuf> {
    MAKES.iter().map(PathBuf::from).filter(|path| !path.exists()).collect()
}

/// A container of ours: its identifier, and its containerd's socket.
type Container = (String, PathBuf);

/// The containers of our nodes, by the folders that containerd keeps of each and by the shims that run. To be asked
/// before anything is ended: with a container goes its folder, and a shim that is killed leaves its socket.
pub(crate) fn containers(folder: &Path) -> BTreeSet<Container> {
    let mut found = BTreeSet::new();
    for node in entries(folder).filter(|path| named(path).starts_with("node-")) {
        for kept in ["containerd", "containerd-state"] {
            let tasks = node.join(kept).join("io.containerd.runtime.v2.task/k8s.io");
            found.extend(entries(&tasks).map(|task| (named(&task), node.join("containerd.sock"))));
        }
    }
    let shims = process::all().into_iter().filter_map(|(_, line)| {
        let word = |flag: &str| line.split(flag).nth(1)?.split_whitespace().next().map(str::to_owned);
        Some((word(" -id ")?, PathBuf::from(word(" -address ")?)))
    });
    found.extend(shims.filter(|(_, address)| address.starts_with(folder)));
    found
}

/// Removes what `containers` left, what else is known by our run folder, and what of the machine's folders is empty.
pub(crate) fn remove(state: &State, folder: &Path, containers: &BTreeSet<Container>) {
    for link in entries(Path::new("/var/log/containers")) {
        if fs::read_link(&link).is_ok_and(|target| target.starts_with(folder)) {
            let _ = fs::remove_file(link);
        }
    }
    for result in entries(Path::new("/var/lib/cni/results")) {
        // It names the pod's network namespace, which lay below the run folder.
        if fs::read_to_string(&result).is_ok_and(|text| text.contains(&*folder.to_string_lossy())) {
            let _ = fs::remove_file(result);
        }
    }
    for (id, containerd) in containers {
        remove_silent(&Path::new(SHIMS).join(socket(containerd, id)));
        let noted = Path::new(RUNC).join(id);
        let _ = fs::remove_file(noted.join("state.json"));
        let _ = fs::remove_dir(noted);
    }
    for path in &state.made {
        if path.ends_with("netns") && entries(Path::new("/run/netns")).next().is_none() {
            // `ip netns` mounts the folder onto itself.
            let _ = Command::new("umount").arg(path).output();
        }
        if path.ends_with("kubelet") && !listens(Path::new(KUBELETS[0])) {
            // Nobody else's kubelet came since: theirs would listen there.
            KUBELETS.iter().for_each(|file| drop(fs::remove_file(file)));
        }
        remove_empty(path);
    }
}

/// The name of a shim's socket, as containerd forms it.
fn socket(containerd: &Path, id: &str) -> String {
    let text = format!("{}/k8s.io/{id}", containerd.display());
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether somebody listens at a socket.
fn listens(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Removes a socket that nobody listens at.
fn remove_silent(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket());
    if is_socket && !listens(path) {
        let _ = fs::remove_file(path);
    }
}

/// Removes a folder in which there is nothing but folders; what is mounted in it is not looked into.
fn remove_empty(path: &Path) {
    let device = |path: &Path| fs::symlink_metadata(path).map(|about| about.dev()).ok();
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let inner = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && device(&inner) == device(path) {
            remove_empty(&inner);
        }
    }
    let _ = fs::remove_dir(path);
}

fn entries(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn named(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::{containers, remove_empty, socket};
    use std::fs;
    use std::path::Path;

    #[test]
    fn a_shims_socket_is_named_as_containerd_names_it() {
        let name = socket(Path::new("/run/c/containerd.sock"), "abc");
        assert_eq!(name, "d499ddad8f5f66530ee071129408625af164089c2c27bc31387f59d09ead3c2f");
    }

    #[test]
    fn containers_are_known_by_the_folders_that_are_kept_of_them() {
        let folder = std::env::temp_dir().join(format!("outrigger-traces-{}", std::process::id()));
        let task = "io.containerd.runtime.v2.task/k8s.io/abc";
        fs::create_dir_all(folder.join("node-1/containerd").join(task)).unwrap();
        fs::create_dir_all(folder.join("node-2/containerd-state").join(task)).unwrap();
        fs::create_dir_all(folder.join("logs/containerd").join(task)).unwrap();
        let found = containers(&folder);
        let expected =
            ["node-1", "node-2"].map(|node| ("abc".to_owned(), folder.join(node).join("containerd.sock")));
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);

        fs::write(folder.join("logs/somebody's"), "").unwrap();
        remove_empty(&folder);
        assert!(folder.join("logs/somebody's").exists() && !folder.join("node-1").exists());
        fs::remove_file(folder.join("logs/somebody's")).unwrap();
        remove_empty(&folder);
        assert!(!folder.exists());
    }
}
