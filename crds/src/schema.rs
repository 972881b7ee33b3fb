//! Parts of the schema that types alone don't say: rules in CEL, with messages that name field, value and what is
//! allowed. `outrigger-plan` checks the same again, for files that no API server has seen.

use schemars::Schema;
use serde_json::{Value, json};

/// What names a model: letters and digits of ASCII, and between them also `. _ : / @ + -`.
pub const NAME_PATTERN: &str = "^[A-Za-z0-9]([A-Za-z0-9._:/@+-]*[A-Za-z0-9])?$";

/// Adds rules: `(rule, message, expression of the message)`. The server shows the plain message where the
/// expression can't be evaluated.
fn add_rules(schema: &mut Schema, rules: &[(String, String, String)]) {
    let rules = rules.iter().map(|(rule, message, expression)| {
        json!({"rule": rule, "message": message, "messageExpression": expression})
    });
    schema.insert("x-kubernetes-validations".to_owned(), Value::Array(rules.collect()));
}

/// A duration within bounds; the field must be there or have a default.
fn period(path: &str, min: &str, max: &str) -> (String, String, String) {
    within(
        &format!("duration(self.{path})"),
        path,
        &format!("duration('{min}')"),
        &format!("duration('{max}')"),
        min,
        max,
    )
}

/// A percentage within bounds, likewise.
fn percent(path: &str, min: &str, max: &str) -> (String, String, String) {
    let number = |text: &str| format!("{:.2}", text.trim_end_matches('%').parse::<f64>().unwrap_or_default());
    within(&format!("double(self.{path}.replace('%', ''))"), path, &number(min), &number(max), min, max)
}

fn within(value: &str, path: &str, low: &str, high: &str, min: &str, max: &str) -> (String, String, String) {
    let guard = guard(path);
    (
        format!("{guard}({value} >= {low} && {value} <= {high})"),
        format!("{path} is out of range; allowed: {min} to {max}"),
        format!("'{path}: ' + self.{path} + ' is out of range; allowed: {min} to {max}'"),
    )
}

/// `!has(self.a) || !has(self.a.b) || ` for the path `a.b`: what is absent has its default, which is in order.
fn guard(path: &str) -> String {
    let mut all = String::new();
    let mut here = "self".to_owned();
    for part in path.split('.') {
        here = format!("{here}.{part}");
        all.push_str(&format!("!has({here}) || "));
    }
    all
}

fn rule(rule: &str, message: &str, expression: &str) -> (String, String, String) {
    (rule.to_owned(), message.to_owned(), expression.to_owned())
}

/// Rules over `spec`.
pub(crate) fn spec(schema: &mut Schema) {
    add_rules(
        schema,
        &[rule(
            "!has(self.engine.kind) || self.engine.kind != 'vLLM' || !has(self.serving) || !has(self.serving.batching)",
            "serving.batching is not allowed for engine.kind vLLM, which batches by itself",
            "'serving.batching is not allowed for engine.kind ' + self.engine.kind + ', which batches by itself'",
        )],
    );
}

/// Rules over `spec.model`.
pub(crate) fn model(schema: &mut Schema) {
    add_rules(
        schema,
        &[rule(
            "!has(self.aliases) || !(self.name in self.aliases)",
            "aliases must not repeat the model's name",
            "'aliases must not repeat model.name (' + self.name + ')'",
        )],
    );
}

/// Rules over `spec.engine`.
pub(crate) fn engine(schema: &mut Schema) {
    add_rules(
        schema,
        &[
            rule(
                "has(self.image) || has(self.process)",
                "engine.image is required (or engine.process, for `outrigger up`)",
                "'engine.image is required (or engine.process, for `outrigger up`)'",
            ),
            rule(
                "!has(self.ports) || !has(self.ports.http) || !(self.ports.http in [9000, 9001])",
                "ports.http is the sidecar's port in a pod; allowed: any but 9000 and 9001",
                "'ports.http: %d is the sidecar\\'s port in a pod; allowed: any but 9000 and 9001'.format([self.ports.http])",
            ),
        ],
    );
}

/// Rules over `spec.engine.resources`.
pub(crate) fn resources(schema: &mut Schema) {
    let extended = "k.contains('/') && !k.startsWith('kubernetes.io/')";
    let both = "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits)";
    let amount = |list: &str| format!("quantity(string(self.{list}[k]))");
    let (asked, most) = (amount("requests"), amount("limits"));
    let fixed = |text: &str, message: &str| rule(text, message, &format!("'{message}'"));
    let named = |list: &str| {
        fixed(
            &format!(
                "!has(self.{list}) || self.{list}.all(k, k.contains('/') || k in ['cpu', 'memory', 'ephemeral-storage'] \
                 || k.startsWith('hugepages-'))"
            ),
            &format!(
                "{list} has what is no resource of a node; allowed: cpu, memory, ephemeral-storage, hugepages-SIZE, or \
                 a device plugin\\'s, such as nvidia.com/gpu"
            ),
        )
    };
    let rules = [
        named("limits"),
        named("requests"),
        fixed(
            &format!("!has(self.limits) || self.limits.all(k, !({extended}) || {most}.isInteger())"),
            "limits: devices can\\'t be shared; allowed: whole numbers",
        ),
        fixed(
            &format!("{both} || {asked}.compareTo({most}) <= 0)"),
            "requests are more than limits; allowed: at most the limit of the same name",
        ),
        fixed(
            &format!(
                "!has(self.requests) || self.requests.all(k, !({extended}) || has(self.limits) && k in self.limits && \
                 {asked}.compareTo({most}) == 0)"
            ),
            "requests of devices differ from limits; allowed: the same, or no request",
        ),
    ];
    let plain = rules.map(|(rule, message, expression)| (rule, message.replace("\\'", "'"), expression));
    add_rules(schema, &plain);
}

/// Rules over `spec.serving`.
pub(crate) fn serving(schema: &mut Schema) {
    let mut rules = vec![
        period("batching.maxDelay", "0s", "10s"),
        period("admission.maxQueueDelay", "0s", "10m"),
        period("timeouts.connect", "1ms", "24h"),
        period("timeouts.firstByte", "1ms", "24h"),
        period("timeouts.idle", "1ms", "24h"),
        period("timeouts.total", "1ms", "24h"),
        period("health.stallAfter", "1s", "1h"),
        period("health.restartBudget.per", "1s", "24h"),
        period("maxDrain", "0s", "1h"),
    ];
    rules.push(rule(
        "!has(self.timeouts) || !has(self.timeouts.firstByte) || !has(self.timeouts.total) || duration(self.timeouts.firstByte) <= duration(self.timeouts.total)",
        "timeouts.firstByte is longer than timeouts.total; allowed: at most the total",
        "'timeouts.firstByte: ' + self.timeouts.firstByte + ' is longer than timeouts.total (' + self.timeouts.total + '); allowed: at most the total'",
    ));
    add_rules(schema, &rules);
}

/// Rules over `spec.traffic`.
pub(crate) fn traffic(schema: &mut Schema) {
    add_rules(
        schema,
        &[
            percent("circuitBreaker.failureRate", "1%", "100%"),
            period("circuitBreaker.openFor", "10ms", "10m"),
        ],
    );
}

/// Rules over `spec.rollout`.
pub(crate) fn rollout(schema: &mut Schema) {
    add_rules(
        schema,
        &[
            rule(
                "!has(self.steps) || self.steps.all(s, self.steps.filter(t, t.weight == s.weight).size() == 1) && self.steps.map(s, s.weight).isSorted()",
                "the weights of steps must rise",
                "'the weights of steps must rise; found: %s'.format([self.steps.map(s, s.weight)])",
            ),
            period("progressDeadline", "1s", "24h"),
            period("rollbackWindow", "0s", "24h"),
        ],
    );
}

/// Rules over `spec.rollout.steps[]`.
pub(crate) fn step(schema: &mut Schema) {
    add_rules(
        schema,
        &[
            period("hold", "0s", "24h"),
            period("maxHold", "0s", "24h"),
            rule(
                "!has(self.maxHold) || duration(self.maxHold) >= duration(self.hold)",
                "maxHold is shorter than hold; allowed: at least hold",
                "'maxHold: ' + self.maxHold + ' is shorter than hold (' + self.hold + '); allowed: at least hold'",
            ),
        ],
    );
}

/// Rules over `spec.rollout.analysis`.
pub(crate) fn analysis(schema: &mut Schema) {
    add_rules(schema, &[percent("errorsMargin", "0.1%", "50%"), percent("firstTokenMargin", "1%", "1000%")]);
}

/// An object of whatever fields: the analysis' sums, whose shape is `outrigger-verdict`'s.
pub(crate) fn any_object(_: &mut schemars::SchemaGenerator) -> Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A list of verdicts. How one metric's verdict is tagged can't be said in a structural schema, so it is written
/// out with the fields of all variants.
pub(crate) fn verdicts(generator: &mut schemars::SchemaGenerator) -> Schema {
    let mut item = <outrigger_verdict::MetricVerdict as schemars::JsonSchema>::json_schema(generator);
    if let Some(properties) = item.get_mut("properties").and_then(Value::as_object_mut) {
        let verdict = json!({
            "description": "What it says.",
            "type": "object",
            "required": ["is"],
            "properties": {
                "is": {
                    "description": "pass, fail, undecided, noData or providerError.",
                    "type": "string",
                    "enum": ["pass", "fail", "undecided", "noData", "providerError"],
                },
                "samples": {"description": "Undecided: canary requests so far.", "type": "integer", "format": "int64"},
                "needed": {
                    "description": "Undecided: canary requests at which it will be known.",
                    "type": "integer",
                    "format": "int64",
                },
                "eta": {"description": "Undecided: when that will be at the present rate.", "type": "string"},
            },
        });
        properties.insert("verdict".to_owned(), verdict);
    }
    schemars::json_schema!({"type": "array", "items": item})
}

/// A part of a pod template. Kubernetes has the schema of all of it; here stands what a user looks for first, and the
/// rest is kept as it is.
pub(crate) fn pod_template() -> Schema {
    let open = "x-kubernetes-preserve-unknown-fields";
    let named = |what: &str, most: u32| {
        json!({
            "description": what,
            "type": "array",
            "maxItems": most,
            "items": {
                "type": "object",
                open: true,
                "required": ["name"],
                "properties": {"name": {"description": "Its name.", "type": "string", "minLength": 1, "maxLength": 63}},
            },
        })
    };
    let texts = |what: &str| {
        json!({
            "description": what,
            "type": "object",
            "maxProperties": 256,
            "additionalProperties": {"type": "string", "maxLength": 262_144},
        })
    };
    let metadata = json!({
        "description": "Labels and annotations of the pods.",
        "type": "object",
        open: true,
        "properties": {"labels": texts("Further labels."), "annotations": texts("Annotations.")},
    });
    let spec = json!({
        "description": "As in any pod: see `kubectl explain pod.spec`.",
        "type": "object",
        open: true,
        "properties": {
            "hostNetwork": {"description": "Not allowed: the engine would be reachable past the sidecar.", "type": "boolean", "enum": [false]},
            "restartPolicy": {"description": "Always, which is the default.", "type": "string", "enum": ["Always"]},
            "terminationGracePeriodSeconds": {
                "description": "Not allowed: it is made of serving.maxDrain.",
                "type": "integer",
                "minimum": 0,
                "maximum": 86_400,
            },
            "containers": named("The engine's container is `engine`; others are added.", 16),
            "initContainers": named("Started one after another before the sidecar and the engine.", 16),
            "volumes": named("Volumes, added to those of the sidecar.", 256),
        },
    });
    let spec = protected(spec);
    schemars::json_schema!({
        "type": "object",
        open: true,
        "properties": {"metadata": metadata, "spec": spec},
    })
}

/// Rules over `spec.engine.podTemplate.spec`: what the sidecar needs is protected.
fn protected(spec: Value) -> Schema {
    let mut spec = Schema::try_from(spec).unwrap_or_default();
    let reserved = |list: &str| {
        rule(
            &format!(
                "!has(self.{list}) || !self.{list}.exists(c, c.name == 'outrigger' || c.name.startsWith('outrigger-'))"
            ),
            &format!("{list}: the name outrigger is kept for the sidecar; use another name"),
            &format!("'{list}: the name outrigger is kept for the sidecar; use another name'"),
        )
    };
    let grace =
        "terminationGracePeriodSeconds is not allowed: it is made of serving.maxDrain; set that instead";
    add_rules(
        &mut spec,
        &[
            reserved("containers"),
            reserved("initContainers"),
            reserved("volumes"),
            rule("!has(self.terminationGracePeriodSeconds)", grace, &format!("'{grace}'")),
        ],
    );
    spec
}

/// What concerns the definition as a whole: the object's name, and formats that Kubernetes doesn't know.
pub(crate) fn whole(mut definition: Value) -> Value {
    let schema = definition.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties");
    if let Some(properties) = schema.and_then(Value::as_object_mut) {
        let name = json!({
            "type": "string",
            "maxLength": crate::MAX_DEPLOYMENT_NAME,
            "pattern": crate::DEPLOYMENT_NAME_PATTERN,
        });
        properties.insert("metadata".to_owned(), json!({"type": "object", "properties": {"name": name}}));
    }
    tidy(&mut definition);
    definition
}

/// `uint32` and the like are formats of Rust; what they mean is said by the bounds. A text's lines are those of its
/// source, and `kubectl explain` breaks lines by itself.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                map.remove("format");
            }
            if let Some(Value::String(text)) = map.get_mut("description") {
                let paragraphs = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " "));
                *text = paragraphs.collect::<Vec<_>>().join("\n\n");
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}
