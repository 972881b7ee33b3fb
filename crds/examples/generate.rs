//! Writes the CustomResourceDefinition: `cargo run -p outrigger-crds --example generate -- crds/yaml`.

#![allow(clippy::print_stderr, reason = "a program's way to say what went wrong")]

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: generate DIRECTORY");
        return ExitCode::from(64);
    };
    let path = directory.join("modeldeployments.outrigger.dev.yaml");
    let written = serde_yaml::to_string(&outrigger_crds::definition())
        .map_err(std::io::Error::other)
        .and_then(|text| std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&path, text)));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}: {e}", path.display());
            ExitCode::FAILURE
        }
    }
}
