//! From values to the type asked for, with as many mistakes as can be found.
//!
//! serde stops at the first value that it refuses. So that value is taken out and the rest is tried again; a field
//! that is then missing because it was taken out is no further mistake.

use super::index::{Step, render};
use super::{MAX_MISTAKES, fields, wording};
use crate::Mistake;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use serde_yaml::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Reads `T`, or says all that is wrong, in the order found and without lines.
pub(super) fn into_type<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<Mistake>> {
    let mut unknown = BTreeSet::new();
    let first = attempt::<T>(value, &mut |path| {
        unknown.insert(path);
    });
    let error = match first {
        Ok(value) if unknown.is_empty() => return Ok(value),
        Ok(_) => return Err(unknown_fields::<T>(&unknown)),
        Err(error) => error,
    };
    let mut mistakes = Vec::new();
    let mut rest = Remaining { tree: Tree::of(value), value: value.clone(), removed: BTreeSet::new() };
    let mut error = Some(error);
    // Each round takes something out, so it ends by itself; the bound is for time on a hostile file.
    while let Some((steps, message)) = error.take() {
        rest.judge(steps, &message, &mut mistakes);
        if mistakes.len() >= MAX_MISTAKES || rest.value.is_null() {
            break;
        }
        let tree = &rest.tree;
        let again = attempt::<T>(&rest.value, &mut |path| {
            unknown.insert(tree.original(&path));
        });
        error = again.err();
    }
    mistakes.extend(unknown_fields::<T>(&unknown));
    Err(mistakes)
}

type Refused = (Vec<Step>, String);

/// One try, telling each field that the type does not know.
fn attempt<T: DeserializeOwned>(value: &Value, ignored: &mut dyn FnMut(Vec<Step>)) -> Result<T, Refused> {
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let result = serde_ignored::deserialize(tracked, |path| {
        let mut steps = Vec::new();
        ignored_steps(&path, &mut steps);
        ignored(steps);
    });
    result.map_err(|error| {
        let path = track.path();
        let steps = path.iter().map_while(|segment| match segment {
            Segment::Seq { index } => Some(Step::Item(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        });
        (steps.collect(), error.to_string())
    })
}

fn ignored_steps(path: &serde_ignored::Path<'_>, steps: &mut Vec<Step>) {
    match path {
        serde_ignored::Path::Root => {}
        serde_ignored::Path::Seq { parent, index } => {
            ignored_steps(parent, steps);
            steps.push(Step::Item(*index));
        }
        serde_ignored::Path::Map { parent, key } => {
            ignored_steps(parent, steps);
            steps.push(Step::Key(key.clone()));
        }
        serde_ignored::Path::Some { parent }
        | serde_ignored::Path::NewtypeStruct { parent }
        | serde_ignored::Path::NewtypeVariant { parent } => ignored_steps(parent, steps),
    }
}

fn unknown_fields<T: DeserializeOwned>(unknown: &BTreeSet<Vec<Step>>) -> Vec<Mistake> {
    // What is cut off afterwards needs no search for a similar name.
    let shown = unknown.iter().take(MAX_MISTAKES).map(|steps| unknown_field::<T>(steps));
    shown.chain(unknown.iter().skip(MAX_MISTAKES).map(|_| Mistake::new("", ""))).collect()
}

fn unknown_field<T: DeserializeOwned>(steps: &[Step]) -> Mistake {
    let (known, name) = match steps.split_last() {
        Some((Step::Key(name), above)) => (fields::at::<T>(above), name.as_str()),
        _ => (&[][..], ""),
    };
    Mistake::new(render(steps), wording::unknown_field(name, known))
}

/// What is left of the document.
struct Remaining {
    value: Value,
    tree: Tree,
    /// Original paths of what was taken out.
    removed: BTreeSet<Vec<Step>>,
}

impl Remaining {
    /// Notes one refusal, unless it only follows from an earlier one, and takes out what it stands on.
    fn judge(&mut self, steps: Vec<Step>, message: &str, mistakes: &mut Vec<Mistake>) {
        let original = self.tree.original(&steps);
        let missing = wording::missing_field(message).map(|name| {
            let mut path = original.clone();
            path.push(Step::Key(name.to_owned()));
            path
        });
        match missing {
            Some(path) if self.removed.contains(&path) => {}
            Some(path) => mistakes.push(Mistake::new(render(&path), wording::missing())),
            None => mistakes.push(Mistake::new(render(&original), wording::refused(message))),
        }
        remove(&mut self.value, &mut self.tree, &steps);
        self.removed.insert(original);
    }
}

fn remove(value: &mut Value, tree: &mut Tree, steps: &[Step]) {
    let Some((last, above)) = steps.split_last() else {
        *value = Value::Null;
        return;
    };
    let (mut value, mut tree) = (value, tree);
    for step in above {
        let (Some(below), Some(branch)) = (child(value, step), tree.child(step)) else { return };
        (value, tree) = (below, branch);
    }
    match (value, last) {
        (Value::Mapping(map), Step::Key(key)) => {
            map.remove(key.as_str());
        }
        (Value::Sequence(list), Step::Item(i)) if *i < list.len() => {
            list.remove(*i);
            tree.items.remove(*i);
        }
        // A key that is no text has no name to find it by: all of them go.
        (Value::Mapping(map), _) => map.clear(),
        (other, _) => *other = Value::Null,
    }
}

fn child<'a>(value: &'a mut Value, step: &Step) -> Option<&'a mut Value> {
    match (value, step) {
        (Value::Mapping(map), Step::Key(key)) => map.get_mut(key.as_str()),
        (Value::Sequence(list), Step::Item(i)) => list.get_mut(*i),
        _ => None,
    }
}

/// The original places of list items that are left, as taking one out moves those behind it.
#[derive(Default)]
struct Tree {
    items: Vec<(usize, Tree)>,
    keys: BTreeMap<String, Tree>,
}

impl Tree {
    fn of(value: &Value) -> Self {
        match value {
            Value::Sequence(list) => {
                Self { items: list.iter().map(Self::of).enumerate().collect(), keys: BTreeMap::new() }
            }
            Value::Mapping(map) => {
                let named = map.iter().filter_map(|(k, v)| Some((k.as_str()?.to_owned(), Self::of(v))));
                Self { items: Vec::new(), keys: named.collect() }
            }
            _ => Self::default(),
        }
    }

    fn child(&mut self, step: &Step) -> Option<&mut Self> {
        match step {
            Step::Key(key) => self.keys.get_mut(key),
            Step::Item(i) => self.items.get_mut(*i).map(|(_, tree)| tree),
        }
    }

    /// The path in the document as it was written.
    fn original(&self, steps: &[Step]) -> Vec<Step> {
        let mut here = Some(self);
        let mut path = Vec::with_capacity(steps.len());
        for step in steps {
            let (place, below) = match (here, step) {
                (Some(tree), Step::Item(i)) => match tree.items.get(*i) {
                    Some((original, below)) => (Step::Item(*original), Some(below)),
                    None => (step.clone(), None),
                },
                (Some(tree), Step::Key(key)) => (step.clone(), tree.keys.get(key)),
                (None, _) => (step.clone(), None),
            };
            path.push(place);
            here = below;
        }
        path
    }
}
