//! JSON schemas of several Kubernetes versions, by which the tests check what the chart renders.
//!
//! Each is made from the description of the API in Kubernetes' own Go module, and kept as kubeconform reads it:
//! `~/.cache/outrigger/kubernetes-schemas-RECIPE/vVERSION/KIND-GROUP-VERSION.json`.

use crate::programs;
use crate::run::{self, Finished};
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// To be raised when this file makes other schemas than before; `e2e/tests/chart` names the folder too.
const RECIPE: u32 = 1;

/// The oldest that the chart allows, one between, and that of the cluster, each with its module's checksum.
const VERSIONS: [(&str, &str); 3] = [
    ("v1.33.6", "h1:NOIZqkx8M4XfdyRKllzLSBiMgSilPzSvCembfzOMk6A="),
    ("v1.35.0", "h1:PUOojD8c8E3csMP5NX+nLLne6SGqZjrYCscptyBfWMY="),
    ("v1.36.3", "h1:qDQdoMiluAE2Eab6Fa52YV+WjiGz9mZFFoagEA6cI+o="),
];

/// Makes the schemas that are missing, as a step beside others.
pub(crate) fn set_up() -> Result<Finished> {
    let started = Instant::now();
    let result = schemas();
    let output = result.as_ref().err().map(|error| format!("{error:#}\n")).unwrap_or_default();
    let took = if started.elapsed() < Duration::from_millis(50) { Duration::ZERO } else { started.elapsed() };
    Ok(Finished { succeeded: result.is_ok(), output, took })
}

fn schemas() -> Result<()> {
    let folder = run::cache()?.join(format!("kubernetes-schemas-{RECIPE}"));
    fs::create_dir_all(&folder)?;
    let lock = fs::File::create(folder.with_extension("lock"))?;
    lock.lock()?;
    for (version, sum) in VERSIONS {
        let target = folder.join(version);
        if target.is_dir() {
            continue;
        }
        let module = folder.join("module");
        let described = fetch(version, sum, &module)?;
        let making = folder.join("making");
        fs::remove_dir_all(&making).ok();
        fs::create_dir_all(&making)?;
        write(described, &making).with_context(|| format!("the schemas of Kubernetes {version}"))?;
        // A whole folder or none.
        fs::rename(&making, &target)?;
        fs::remove_dir_all(&module)?;
    }
    Ok(())
}

/// The API's description, from a module cache of its own that is thrown away: it is 150 MB for one file.
fn fetch(version: &str, sum: &str, module: &Path) -> Result<Value> {
    let go = programs::go()?.to_string_lossy().into_owned();
    let mut asked = run::command(&go, ["env", "GOPROXY", "GOMODCACHE"])?;
    let asked = asked.output().context("go env")?;
    let asked = String::from_utf8_lossy(&asked.stdout).into_owned();
    let mut lines = asked.lines();
    let (proxy, cache) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let wanted = format!("k8s.io/kubernetes@{version}");
    let mut download = run::command(&go, ["mod", "download", "-json", &wanted])?;
    download.env("GOMODCACHE", module).env("GOFLAGS", "-modcacherw").env("GOWORK", "off");
    // What building the cluster's programs has fetched is not fetched again.
    download.env("GOPROXY", format!("file://{cache}/cache/download,{proxy}"));
    // Outside any module, or the go command looks for one.
    download.current_dir(module.parent().context("the cache is a folder")?);
    let output = download.output().context("go mod download")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("go mod download {wanted}: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    let told: Value = serde_json::from_str(&text).context("what go mod download prints")?;
    if told.get("Sum").and_then(Value::as_str) != Some(sum) {
        bail!("{wanted} has another checksum than {sum}");
    }
    let path = told.get("Dir").and_then(Value::as_str).context("go mod download names no folder")?;
    let path = Path::new(path).join("api/openapi-spec/swagger.json");
    let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// One file for each kind, with everything that it refers to.
fn write(mut described: Value, folder: &Path) -> Result<()> {
    let definitions = described.get_mut("definitions").and_then(Value::as_object_mut);
    let definitions = definitions.context("there are no definitions")?;
    for (name, definition) in definitions.iter_mut() {
        tighten(name, definition);
    }
    let mut written = 0;
    for (name, definition) in &*definitions {
        let kinds = definition.get("x-kubernetes-group-version-kind").and_then(Value::as_array);
        // More than one: options and the like, which are no objects.
        let Some([kind]) = kinds.map(Vec::as_slice) else { continue };
        let word = |key| kind.get(key).and_then(Value::as_str).unwrap_or_default();
        let group = word("group").split('.').next().unwrap_or_default();
        let parts: Vec<&str> =
            [word("kind"), group, word("version")].into_iter().filter(|part| !part.is_empty()).collect();
        let mut needed = BTreeSet::new();
        reach(name, definitions, &mut needed);
        let part: Map<String, Value> = needed
            .into_iter()
            .filter_map(|name| Some((name.clone(), definitions.get(&name)?.clone())))
            .collect();
        let schema = json!({"$ref": format!("#/definitions/{name}"), "definitions": part});
        fs::write(folder.join(format!("{}.json", parts.join("-").to_lowercase())), schema.to_string())?;
        written += 1;
    }
    if written < 50 {
        bail!("only {written} kinds were found");
    }
    Ok(())
}

/// Refuses unknown fields, and says in JSON Schema's words what OpenAPI's formats mean.
fn tighten(name: &str, definition: &mut Value) {
    let Some(definition) = definition.as_object_mut() else { return };
    definition.remove("description");
    if name.ends_with(".IntOrString") {
        definition.insert("type".to_owned(), json!(["integer", "string"]));
    }
    if name.ends_with(".Quantity") {
        definition.insert("type".to_owned(), json!(["number", "string"]));
    }
    definition.remove("format");
    if let Some(properties) = definition.get_mut("properties").and_then(Value::as_object_mut) {
        for property in properties.values_mut().filter_map(Value::as_object_mut) {
            property.remove("description");
            property.remove("format");
        }
        definition.entry("additionalProperties").or_insert(Value::Bool(false));
    }
}

/// All definitions that `name` refers to, and itself.
fn reach(name: &str, definitions: &Map<String, Value>, found: &mut BTreeSet<String>) {
    if !found.insert(name.to_owned()) {
        return;
    }
    if let Some(definition) = definitions.get(name) {
        references(definition, &mut |other| reach(other, definitions, found));
    }
}

fn references(value: &Value, each: &mut impl FnMut(&str)) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                match inner.as_str().and_then(|text| text.strip_prefix("#/definitions/")) {
                    Some(name) if key == "$ref" => each(name),
                    _ => references(inner, each),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|inner| references(inner, each)),
        _ => {}
    }
}
