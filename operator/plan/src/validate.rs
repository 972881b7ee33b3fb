//! What a spec means: everything that its shape doesn't say. All mistakes at once, each with its path.

mod pod;
mod resources;

use outrigger_crds::{Engine, Model, ModelDeploymentSpec, Rollout};
use outrigger_wire::{Mistake, Percent, Period};
use std::collections::BTreeSet;

/// The longest name of a model, in bytes.
const MAX_NAME: usize = 253;
/// The most further names of a model.
const MAX_ALIASES: usize = 16;
/// The most arguments or variables of an engine.
const MAX_ARGS: usize = 256;
/// The longest argument or value of a variable, in bytes.
const MAX_ARG: usize = 8192;
/// The only placeholder: the port that the engine is to listen on.
const HTTP_PORT: &str = "httpPort";
/// The most replicas of one deployment.
const MAX_REPLICAS: u32 = 1000;
/// The most steps of a rollout.
const MAX_STEPS: usize = 20;

/// A spec in which nothing is wrong. Made by [`validate`] alone, so who has one need not check again.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked(ModelDeploymentSpec);

impl Checked {
    /// The spec.
    pub fn spec(&self) -> &ModelDeploymentSpec {
        &self.0
    }

    /// The spec, no longer held to be in order.
    pub fn into_spec(self) -> ModelDeploymentSpec {
        self.0
    }
}

/// Takes a spec that is in order, or says all that is wrong with it.
pub fn validate(spec: ModelDeploymentSpec) -> Result<Checked, Vec<Mistake>> {
    let mistakes = mistakes(&spec);
    if mistakes.is_empty() { Ok(Checked(spec)) } else { Err(mistakes) }
}

/// Everything that is wrong with a spec, each with its path from the document's root.
pub fn mistakes(spec: &ModelDeploymentSpec) -> Vec<Mistake> {
    let mut found = Found(Vec::new());
    model(&spec.model, &mut found);
    engine(&spec.engine, &mut found);
    if spec.scale.replicas > MAX_REPLICAS {
        found.add(
            "spec.scale.replicas",
            format!("{} is out of range; allowed: 0 to {MAX_REPLICAS}", spec.scale.replicas),
        );
    }
    found.0.extend(spec.serving.check("spec.serving"));
    let kind = spec.engine.kind.unwrap_or_default();
    if spec.serving.batching.is_some() && kind.batches_by_itself() {
        found.add(
            "spec.serving.batching",
            format!("not allowed for engine.kind {}, which batches by itself; leave it out", kind.as_str()),
        );
    }
    found.0.extend(spec.traffic.check("spec.traffic"));
    rollout(&spec.rollout, &mut found);
    found.0
}

/// What else is wrong with a spec where `outrigger up` is to run it on one machine.
pub fn check_local(spec: &ModelDeploymentSpec) -> Vec<Mistake> {
    let mut found = Found(Vec::new());
    if spec.engine.process.is_none() {
        let found_instead = match &spec.engine.image {
            Some(image) => format!("; engine.image ({image}) needs a cluster"),
            None => String::new(),
        };
        found.add(
            "spec.engine.process",
            format!("required to run on this machine: {{command, args, env}}{found_instead}"),
        );
    }
    found.0
}

struct Found(Vec<Mistake>);

impl Found {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Mistake::new(path, message));
    }

    fn at_most(&mut self, path: &str, what: &str, count: usize, most: usize) {
        if count > most {
            self.add(path, format!("{count} {what}; allowed: at most {most}"));
        }
    }

    fn period(&mut self, path: String, value: Period, min: Period, max: Period) {
        if value < min || value > max {
            self.add(path, format!("{value} is out of range; allowed: {min} to {max}"));
        }
    }

    fn percent(&mut self, path: &str, value: Percent, min: Percent, max: Percent) {
        if value < min || value > max {
            self.add(path, format!("{value} is out of range; allowed: {min} to {max}"));
        }
    }
}

/// The path of one entry of a map, as kubectl and the reader of documents write it.
fn key(map: &str, name: &str) -> String {
    if name.contains(['.', '[', ']']) { format!("{map}[{name}]") } else { format!("{map}.{name}") }
}

fn model(model: &Model, found: &mut Found) {
    model_name("spec.model.name", &model.name, found);
    found.at_most("spec.model.aliases", "names", model.aliases.len(), MAX_ALIASES);
    let mut seen = BTreeSet::new();
    for (i, alias) in model.aliases.iter().enumerate() {
        let path = format!("spec.model.aliases[{i}]");
        model_name(&path, alias, found);
        if *alias == model.name {
            found.add(path, format!("`{alias}` is the model's name already; leave it out"));
        } else if !seen.insert(alias) {
            found.add(path, format!("`{alias}` stands here a second time; expected: each name once"));
        }
    }
}

/// The same as [`outrigger_crds::NAME_PATTERN`] says.
fn model_name(path: &str, name: &str, found: &mut Found) {
    let inner = |c: char| c.is_ascii_alphanumeric() || "._:/@+-".contains(c);
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if name.is_empty() || name.len() > MAX_NAME {
        found.add(path, format!("a name of {} characters; allowed: 1 to {MAX_NAME}", name.len()));
    } else if !name.chars().all(inner) || !outer(name.chars().next()) || !outer(name.chars().next_back()) {
        found.add(
            path,
            format!("`{name}` is no model name; allowed: letters, digits and . _ : / @ + - between them"),
        );
    }
}

fn engine(engine: &Engine, found: &mut Found) {
    if engine.image.is_none() && engine.process.is_none() {
        found.add("spec.engine", "image is required in a cluster, process for `outrigger up`; found neither");
    }
    if let Some(image) = &engine.image {
        let wrong = image.is_empty() || image.len() > 1024 || image.chars().any(char::is_whitespace);
        if wrong {
            found.add("spec.engine.image", format!("`{image}` is no image; expected: registry/name:tag"));
        }
    }
    arguments("spec.engine.args", &engine.args, found);
    match engine.ports.as_ref().and_then(|ports| ports.http) {
        Some(0) => found.add("spec.engine.ports.http", "0 is out of range; allowed: 1 to 65535"),
        Some(port) if pod::is_sidecars(port) => {
            let message = format!("{port} is the sidecar's port in a pod; allowed: any but 9000 and 9001");
            found.add("spec.engine.ports.http", message);
        }
        _ => {}
    }
    resources::resources(engine, found);
    pod::template(engine, found);
    let Some(process) = &engine.process else { return };
    if process.command.trim().is_empty() || process.command.len() > 4096 {
        found.add("spec.engine.process.command", "empty or too long; expected: a program's path or name");
    }
    if let Some(name) = placeholders(&process.command).next() {
        found.add(
            "spec.engine.process.command",
            format!("`{{{name}}}` is never filled in here; allowed: a program's path or name"),
        );
    }
    arguments("spec.engine.process.args", &process.args, found);
    found.at_most("spec.engine.process.env", "variables", process.env.len(), MAX_ARGS);
    for (name, value) in &process.env {
        let path = format!("spec.engine.process.env.{name}");
        if name.is_empty() || name.contains(['=', '\0']) {
            found.add(path, format!("`{name}` is no variable's name; allowed: anything but `=`"));
        } else {
            text(&path, value, found);
        }
    }
}

fn arguments(path: &str, args: &[String], found: &mut Found) {
    found.at_most(path, "arguments", args.len(), MAX_ARGS);
    for (i, arg) in args.iter().enumerate().take(MAX_ARGS) {
        text(&format!("{path}[{i}]"), arg, found);
    }
}

/// What a process can be given.
fn text(path: &str, text: &str, found: &mut Found) {
    if text.len() > MAX_ARG {
        found.add(path, format!("{} bytes; allowed: at most {MAX_ARG}", text.len()));
    } else if text.contains('\0') {
        found.add(path, "it has a zero byte, which no program can be given");
    } else if let Some(name) = placeholders(text).find(|name| *name != HTTP_PORT) {
        found.add(
            path,
            format!(
                "`{{{name}}}` is no known placeholder; allowed: {{{HTTP_PORT}}} (text in braces that is no single \
                 name stays as it is: {{ {name} }})"
            ),
        );
    }
}

/// The names that stand alone in braces. `${NAME}` is a shell's and `{{NAME}}` a template's; JSON has quotes.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices('{').filter_map(|(at, _)| {
        let (before, rest) = (text.get(..at)?, text.get(at + 1..)?);
        let (name, _) = rest.split_once('}')?;
        let others = before.ends_with(['$', '{']);
        let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let single = begins && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        (single && !others).then_some(name)
    })
}

fn rollout(rollout: &Rollout, found: &mut Found) {
    let day = Period::secs(24 * 3600);
    if rollout.steps.is_empty() || rollout.steps.len() > MAX_STEPS {
        found.add("spec.rollout.steps", format!("{} steps; allowed: 1 to {MAX_STEPS}", rollout.steps.len()));
    }
    let mut before: Option<u8> = None;
    for (i, step) in rollout.steps.iter().enumerate().take(MAX_STEPS) {
        let path = |field: &str| format!("spec.rollout.steps[{i}].{field}");
        match before {
            _ if !(1..=100).contains(&step.weight) => {
                found.add(path("weight"), format!("{} is out of range; allowed: 1 to 100", step.weight));
            }
            Some(before) if step.weight <= before => found.add(
                path("weight"),
                format!(
                    "{} does not rise above the step before it ({before}); allowed: {} to 100",
                    step.weight,
                    before + 1
                ),
            ),
            _ => {}
        }
        before = before.max(Some(step.weight.min(99)));
        found.period(path("hold"), step.hold, Period::secs(0), day);
        if let Some(max_hold) = step.max_hold.filter(|max_hold| *max_hold < step.hold) {
            found.add(
                path("maxHold"),
                format!("{max_hold} is shorter than hold ({}); allowed: {} to 24h", step.hold, step.hold),
            );
        }
    }
    let analysis = &rollout.analysis;
    if !(1..=1_000_000).contains(&analysis.min_requests) {
        found.add(
            "spec.rollout.analysis.minRequests",
            format!("{} is out of range; allowed: 1 to 1000000", analysis.min_requests),
        );
    }
    // A margin of nothing can never be shown to be kept: such a canary could only fail or wait.
    let least: Percent = "0.1%".parse().unwrap_or_default();
    let at = "spec.rollout.analysis";
    found.percent(&format!("{at}.errorsMargin"), analysis.errors_margin, least, Percent::whole(50));
    found.percent(
        &format!("{at}.firstTokenMargin"),
        analysis.first_token_margin,
        Percent::whole(1),
        Percent::whole(1000),
    );
    found.period("spec.rollout.progressDeadline".into(), rollout.progress_deadline, Period::secs(1), day);
    found.period("spec.rollout.rollbackWindow".into(), rollout.rollback_window, Period::secs(0), day);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_alone_in_braces_is_a_placeholder() {
        let of = |text| placeholders(text).collect::<Vec<_>>();
        assert_eq!(of("--port={httpPort}, {nope}{x}"), ["httpPort", "nope", "x"]);
        assert_eq!(of("{http-port} {{ {_1} ü{a}"), ["http-port", "_1", "a"]);
        for text in [
            "",
            "{",
            "{}",
            "{{",
            "}{",
            "{\"a\": 1}",
            "{\"a\": {\"b\": {}}}",
            "${HOME}",
            "{{name}}",
            "{{ name }}",
            "{ print $1 }",
            "{a,b}",
            "{1..3}",
            "{a b}",
            "{ü}",
            "{nope",
        ] {
            assert_eq!(of(text), Vec::<&str>::new(), "{text}");
        }
    }

    #[test]
    fn unknown_placeholders_are_refused_wherever_they_stand() {
        let spec: ModelDeploymentSpec = serde_json::from_value(serde_json::json!({
            "model": {"name": "tiny"},
            "engine": {
                "process": {
                    "command": "serve-{httpPort}",
                    "args": ["--port={httpPort}", "--x={nope}", "{\"a\": 1}"],
                    "env": {"PORT": "{httpPort}", "OTHER": "{port}"},
                },
                "args": ["{HTTPPORT}"],
            },
        }))
        .unwrap();
        let found: Vec<_> = mistakes(&spec).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 4, "{found:#?}");
        for (place, value) in [
            ("spec.engine.args[0]", "`{HTTPPORT}`"),
            ("spec.engine.process.command", "`{httpPort}`"),
            ("spec.engine.process.args[1]", "`{nope}`"),
            ("spec.engine.process.env.OTHER", "`{port}`"),
        ] {
            let mistake = found.iter().find(|text| text.starts_with(place)).unwrap();
            assert!(mistake.contains(value) && mistake.contains("allowed: "), "{mistake}");
        }
        assert!(found[0].contains("{httpPort}"), "{}", found[0]);
    }
}
