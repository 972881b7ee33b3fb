//! Reads the script of `sh -c` as far as it is one simple command: only then may something be appended to it.

/// The words of a script that is one simple command, quotes removed and variables as they stand.
///
/// # Errors
///
/// What makes it more than that, in words.
pub(super) fn words(script: &str) -> Result<Vec<String>, String> {
    let mut words = Words::default();
    let mut chars = script.trim_start().chars().peekable();
    while let Some(c) = chars.next() {
        match (words.quote, c) {
            (Some(quote), c) if c == quote => words.quote = None,
            (Some('\''), c) => words.push(c),
            (_, '`') => return Err("a command in backquotes".to_owned()),
            (_, '$') if chars.peek() == Some(&'(') => return Err("$(…)".to_owned()),
            (quote, '\\') => match chars.next() {
                Some('\n') => {}
                Some(next) if quote.is_some() => [c, next].into_iter().for_each(|c| words.push(c)),
                Some(next) => words.push(next),
                None => return Err("a backslash at its end".to_owned()),
            },
            (Some(_), c) => words.push(c),
            (None, '\'' | '"') => {
                words.quote = Some(c);
                words.begin();
            }
            (None, ' ' | '\t') => words.end(),
            (None, '\n') if chars.clone().all(char::is_whitespace) => break,
            (None, '\n') => return Err("a second line".to_owned()),
            (None, ';' | '&' | '|' | '<' | '>' | '(' | ')') => return Err(format!("`{c}`")),
            (None, '#') if words.word.is_none() => return Err("a comment".to_owned()),
            (None, c) => words.push(c),
        }
    }
    if words.quote.is_some() {
        return Err("a quote that doesn't end".to_owned());
    }
    words.end();
    Ok(words.all)
}

#[derive(Default)]
struct Words {
    all: Vec<String>,
    /// The word that is being read; an empty one between quotes is one too.
    word: Option<String>,
    quote: Option<char>,
}

impl Words {
    fn begin(&mut self) {
        self.word.get_or_insert_default();
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn end(&mut self) {
        self.all.extend(self.word.take());
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn one_simple_command_is_read_as_the_shell_does() {
        for (script, expected) in [
            ("vllm serve a/b --port 8000", vec!["vllm", "serve", "a/b", "--port", "8000"]),
            ("\n  exec vllm  serve\tx \\\n    --port=1 \n\n", vec!["exec", "vllm", "serve", "x", "--port=1"]),
            (
                "vllm serve \"$MODEL\" '{\"a;b\": 1}' \"\"",
                vec!["vllm", "serve", "$MODEL", "{\"a;b\": 1}", ""],
            ),
            ("a\\ b c#d 'e'\"f\"g", vec!["a b", "c#d", "efg"]),
        ] {
            assert_eq!(words(script).unwrap(), expected, "{script}");
        }
    }

    #[test]
    fn more_than_one_simple_command_is_told() {
        for (script, what) in [
            ("pip install x && vllm serve y", "`&`"),
            ("vllm serve x | tee log", "`|`"),
            ("vllm serve x > log", "`>`"),
            ("set -e\nvllm serve x", "a second line"),
            ("(vllm serve x)", "`(`"),
            ("vllm serve $(cat model)", "$(…)"),
            ("vllm serve \"$(cat model)\"", "$(…)"),
            ("vllm serve \"`cat model`\"", "a command in backquotes"),
            ("vllm serve x # comment", "a comment"),
            ("vllm serve 'x", "a quote that doesn't end"),
            ("vllm serve x \\", "a backslash at its end"),
            ("while true; do vllm serve x; done", "`;`"),
        ] {
            assert_eq!(words(script).unwrap_err(), what, "{script}");
        }
    }
}
