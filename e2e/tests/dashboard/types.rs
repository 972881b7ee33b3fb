//! Grafana's published types, held against the dashboard by TypeScript's compiler.

use crate::panels::source;
use outrigger_e2e::cluster::Description;
use outrigger_e2e::program::root;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the compiler needs of `e2e/dashboard`.
const FILES: [&str; 4] = ["package.json", "package-lock.json", "tsconfig.json", "types.ts"];

/// The compiler and Grafana's types, installed outside the checkout at the versions of the lock file.
fn installed() -> PathBuf {
    let from = root().join("e2e/dashboard");
    let mut hasher = DefaultHasher::new();
    for name in ["package.json", "package-lock.json"] {
        fs::read(from.join(name)).unwrap().hash(&mut hasher);
    }
    let cache = Description::file().unwrap();
    let cache = cache.parent().and_then(Path::parent).unwrap();
    let folder = cache.join(format!("grafana-types-{:016x}", hasher.finish()));
    fs::create_dir_all(cache).unwrap();
    let lock = fs::File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !folder.is_dir() {
        let making = folder.with_extension("making");
        fs::remove_dir_all(&making).ok();
        fs::create_dir_all(&making).unwrap();
        for name in ["package.json", "package-lock.json"] {
            fs::copy(from.join(name), making.join(name)).unwrap();
        }
        let args = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-timeout=60000"];
        let output = Command::new("npm").args(args).current_dir(&making).output();
        let output = output.expect("npm is needed to read Grafana's types: Debian's package is `npm`");
        assert!(output.status.success(), "npm ci: {}", String::from_utf8_lossy(&output.stderr));
        // A whole folder or none.
        fs::rename(&making, &folder).unwrap();
    }
    folder
}

/// What the compiler says of dashboards, each on a line of its own from the second line on.
fn compile(dashboards: &[String]) -> (bool, String) {
    let installed = installed();
    let folder = tempfile::tempdir().unwrap();
    for name in FILES {
        fs::copy(root().join("e2e/dashboard").join(name), folder.path().join(name)).unwrap();
    }
    std::os::unix::fs::symlink(installed.join("node_modules"), folder.path().join("node_modules")).unwrap();
    let mut program = "import type { Ours } from \"./types\";\n".to_owned();
    for (i, dashboard) in dashboards.iter().enumerate() {
        program.push_str(&format!("export const dashboard{i}: Ours = {};\n", dashboard.replace('\n', " ")));
    }
    fs::write(folder.path().join("canary.ts"), program).unwrap();
    let compiler = installed.join("node_modules/typescript/bin/tsc");
    let output = Command::new("node").arg(compiler).args(["-p", "."]).current_dir(folder.path()).output();
    let output = output.expect("node is needed to read Grafana's types: Debian's package is `nodejs`");
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn grafana_takes_it() {
    let (fine, said) = compile(&[source()]);
    assert!(fine, "{said}");
}

/// The check itself: what Grafana would not understand is found.
#[test]
fn the_compiler_finds_what_grafana_would_not_understand() {
    let wrong = [
        ("\"displayMode\": \"table\"", "\"displayMode\": \"tabel\""),
        ("\"fillOpacity\": 10", "\"fillOpactiy\": 10"),
        ("\"type\": \"state-timeline\"", "\"type\": \"state-time\""),
        ("\"schemaVersion\": 39", "\"schemaVersion\": \"39\""),
        ("\"expr\"", "\"expression\""),
    ];
    let broken = wrong.map(|(right, wrong)| {
        let source = source();
        assert!(source.contains(right), "{right}");
        source.replacen(right, wrong, 1)
    });
    let (_, said) = compile(&broken);
    for (i, (_, wrong)) in wrong.iter().enumerate() {
        assert!(said.contains(&format!("canary.ts({},", i + 2)), "{wrong} was taken: {said}");
    }
}
