//! What nodes have and what pods take of it.

use super::types::{Amounts, Foreign, Node, Pod, PodSpec, condition};
use std::collections::BTreeMap;

/// A number of some resource in its own unit: GPUs, cores, bytes.
pub(super) type Amount = f64;

/// A node, as far as shortages go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Room {
    /// What pods may have of it.
    pub(super) allocatable: BTreeMap<String, Amount>,
    /// Whether its kubelet answers.
    pub(super) ready: bool,
    /// Whether it was cordoned.
    pub(super) cordoned: bool,
}

/// The nodes by name, and what is taken of each where that was asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Nodes {
    pub(super) rooms: BTreeMap<String, Room>,
    used: Option<Used>,
}

/// What pods take, by node and resource. Summed from pages of [`Foreign`], which are all pods, one's own among them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used {
    nodes: BTreeMap<String, BTreeMap<String, Amount>>,
}

impl Used {
    /// Adds a page of pods.
    pub fn add<'a>(&mut self, pods: impl IntoIterator<Item = &'a Foreign>) {
        for pod in pods {
            let Some(node) = &pod.spec.node_name else { continue };
            if matches!(pod.status.phase.as_deref(), Some("Succeeded" | "Failed")) {
                continue;
            }
            let taken = self.nodes.entry(node.clone()).or_default();
            for (resource, amount) in needs(&pod.spec) {
                *taken.entry(resource).or_default() += amount;
            }
        }
    }

    fn of(&self, node: &str, resource: &str) -> Amount {
        self.nodes.get(node).and_then(|taken| taken.get(resource)).copied().unwrap_or_default()
    }
}

/// What is left of one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Left {
    /// All nodes together.
    pub(super) total: Amount,
    /// Free on nodes that take pods, all together.
    pub(super) free: Amount,
    /// The most that one node has, free or not.
    pub(super) largest: Amount,
    /// The most that is free on one node that takes pods.
    pub(super) freest: Amount,
    /// On nodes that take no pods.
    pub(super) out: Amount,
    /// Nodes that have any.
    pub(super) nodes: u32,
}

impl Nodes {
    /// Nodes of which it is not known what is taken.
    pub fn new<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let rooms = nodes.into_iter().filter_map(|node| {
            let ready =
                condition(&node.status.conditions, "Ready").is_some_and(|ready| ready.status == "True");
            let allocatable = amounts(&node.status.allocatable);
            let room = Room { allocatable, ready, cordoned: node.spec.unschedulable };
            Some((node.metadata.name.clone()?, room))
        });
        Self { rooms: rooms.collect(), used: None }
    }

    /// With what pods take of them.
    #[must_use]
    pub fn with_used(mut self, used: Used) -> Self {
        self.used = Some(used);
        self
    }

    /// Whether it is known what is taken.
    pub(super) fn is_counted(&self) -> bool {
        self.used.is_some()
    }

    /// What is left of a resource. Where nobody counted what is taken, nothing is.
    pub(super) fn left(&self, resource: &str) -> Left {
        let mut left = Left::default();
        for (name, room) in &self.rooms {
            let has = room.allocatable.get(resource).copied().unwrap_or_default();
            if has <= 0.0 {
                continue;
            }
            left.nodes += 1;
            left.total += has;
            left.largest = left.largest.max(has);
            if !room.ready || room.cordoned {
                left.out += has;
                continue;
            }
            let taken = self.used.as_ref().map_or(0.0, |used| used.of(name, resource));
            let free = (has - taken).max(0.0);
            left.free += free;
            left.freest = left.freest.max(free);
        }
        left
    }
}

/// What a pod needs of each resource, as the scheduler counts: containers run together with the native sidecars, and
/// the other init containers one at a time before them.
pub(super) fn needs(spec: &PodSpec) -> BTreeMap<String, Amount> {
    let mut together: BTreeMap<String, Amount> = BTreeMap::new();
    let mut before: BTreeMap<String, Amount> = BTreeMap::new();
    for container in &spec.init_containers {
        let stays = container.restart_policy.as_deref() == Some("Always");
        for (resource, amount) in amounts(&container.resources.requests) {
            let beside = together.entry(resource.clone()).or_default();
            let at_once = *beside + amount;
            if stays {
                *beside = at_once;
            }
            let most = before.entry(resource).or_default();
            *most = most.max(at_once);
        }
    }
    for container in &spec.containers {
        for (resource, amount) in amounts(&container.resources.requests) {
            *together.entry(resource).or_default() += amount;
        }
    }
    for (resource, amount) in before {
        let most = together.entry(resource).or_default();
        *most = most.max(amount);
    }
    together
}

/// What pods that are leaving still hold of a resource.
pub(super) fn draining(pods: &[&Pod], resource: &str) -> Amount {
    let leaving = pods.iter().filter(|pod| {
        pod.metadata.deletion_timestamp.is_some()
            && pod.spec.node_name.is_some()
            && !super::replica::has_ended(pod)
    });
    leaving.filter_map(|pod| needs(&pod.spec).get(resource).copied()).sum()
}

fn amounts(texts: &Amounts) -> BTreeMap<String, Amount> {
    let read = |(name, text): (&String, &String)| Some((name.clone(), amount(text)?));
    texts.iter().filter_map(read).collect()
}

/// A quantity of the API: `2`, `1500m`, `16Gi`, `1e9`.
pub fn amount(text: &str) -> Option<Amount> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text.strip_prefix(digits)?;
    let scale = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => return None,
    };
    let number: f64 = digits.parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number * scale)
}

/// An amount for people: `4 CPU`, `16 GiB of memory`, `1 × nvidia.com/gpu`.
pub(super) fn in_words(resource: &str, amount: Amount) -> String {
    match resource {
        "cpu" => format!("{} CPU", number(amount)),
        "memory" => format!("{} of memory", bytes(amount)),
        "ephemeral-storage" => format!("{} of local disk", bytes(amount)),
        "pods" if amount == 1.0 => "1 pod".to_owned(),
        "pods" => format!("{} pods", number(amount)),
        _ if is_bytes(resource) => format!("{} of {resource}", bytes(amount)),
        _ => format!("{} × {resource}", number(amount)),
    }
}

/// The amount alone: `4`, `16 GiB`.
pub(super) fn bare(resource: &str, amount: Amount) -> String {
    if is_bytes(resource) { bytes(amount) } else { number(amount) }
}

fn is_bytes(resource: &str) -> bool {
    matches!(resource, "memory" | "ephemeral-storage" | "storage") || resource.starts_with("hugepages-")
}

/// With up to two decimals that matter.
fn number(amount: Amount) -> String {
    let text = format!("{amount:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn bytes(amount: Amount) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut left = amount;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if left < 1024.0 {
            break;
        }
        (left, unit) = (left / 1024.0, next);
    }
    let text = if left < 10.0 { number(left) } else { format!("{left:.0}") };
    format!("{text} {unit}")
}
