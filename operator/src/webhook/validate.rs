//! A ModelDeployment at its door: what it means, beyond what the schema refuses. Pure.

use super::review::{Decision, Request};
use outrigger_crds::ModelDeploymentSpec;
use outrigger_wire::Mistake;
use serde_json::Value;

/// The most mistakes that are shown: the rest is as wrong.
const MOST: usize = 20;
/// The longest name, of which those of pods and Services are made; as the definition says.
const LONGEST_NAME: usize = 52;

/// What is decided about a ModelDeployment.
///
/// What changes nothing that could be wrong is let pass: an object that was stored when the rules were others must
/// stay deletable and labelable.
pub(super) fn decide(request: Request) -> Decision {
    if !matches!(request.operation.as_str(), "CREATE" | "UPDATE") {
        return Decision::pass("allowed");
    }
    let Some(object) = request.object else {
        return Decision::unreadable("request.object: missing; expected: a ModelDeployment".to_owned());
    };
    let leaving = object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    let before = request.old_object.as_ref().and_then(|old| old.get("spec"));
    if leaving || before.is_some_and(|before| Some(before) == object.get("spec")) {
        return Decision::pass("allowed");
    }
    let spec = match read(object.get("spec").unwrap_or(&Value::Null)) {
        Ok(spec) => spec,
        Err(mistake) => return refused(vec![mistake]),
    };
    let mut mistakes = outrigger_plan::validate::mistakes(&spec);
    if request.operation == "CREATE" {
        mistakes.extend(name(object.pointer("/metadata/name").and_then(Value::as_str)));
    }
    if mistakes.is_empty() {
        Decision { warnings: warnings(&spec), ..Decision::pass("allowed") }
    } else {
        refused(mistakes)
    }
}

/// Unknown fields are left alone: a newer definition may know them.
fn read(spec: &Value) -> Result<ModelDeploymentSpec, Mistake> {
    serde_path_to_error::deserialize(spec).map_err(|error| {
        let path = match error.path().to_string().as_str() {
            "." => "spec".to_owned(),
            path => format!("spec.{path}"),
        };
        Mistake::new(path, error.into_inner().to_string())
    })
}

/// A generated name is not known yet; the server makes it of what is then too long or not.
fn name(name: Option<&str>) -> Option<Mistake> {
    let name = name.filter(|name| !name.is_empty())?;
    let allowed = "allowed: 1 to 52 small letters, digits and - between them, beginning with a letter";
    if name.len() > LONGEST_NAME {
        let message = format!("a name of {} characters; {allowed}", name.len());
        return Some(Mistake::new("metadata.name", message));
    }
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let wrong = !name.chars().all(inner)
        || !name.starts_with(|c: char| c.is_ascii_lowercase())
        || name.ends_with('-');
    wrong.then(|| {
        let message = format!("`{name}`: the Service of this name can't be made; {allowed}");
        Mistake::new("metadata.name", message)
    })
}

/// What is in order and still does nothing in a cluster.
fn warnings(spec: &ModelDeploymentSpec) -> Vec<String> {
    let mut warnings = Vec::new();
    if spec.engine.image.is_none() {
        warnings.push(
            "spec.engine.image: missing; engine.process is for `outrigger up`, in a cluster nothing starts without \
             an image"
                .to_owned(),
        );
    } else if spec.engine.process.is_some() {
        warnings.push("spec.engine.process: only for `outrigger up`; in a cluster the image runs".to_owned());
    }
    warnings
}

fn refused(mistakes: Vec<Mistake>) -> Decision {
    let more = mistakes.len().saturating_sub(MOST);
    let mut message: Vec<String> = mistakes.iter().take(MOST).map(ToString::to_string).collect();
    if more > 0 {
        message.push(format!("and {more} more"));
    }
    Decision::invalid("spec", message.join("; "))
}
