//! From the text to a tree of keys and lines, in one pass over the parser's events with an explicit stack.

use super::{MAX_DEPTH, MAX_VALUES};
use crate::Mistake;
use saphyr_parser::{Event, Parser};
use std::collections::{HashMap, HashSet};

/// The longest key, in bytes: a label's prefix and name have 317, and longer ones make messages unreadable.
const MAX_KEY: usize = 512;

/// Where each field of one document stands.
#[derive(Debug, Default)]
pub(super) struct Index {
    nodes: Vec<Node>,
}

/// One value. Children refer to nodes by number, an alias to its anchor's node.
#[derive(Debug, Default)]
struct Node {
    line: u32,
    children: Vec<(Step, usize)>,
    /// Values within it, itself included, aliases written out.
    size: usize,
    /// Levels within it, itself included.
    depth: usize,
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Item(usize),
}

impl Step {
    /// As kubectl writes it, appended to a path.
    pub(super) fn append(&self, path: &mut String) {
        match self {
            Self::Item(i) => path.push_str(&format!("[{i}]")),
            Self::Key(key) if key.contains(['.', '[', ']']) => path.push_str(&format!("[{key}]")),
            Self::Key(key) if path.is_empty() => path.push_str(key),
            Self::Key(key) => {
                path.push('.');
                path.push_str(key);
            }
        }
    }
}

impl Step {
    /// What is left of a path that begins with this step.
    fn strip<'a>(&self, path: &'a str) -> Option<&'a str> {
        let bare = path.strip_prefix('.').unwrap_or(path);
        let key = match self {
            Self::Item(i) => {
                let (number, rest) = path.strip_prefix('[')?.split_once(']')?;
                return (number.parse() == Ok(*i)).then_some(rest);
            }
            Self::Key(key) => key.as_str(),
        };
        let bracketed = || path.strip_prefix('[')?.strip_prefix(key)?.strip_prefix(']');
        bare.strip_prefix(key).or_else(bracketed)
    }
}

/// The path of these steps.
pub(super) fn render(steps: &[Step]) -> String {
    let mut path = String::new();
    steps.iter().for_each(|step| step.append(&mut path));
    path
}

/// A collection that is being read.
struct Open {
    node: usize,
    step: Option<Step>,
    anchor: usize,
    keys: Option<HashSet<String>>,
    /// The key whose value comes next, and the line on which it stands.
    key: Option<(String, u32)>,
}

struct Builder {
    nodes: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, usize>,
    documents: usize,
    mistakes: Vec<Mistake>,
}

impl Index {
    /// Reads the text's structure. What is no YAML, or more than a person writes, is a mistake.
    pub(super) fn build(text: &str) -> Result<Self, Vec<Mistake>> {
        let mut builder = Builder {
            nodes: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            documents: 0,
            mistakes: Vec::new(),
        };
        for event in Parser::new_from_str(text) {
            let done = match event {
                Ok((event, span)) => builder.take(event, span.start.line() as u32),
                Err(error) => Err(builder.syntax(&error)),
            };
            if let Err(fatal) = done {
                builder.mistakes.push(fatal);
                return Err(builder.mistakes);
            }
        }
        let empty = builder.nodes.first().is_none_or(|root| root.line == 0);
        if builder.mistakes.is_empty() && empty {
            builder.mistakes.push(Mistake::new("", "the file is empty; expected: a YAML document"));
        }
        if builder.mistakes.is_empty() { Ok(Self { nodes: builder.nodes }) } else { Err(builder.mistakes) }
    }

    /// Gives each mistake without a line the line of its path, or of the nearest field above it.
    pub(super) fn locate(&self, mut mistakes: Vec<Mistake>) -> Vec<Mistake> {
        for mistake in mistakes.iter_mut().filter(|m| m.line.is_none()) {
            mistake.line = self.line(&mistake.path);
        }
        mistakes.sort_by_key(|m| m.line);
        mistakes
    }

    fn line(&self, path: &str) -> Option<u32> {
        let (mut node, mut rest) = (self.nodes.first()?, path);
        let mut line = None;
        while !rest.is_empty() {
            let Some((child, after)) = self.descend(node, rest) else { break };
            line = Some(child.line);
            (node, rest) = (child, after);
        }
        line.or(Some(node.line))
    }

    /// The child that the path's beginning names, and what is left of the path; the longest name wins.
    fn descend<'a, 'p>(&'a self, node: &'a Node, path: &'p str) -> Option<(&'a Node, &'p str)> {
        let mut best: Option<(&Node, &str)> = None;
        for (step, child) in &node.children {
            let Some(rest) = step.strip(path) else { continue };
            let ends = rest.is_empty() || rest.starts_with(['.', '[']);
            if ends && best.is_none_or(|(_, other)| rest.len() < other.len()) {
                best = self.nodes.get(*child).map(|child| (child, rest));
            }
        }
        best
    }
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: u32) -> Result<(), Mistake> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                match self.documents {
                    1 => Ok(()),
                    _ => {
                        Err(self
                            .fatal(line, "a second document begins here; expected: one document per file"))
                    }
                }
            }
            Event::MappingStart(anchor, _) => self.begin(line, anchor, true),
            Event::SequenceStart(anchor, _) => self.begin(line, anchor, false),
            Event::MappingEnd | Event::SequenceEnd => self.end(),
            Event::Scalar(text, _, anchor, _) => self.scalar(&text, line, anchor),
            Event::Alias(anchor) => self.alias(anchor, line),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(&mut self, line: u32, anchor: usize, mapping: bool) -> Result<(), Mistake> {
        if self.open.len() >= MAX_DEPTH {
            return Err(self.too_deep(line));
        }
        let (step, line) = self.place(line)?;
        let node = self.add(line)?;
        let keys = mapping.then(HashSet::new);
        self.open.push(Open { node, step, anchor, keys, key: None });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Mistake> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        if open.anchor != 0 {
            self.anchors.insert(open.anchor, open.node);
        }
        self.attach(open.step, open.node)
    }

    fn scalar(&mut self, text: &str, line: u32, anchor: usize) -> Result<(), Mistake> {
        if let Some(Open { keys: Some(keys), key: key @ None, .. }) = self.open.last_mut() {
            if text.len() > MAX_KEY {
                let message = format!("a key has {} bytes; allowed: at most {MAX_KEY}", text.len());
                return Err(self.fatal(line, &message));
            }
            *key = Some((text.to_owned(), line));
            if !keys.insert(text.to_owned()) {
                let path = self.path(Some(Step::Key(text.to_owned())));
                let message = "this key stands here a second time; expected: each key once".to_owned();
                self.mistakes.push(Mistake { path, line: Some(line), message });
            }
            return Ok(());
        }
        let (step, line) = self.place(line)?;
        // An empty document is one empty scalar: line 0 marks it for `build`.
        let line = if text.is_empty() && self.open.is_empty() { 0 } else { line };
        let node = self.add(line)?;
        if anchor != 0 {
            self.anchors.insert(anchor, node);
        }
        self.attach(step, node)
    }

    fn alias(&mut self, anchor: usize, line: u32) -> Result<(), Mistake> {
        let (step, _) = self.place(line)?;
        match self.anchors.get(&anchor) {
            Some(&node) => self.attach(step, node),
            None => Err(self.fatal(line, "an alias stands within its own anchor; write the value out")),
        }
    }

    /// The step of the value that comes now, and the line to name: its key's, where it has one.
    fn place(&mut self, line: u32) -> Result<(Option<Step>, u32), Mistake> {
        let Some(open) = self.open.last_mut() else { return Ok((None, line)) };
        if open.keys.is_none() {
            let items = self.nodes.get(open.node).map_or(0, |node| node.children.len());
            return Ok((Some(Step::Item(items)), line));
        }
        match open.key.take() {
            Some((key, line)) => Ok((Some(Step::Key(key)), line)),
            None => Err(self.fatal(line, "a list or a mapping stands where a key is expected")),
        }
    }

    fn add(&mut self, line: u32) -> Result<usize, Mistake> {
        if self.nodes.len() >= MAX_VALUES {
            return Err(self.too_many(line));
        }
        self.nodes.push(Node { line, children: Vec::new(), size: 1, depth: 1 });
        Ok(self.nodes.len() - 1)
    }

    /// Hangs a finished node under the collection that is being read.
    fn attach(&mut self, step: Option<Step>, child: usize) -> Result<(), Mistake> {
        let Some((size, depth, line)) = self.nodes.get(child).map(|n| (n.size, n.depth, n.line)) else {
            return Ok(());
        };
        let (Some(open), Some(step)) = (self.open.last(), step) else { return Ok(()) };
        let above = self.open.len();
        let Some(parent) = self.nodes.get_mut(open.node) else { return Ok(()) };
        parent.children.push((step, child));
        parent.size += size;
        parent.depth = parent.depth.max(depth + 1);
        if parent.size > MAX_VALUES {
            return Err(self.too_many(line));
        }
        if above + depth > MAX_DEPTH + 1 { Err(self.too_deep(line)) } else { Ok(()) }
    }

    fn path(&self, last: Option<Step>) -> String {
        let steps: Vec<Step> = self.open.iter().filter_map(|o| o.step.clone()).chain(last).collect();
        render(&steps)
    }

    fn fatal(&self, line: u32, message: &str) -> Mistake {
        let key = self.open.last().and_then(|o| o.key.clone()).map(|(key, _)| Step::Key(key));
        Mistake { path: self.path(key), line: Some(line), message: message.to_owned() }
    }

    /// Without the path, which would be as long as the nesting is deep.
    fn too_deep(&self, line: u32) -> Mistake {
        let top = self.open.iter().find_map(|o| o.step.clone());
        let message = format!("nested more than {MAX_DEPTH} levels deep; allowed: at most {MAX_DEPTH}");
        Mistake { path: render(top.as_slice()), line: Some(line), message }
    }

    fn too_many(&self, line: u32) -> Mistake {
        let message = format!("more than {MAX_VALUES} values, aliases written out; allowed: {MAX_VALUES}");
        Mistake { path: String::new(), line: Some(line), message }
    }

    fn syntax(&self, error: &saphyr_parser::ScanError) -> Mistake {
        let line = error.marker().line() as u32;
        // The parser counts nested brackets in a byte and says this when that overflows.
        if error.info().contains("recursion limit") {
            return self.too_deep(line);
        }
        let message =
            format!("this is not valid YAML: {} (column {})", error.info(), error.marker().col() + 1);
        self.fatal(line, &message)
    }
}
