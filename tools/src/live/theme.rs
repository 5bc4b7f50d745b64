//! Colours, or none.

use std::env;

use ratatui::style::{Color, Modifier, Style};

/// How things are shown. Whatever a colour says, a word or a place says too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    colour: bool,
}

impl Theme {
    /// With colours unless the environment has a `NO_COLOR` that is not empty (no-color.org).
    pub fn of_environment() -> Self {
        Self { colour: env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    /// With colours, or without.
    pub const fn new(colour: bool) -> Self {
        Self { colour }
    }

    fn tint(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    pub(super) fn good(self) -> Style {
        self.tint(Color::Green)
    }

    pub(super) fn warn(self) -> Style {
        self.tint(Color::Yellow)
    }

    pub(super) fn bad(self) -> Style {
        self.tint(Color::Red).add_modifier(Modifier::BOLD)
    }

    pub(super) fn quiet(self) -> Style {
        if self.colour { Style::new().fg(Color::DarkGray) } else { Style::new().add_modifier(Modifier::DIM) }
    }

    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Of the lines of a chart, the lowest first.
    pub(super) fn lines(self) -> [Style; 3] {
        [Color::Cyan, Color::Yellow, Color::Magenta].map(|colour| self.tint(colour))
    }
}
