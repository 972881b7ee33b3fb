//! Images without Docker: static programs, each a whole image, in archives that `ctr` and `docker load` read.

pub(crate) mod archive;

use crate::cluster::files::TAG;
use crate::run;
use anyhow::{Context, Result, bail};
use archive::Image;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Runs as nobody in particular, as the chart demands.
const USER: &str = "65532:65532";

/// One of our images: its name, the package, and the programs at its root; the first is its entry point.
struct Ours {
    name: &'static str,
    programs: &'static [&'static str],
}

const OURS: &[Ours] = &[
    Ours { name: "operator", programs: &["outrigger-operator"] },
    Ours { name: "gateway", programs: &["outrigger-gateway"] },
    Ours { name: "sidecar", programs: &["outrigger-sidecar", "outrigger-helper"] },
    Ours { name: "engine-sim", programs: &["outrigger-engine-sim"] },
];

/// How the programs in images are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// As they are shipped, and as the Dockerfile builds them: for use and for measuring.
    Released,
    /// In a tenth of the time: for tests, which look at what programs do and not at how fast.
    Quick,
}

impl Build {
    /// Cargo's profile; its folder has the same name.
    const fn profile(self) -> &'static str {
        match self {
            Self::Released => "release",
            Self::Quick => "image",
        }
    }

    /// Where archives go, below `target/image`: the one kind never stands in for the other.
    const fn archives(self) -> &'static str {
        match self {
            Self::Released => "archives",
            Self::Quick => "archives-for-tests",
        }
    }
}

/// An image that lies in a file.
pub(crate) struct Archive {
    /// As a cluster names it: `docker.io/outrigger/operator:0.1.0`.
    pub(crate) name: String,
    /// The file.
    pub(crate) path: PathBuf,
    /// Of its content.
    pub(crate) digest: String,
}

/// The name of one of our images in a container runtime.
pub(crate) fn name(image: &str) -> String {
    format!("docker.io/outrigger/{image}:{TAG}")
}

/// Builds the programs and packs them: all images, or those that are named.
pub(crate) fn build(named: &[&str], build: Build) -> Result<Vec<Archive>> {
    if let Some(unknown) = named.iter().find(|name| OURS.iter().all(|image| image.name != **name)) {
        let names = OURS.iter().map(|image| image.name).collect::<Vec<_>>().join(", ");
        bail!("no image `{unknown}`; there are: {names}");
    }
    let target = triple()?;
    let folder = run::root()?.join("target/image");
    let wanted = |image: &&Ours| named.is_empty() || named.contains(&image.name);
    let there: Vec<&Ours> = OURS.iter().filter(wanted).collect();
    let mut args = vec!["build", "--locked", "--profile", build.profile(), "--bins", "--target", &target];
    for program in there.iter().flat_map(|image| image.programs) {
        args.extend(["-p", program]);
    }
    let mut command = run::command("cargo", args)?;
    command.arg("--target-dir").arg(&folder).env("RUSTFLAGS", "-C target-feature=+crt-static");
    command.env("CARGO_PROFILE_RELEASE_STRIP", "true");
    run::must("build static programs", command)?;
    let programs = folder.join(&target).join(build.profile());
    there.iter().map(|image| image.pack(&programs, &folder.join(build.archives()))).collect()
}

impl Ours {
    fn pack(&self, programs: &Path, archives: &Path) -> Result<Archive> {
        let files = self.programs.iter().map(|name| (format!("/{name}"), programs.join(name)));
        let image = Image {
            name: name(self.name),
            files: files.collect::<BTreeMap<_, _>>(),
            entrypoint: self.programs.first().map(|name| format!("/{name}")).unwrap_or_default(),
            user: USER,
        };
        image.pack(&archives.join(format!("{}.tar", self.name)))
    }
}

/// The pause image: what holds a pod's network while its containers come and go.
pub(crate) fn pause() -> Result<Archive> {
    let folder = run::root()?.join("target/image/pause");
    std::fs::create_dir_all(&folder)?;
    let source = run::root()?.join("e2e/programs/pause.rs");
    let program = folder.join("pause");
    let newer =
        |a: &Path, b: &Path| Some(a.metadata().ok()?.modified().ok()? >= b.metadata().ok()?.modified().ok()?);
    if !newer(&program, &source).unwrap_or(false) {
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let flags =
            "--edition 2024 -C target-feature=+crt-static -C panic=abort -C opt-level=s -C strip=symbols";
        let mut command = run::command(&rustc, flags.split(' '))?;
        command.arg("-o").arg(&program).arg(&source);
        run::must("build the pause program", command)?;
    }
    single("pause", &program, USER, &folder.join("pause.tar"))
}

/// The image of one static program that somebody else built. The DNS server needs its port 53, so it runs as root.
pub(crate) fn coredns(program: &Path) -> Result<Archive> {
    single("coredns", program, "0:0", &program.with_extension("tar"))
}

fn single(image: &str, program: &Path, user: &'static str, path: &Path) -> Result<Archive> {
    let entrypoint = format!("/{image}");
    let files = BTreeMap::from([(entrypoint.clone(), program.to_owned())]);
    Image { name: name(image), files, entrypoint, user }.pack(path)
}

/// The compiler's own target: named, so that build scripts and macros are not built static too.
fn triple() -> Result<String> {
    let output = run::command("rustc", ["-vV"])?.output().context("running rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.lines().find_map(|line| line.strip_prefix("host: ")) {
        Some(triple) => Ok(triple.to_owned()),
        None => bail!("rustc -vV names no host"),
    }
}

/// `cargo xtask images`: builds what is shipped and says where it is.
pub(crate) fn images(named: &[&str]) -> Result<()> {
    for Archive { name, path, digest } in build(named, Build::Released)? {
        println!("{name:<40} {} {}", digest.get(..19).unwrap_or_default(), path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{OURS, USER};
    use crate::run;

    /// The same programs at the same places, built with the same profile and flags.
    #[test]
    fn the_dockerfile_has_the_same_stages() {
        let text = std::fs::read_to_string(run::root().unwrap().join("Dockerfile")).unwrap();
        for said in ["-C target-feature=+crt-static", "CARGO_PROFILE_RELEASE_STRIP=true", "--release"] {
            assert!(text.contains(said), "{said}");
        }
        let stages: Vec<&str> = text.split("\nFROM ").skip(2).map(str::trim).collect();
        let expected = OURS.iter().map(|image| {
            let programs: Vec<String> =
                image.programs.iter().map(|name| format!("/programs/{name}")).collect();
            format!(
                "scratch AS {}\nCOPY --from=build {} /\nUSER {USER}\nENTRYPOINT [\"/{}\"]",
                image.name,
                programs.join(" "),
                image.programs[0]
            )
        });
        assert_eq!(stages, expected.collect::<Vec<_>>());
    }
}
