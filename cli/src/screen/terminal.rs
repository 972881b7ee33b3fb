//! The terminal: entered, drawn to, and always given back as it was found.

use super::{draw, words};
use crate::view::{Phase, View};
use ratatui::DefaultTerminal;
use std::io::{self, Write};

/// The whole terminal, taken over until this value is dropped. A panic gives it back too, before its message is
/// printed.
#[derive(Debug)]
pub struct Terminal {
    inner: DefaultTerminal,
    /// The last sentence about the deployment itself: the screen is gone with this value, and the sentence stays.
    last: String,
}

impl Terminal {
    /// Takes over the terminal of standard output.
    ///
    /// Raw mode stops the terminal from turning Ctrl-C into a signal. The screen takes no keys, and Ctrl-C must
    /// drain, so raw mode is left again at once and only the alternate screen is kept.
    ///
    /// # Errors
    /// When standard output is no terminal or refuses.
    pub fn enter() -> io::Result<Self> {
        let inner = ratatui::try_init()?;
        ratatui::crossterm::terminal::disable_raw_mode()?;
        let mut terminal = Self { inner, last: String::new() };
        terminal.inner.hide_cursor()?;
        Ok(terminal)
    }

    /// Shows the view.
    ///
    /// # Errors
    /// When the terminal can't be written to.
    pub fn show(&mut self, view: &View) -> io::Result<()> {
        if view.phase != Phase::Stopping {
            self.last = words::happening(view);
        }
        self.inner.draw(|frame| draw(frame, view)).map(|_| ())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = self.inner.show_cursor();
        ratatui::restore();
        let _ = writeln!(io::stdout(), "{}", self.last);
    }
}
