//! The terminal: taken, drawn on, given back, whatever happens.

use std::io::{self, BufWriter, IsTerminal as _, Stderr, Write as _};
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::cursor::{Hide, Show};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use rustix::process::getpgrp;
use rustix::termios::tcgetpgrp;

use super::{Model, Theme, draw};

/// Whether the terminal is ours. A panic on any thread gives it back first, so that its message can be read.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What somebody at the keyboard wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The end, or, the second time, the end at once.
    End,
}

/// The terminal while it shows a run. Dropping it gives it back.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<BufWriter<Stderr>>>,
    theme: Theme,
}

impl Screen {
    /// Whether there is a terminal to draw on, with somebody before it: all three standard streams are terminals, this
    /// program is in the foreground, and the terminal can move its cursor.
    pub fn is_possible() -> bool {
        let foreground = || tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let terminals = io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal();
        terminals && !dumb && foreground()
    }

    /// Takes the terminal.
    ///
    /// # Errors
    /// If it cannot be set up; it is as before then.
    pub fn take() -> io::Result<Self> {
        give_back_on_panic();
        TAKEN.store(true, Ordering::SeqCst);
        let taken = enable_raw_mode().and_then(|()| {
            let mut out = BufWriter::new(io::stderr());
            execute!(out, EnterAlternateScreen, Hide)?;
            Terminal::new(CrosstermBackend::new(out))
        });
        match taken {
            Ok(terminal) => Ok(Self { terminal, theme: Theme::of_environment() }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }

    /// Draws `model`. Nothing is drawn any more on a terminal that was given back.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn draw(&mut self, model: &Model) -> io::Result<()> {
        if TAKEN.load(Ordering::SeqCst) {
            self.terminal.draw(|frame| draw(frame, model, self.theme))?;
        }
        Ok(())
    }

    /// Waits at most `timeout` for a key that means something.
    ///
    /// # Errors
    /// Those of the terminal.
    pub fn key(&mut self, timeout: Duration) -> io::Result<Option<Key>> {
        if !event::poll(timeout)? {
            return Ok(None);
        }
        let Event::Key(key) = event::read()? else { return Ok(None) };
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            _ if key.kind == KeyEventKind::Release => Ok(None),
            KeyCode::Char('c') if control => Ok(Some(Key::End)),
            KeyCode::Char('l') if control => self.terminal.clear().map(|()| None),
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => Ok(Some(Key::End)),
            _ => Ok(None),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back if it is ours. Where that fails there is no terminal any more.
fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let mut out = io::stderr();
        let _ = execute!(out, LeaveAlternateScreen, Show);
        let _ = out.flush();
        let _ = disable_raw_mode();
    }
}

fn give_back_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let message = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            message(info);
        }));
    });
}
