//! What a command prints: tables and colours for people, JSON and YAML for machines.

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use super::args::{Machine, Shape};
use super::failure::Failure;
use crate::settings::Environment;
use crate::yaml;

const BOLD: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const FAIR: Style = AnsiColor::Yellow.on_default().bold();
const QUIET: Style = Style::new().dimmed();
const HELP: Style = AnsiColor::Cyan.on_default().bold();

/// How a word is meant; the same without colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// Not as it should be, but served.
    Fair,
    /// Not served.
    Bad,
    /// Nothing special.
    Plain,
    /// A heading.
    Bold,
    /// Beside the point.
    Quiet,
    /// What to do.
    Help,
}

impl Tone {
    const fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => GOOD,
            Self::Fair => FAIR,
            Self::Bad => BAD,
            Self::Bold => BOLD,
            Self::Quiet => QUIET,
            Self::Help => HELP,
        }
    }
}

/// Standard output and standard error, and whether each takes colour.
pub(super) struct Output {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    colour: bool,
    colour_err: bool,
    terminal: bool,
}

impl Output {
    /// This process's own. Colour is for terminals only, and not against `NO_COLOR`.
    pub(super) fn standard(environment: &Environment) -> Self {
        let terminal = io::stdout().is_terminal();
        Self {
            // Not locked: the agent speaks its protocol on standard output from other threads.
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            colour: terminal && !environment.no_color,
            colour_err: io::stderr().is_terminal() && !environment.no_color,
            terminal,
        }
    }

    /// One line.
    pub(super) fn line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.out, "{}", text.as_ref())
    }

    /// Text as it is.
    pub(super) fn raw(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())
    }

    /// The text in the colour of its tone, where there is colour.
    pub(super) fn toned(&self, tone: Tone, text: &str) -> String {
        styled(self.colour, tone, text)
    }

    /// A document for machines.
    pub(super) fn document<T: Serialize>(&mut self, form: Machine, value: &T) -> Result<(), Failure> {
        match form {
            Machine::Json => {
                serde_json::to_writer_pretty(&mut self.out, value).map_err(io::Error::from)?;
                self.line("")?;
            }
            Machine::Yaml => {
                let text = yaml::to_string(value).map_err(Failure::new)?;
                self.raw(&text)?;
            }
        }
        Ok(())
    }

    /// A table for people. On a terminal it is fitted to the width; else no line is ever cut.
    pub(super) fn table(&mut self, head: &[&str], rows: &[Vec<(Tone, String)>]) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let arrangement =
            if self.terminal { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
        table.set_content_arrangement(arrangement);
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(head.iter().map(|text| cell(Tone::Quiet, text)));
        for row in rows {
            table.add_row(row.iter().map(|(tone, text)| cell(*tone, text)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }

    /// Something worth knowing that is no result: on standard error.
    pub(super) fn note(&mut self, text: &str) {
        self.report(Tone::Quiet, "note", text);
    }

    /// What to do.
    pub(super) fn hint(&mut self, text: &str) {
        self.report(Tone::Help, "hint", text);
    }

    /// What went wrong.
    pub(super) fn error(&mut self, text: &str) {
        self.report(Tone::Bad, "error", text);
    }

    /// Why it went wrong.
    pub(super) fn cause(&mut self, text: &str) {
        self.report(Tone::Bad, "  caused by", text);
    }

    fn report(&mut self, tone: Tone, word: &str, text: &str) {
        // Nobody is left to tell when standard error itself is gone.
        let _ = writeln!(self.err, "{}: {text}", styled(self.colour_err, tone, word));
    }
}

/// The table measures its own colours, so a cell gets them from it.
fn cell(tone: Tone, text: &str) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Good => cell.fg(Color::Green),
        Tone::Fair => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
        Tone::Help => cell.fg(Color::Cyan),
        Tone::Bold => cell.add_attribute(Attribute::Bold),
        Tone::Quiet => cell.add_attribute(Attribute::Dim),
        Tone::Plain => cell,
    }
}

fn styled(colour: bool, tone: Tone, text: &str) -> String {
    let style = tone.style();
    if colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

impl Shape {
    /// The form for machines; none: a table.
    pub(super) const fn machine(self) -> Option<Machine> {
        match self {
            Self::Table => None,
            Self::Json => Some(Machine::Json),
            Self::Yaml => Some(Machine::Yaml),
        }
    }
}
