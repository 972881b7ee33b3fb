//! To people: one screen, or where there is no terminal one line per change.

use super::replica::Happening;
use crate::screen::{Terminal, lines};
use crate::view::View;
use std::io::{self, IsTerminal, Write};

/// How many of a crashed program's last lines are told.
const TOLD_LINES: usize = 5;

/// Where changes are told.
#[derive(Debug)]
pub(crate) enum Output {
    /// The whole terminal, which keeps the last word when it is given back.
    Screen(Box<Terminal>),
    /// Standard output, line by line; what was told last.
    Lines(Box<View>),
}

impl Output {
    /// A screen if standard output is a terminal and no lines are asked for.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub(crate) fn open(plain: bool) -> io::Result<Self> {
        match plain || !io::stdout().is_terminal() {
            true => Ok(Self::Lines(Box::default())),
            false => Terminal::enter().map(|terminal| Self::Screen(Box::new(terminal))),
        }
    }

    /// Shows the view, or what changed since the one before.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn show(&mut self, view: View) -> io::Result<()> {
        match self {
            Self::Screen(terminal) => terminal.show(&view),
            Self::Lines(before) => {
                let changes = lines::changes(before, &view);
                **before = view;
                write(&changes)
            }
        }
    }

    /// The last lines of a program that crashed. The screen has no room for them; there the event names the log.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn tail(&mut self, happening: &Happening) -> io::Result<()> {
        if let Self::Screen(_) = self {
            return Ok(());
        }
        let skipped = happening.tail.len().saturating_sub(TOLD_LINES);
        write(&happening.tail.iter().skip(skipped).map(|line| format!("  | {line}")).collect::<Vec<_>>())
    }

    /// Something that no view tells: where things are, at the start.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn note(&mut self, line: &str) -> io::Result<()> {
        match self {
            Self::Screen(_) => Ok(()),
            Self::Lines(_) => write(&[line.to_owned()]),
        }
    }
}

fn write(lines: &[String]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush()
}
