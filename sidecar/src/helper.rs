//! Puts the helper where the engine's container finds it: in a volume that both share.

use anyhow::{Context, bail};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The helper's name beside this program.
const NAME: &str = "outrigger-helper";

/// Where the helper lies that came with this program.
///
/// # Errors
///
/// When it can't be told where this program lies.
pub(crate) fn own() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("where this program lies can't be told")?;
    Ok(program.with_file_name(NAME))
}

/// Copies the helper to `to`. It is written beside and renamed: a kubelet may be running the one before at this
/// moment, which can't be written to, and none that is half there is ever seen.
///
/// # Errors
///
/// When there is no helper at `from`, or `to` can't be written.
pub(crate) fn install(from: &Path, to: &Path) -> anyhow::Result<()> {
    if !from.is_file() {
        bail!("there is no helper at {}; it has to lie beside this program", from.display());
    }
    let program = fs::read(from).with_context(|| format!("{} can't be read", from.display()))?;
    let mut beside = to.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = write(&beside, &program).and_then(|()| fs::rename(&beside, to));
    if written.is_err() {
        // What is half there is of no use, and may not even exist.
        let _ = fs::remove_file(&beside);
    }
    written.with_context(|| format!("{} can't be written", to.display()))
}

fn write(path: &Path, program: &[u8]) -> std::io::Result<()> {
    // A leftover of a predecessor that was killed here may be another user's.
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(path)?;
    file.write_all(program)?;
    // Whatever the umask says: the engine runs under another user.
    file.set_permissions(fs::Permissions::from_mode(0o755))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_helper_that_runs_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("helper");
        install(Path::new("/bin/sleep"), &to).unwrap();
        let mut running = Command::new(&to).arg("60").spawn().unwrap();
        // Writing to a program that runs is refused by the kernel (ETXTBSY).
        assert!(fs::OpenOptions::new().write(true).open(&to).is_err());
        fs::write(folder.path().join("helper.new"), "left by one that was killed").unwrap();
        install(Path::new("/bin/true"), &to).unwrap();
        assert!(Command::new(&to).status().unwrap().success());
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(running.try_wait().unwrap().is_none(), "the one before goes on");
        running.kill().unwrap();
        running.wait().unwrap();
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["helper"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = install(&folder.path().join("none"), &folder.path().join("helper")).unwrap_err();
        assert!(format!("{error:#}").contains("none; it has to lie beside this program"), "{error:#}");
        let error = install(Path::new("/bin/true"), &folder.path().join("no/helper")).unwrap_err();
        assert!(format!("{error:#}").contains("no/helper can't be written"), "{error:#}");
    }
}
