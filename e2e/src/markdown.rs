//! The parts of a Markdown document that a program can check.

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What stands behind the opening fence: `sh`, `yaml`, `text`.
    pub kind: String,
    /// Its text, with a line end after each line.
    pub text: String,
    /// The last line before it that is not empty: it names the file, or carries a comment for the tests.
    pub before: String,
}

/// All fenced blocks, in order.
pub fn blocks(document: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut before = "";
    let mut open: Option<Block> = None;
    for line in document.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => {
                open = Some(Block {
                    kind: kind.trim().to_owned(),
                    text: String::new(),
                    before: before.to_owned(),
                });
            }
            (Some(_), Some(_)) => {
                found.extend(open.take());
                before = "";
            }
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) if !line.trim().is_empty() => before = line.trim(),
            (None, None) => {}
        }
    }
    found
}

/// The targets of all links, `[text](target)`, outside of fenced blocks.
pub fn links(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in document.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        }
        let parts = line.split("](").skip(1).filter(|_| !fenced);
        found.extend(parts.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{blocks, links};

    const DOCUMENT: &str =
        "Save as `a.yaml`:\n\n```yaml\na: [b](c)\n\nd: e\n```\nSee [x](y.md), [z](w).\n```sh\nls\n```\n";

    #[test]
    fn blocks_keep_their_text_and_what_stands_before() {
        let found = blocks(DOCUMENT);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].kind.as_str(), found[0].before.as_str()), ("yaml", "Save as `a.yaml`:"));
        assert_eq!(found[0].text, "a: [b](c)\n\nd: e\n");
        assert_eq!(found[1].text, "ls\n");
    }

    #[test]
    fn links_outside_of_blocks_are_found() {
        assert_eq!(links(DOCUMENT), ["y.md", "w"]);
    }
}
