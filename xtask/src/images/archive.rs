//! An image archive as `docker save` writes it: one layer, the image's configuration, a manifest. The same files make
//! the same bytes: owner, time and order are fixed.

use super::Archive;
use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// An image to be packed.
pub(crate) struct Image {
    pub(crate) name: String,
    /// Path in the image, and the file it comes from.
    pub(crate) files: BTreeMap<String, PathBuf>,
    pub(crate) entrypoint: String,
    pub(crate) user: &'static str,
}

/// The unit of a tar archive.
const BLOCK: usize = 512;

impl Image {
    /// Writes the archive, unless it stands there already, made from the same files.
    pub(crate) fn pack(&self, path: &Path) -> Result<Archive> {
        let sources = self.sources()?;
        let note = path.with_extension("made");
        let noted = fs::read_to_string(&note).unwrap_or_default();
        let digest = match noted.split_once('\n') {
            Some((digest, made)) if made == sources && path.is_file() => digest.to_owned(),
            _ => {
                // Absent while the archive is not whole.
                let _ = fs::remove_file(&note);
                let digest = self.write(path).with_context(|| format!("writing {}", path.display()))?;
                fs::write(&note, format!("{digest}\n{sources}"))?;
                digest
            }
        };
        Ok(Archive { name: self.name.clone(), path: path.to_owned(), digest })
    }

    /// What the archive is made from, by size and time.
    fn sources(&self) -> Result<String> {
        let mut text = format!("{} {} {}\n", self.name, self.entrypoint, self.user);
        for (inside, outside) in &self.files {
            let about = outside.metadata().with_context(|| format!("looking at {}", outside.display()))?;
            let time = about.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            text.push_str(&format!("{inside} {} {}\n", about.len(), time.as_nanos()));
        }
        Ok(text)
    }

    /// Returns the digest of the configuration, which covers everything: it holds the layer's own.
    fn write(&self, path: &Path) -> Result<String> {
        let folder = path.parent().context("an archive lies in a folder")?;
        fs::create_dir_all(folder)?;
        let layer = path.with_extension("layer");
        let layer_digest = {
            let mut hashing = Hashing { to: BufWriter::new(fs::File::create(&layer)?), hash: Sha256::new() };
            for (inside, outside) in &self.files {
                let file = fs::File::open(outside)?;
                let size = file.metadata()?.len();
                entry(&mut hashing, inside.trim_start_matches('/'), 0o755, size, file)?;
            }
            hashing.write_all(&[0; 2 * BLOCK])?;
            hashing.to.flush()?;
            hex(hashing.hash)
        };
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": [self.entrypoint], "User": self.user, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
            "history": [{"created_by": "cargo xtask images"}],
        });
        let config = serde_json::to_vec(&config)?;
        let digest = hex(Sha256::new_with_prefix(&config));
        let (config_name, layer_name) = (format!("{digest}.json"), format!("{layer_digest}/layer.tar"));
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": [layer_name]}]);
        let manifest = serde_json::to_vec(&manifest)?;
        let mut out = BufWriter::new(fs::File::create(path)?);
        entry(&mut out, &config_name, 0o644, config.len() as u64, config.as_slice())?;
        let file = fs::File::open(&layer)?;
        entry(&mut out, &layer_name, 0o644, file.metadata()?.len(), file)?;
        entry(&mut out, "manifest.json", 0o644, manifest.len() as u64, manifest.as_slice())?;
        out.write_all(&[0; 2 * BLOCK])?;
        out.flush()?;
        fs::remove_file(&layer)?;
        Ok(format!("sha256:{digest}"))
    }
}

/// As images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// One file of a tar archive: owned by root, of no time.
fn entry(out: &mut impl Write, name: &str, mode: u32, size: u64, mut content: impl Read) -> Result<()> {
    out.write_all(&header(name, mode, size)?)?;
    let copied = io::copy(&mut content, out)?;
    anyhow::ensure!(copied == size, "{name} changed while it was read");
    let rest = usize::try_from(size % BLOCK as u64)?;
    if rest > 0 {
        out.write_all(&vec![0; BLOCK - rest])?;
    }
    Ok(())
}

/// The `ustar` header. See `man 5 tar`.
fn header(name: &str, mode: u32, size: u64) -> Result<[u8; BLOCK]> {
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, text: &str| -> Result<()> {
        let room = header.get_mut(at..at + text.len()).context("a header's field is inside of it")?;
        room.copy_from_slice(text.as_bytes());
        Ok(())
    };
    anyhow::ensure!(name.len() <= 100, "{name} is too long for a tar header");
    let fields = [
        (0, name.to_owned()),
        (100, format!("{mode:07o}\0")),
        (108, "0000000\0".to_owned()),
        (116, "0000000\0".to_owned()),
        (124, format!("{size:011o}\0")),
        (136, "00000000000\0".to_owned()),
        // The checksum counts as spaces while it is summed.
        (148, " ".repeat(8)),
        (156, "0".to_owned()),
        (257, "ustar\0".to_owned()),
        (263, "00".to_owned()),
    ];
    for (at, text) in fields {
        put(at, &text)?;
    }
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    let room = header.get_mut(148..156).context("a header's field is inside of it")?;
    room.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes through, and sums what passes.
struct Hashing<W> {
    to: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::Image;
    use std::collections::BTreeMap;
    use std::fs;
    use std::process::Command;

    #[test]
    fn the_same_files_make_the_same_archive_that_tar_reads() {
        let folder = std::env::temp_dir().join(format!("outrigger-archive-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = folder.join("program");
        fs::write(&program, vec![7; 1000]).unwrap();
        let image = Image {
            name: "docker.io/outrigger/x:1".to_owned(),
            files: BTreeMap::from([("/program".to_owned(), program)]),
            entrypoint: "/program".to_owned(),
            user: "65532:65532",
        };
        let (one, two) = (folder.join("one.tar"), folder.join("two.tar"));
        assert_eq!(image.pack(&one).unwrap().digest, image.pack(&two).unwrap().digest);
        assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
        let listed = Command::new("tar").arg("-tf").arg(&one).output().unwrap();
        assert!(listed.status.success());
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.contains("manifest.json") && listed.contains("/layer.tar"), "{listed}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
