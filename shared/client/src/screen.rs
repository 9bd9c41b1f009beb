//! Standard output, standard error and the questions to the user.
//!
//! Invariant: colours, bars and questions appear only on a terminal. Standard output has nothing but
//! the result.

use std::{
    io::{self, BufRead, IsTerminal, Read, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::{
    arguments::{Common, Confirmation, Output},
    failure::Failure,
    safe_text::{json, safe},
    table::Table,
};

/// The longest answer to a question that is read.
const MAX_ANSWER_BYTES: u64 = 64;

/// How often a progress bar moves if the number of messages is unknown.
const TICK: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Screen {
    output: Output,
    in_colour: bool,
    has_bars: bool,
    can_ask: bool,
}

impl Screen {
    pub(crate) fn of(common: &Common, variable: impl Fn(&str) -> Option<String>) -> Self {
        let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        let is_dumb = variable("TERM").is_some_and(|term| term == "dumb");
        Self {
            output: common.output,
            in_colour: io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb,
            has_bars: io::stderr().is_terminal() && !is_dumb,
            can_ask: io::stdin().is_terminal() && io::stderr().is_terminal(),
        }
    }

    pub(crate) fn is_json(self) -> bool {
        self.output == Output::Json
    }

    pub(crate) fn table(self, table: &Table) -> Result<(), Failure> {
        print(&table.lines(self.in_colour))
    }

    /// Prints the tables that have rows, with an empty line between them.
    pub(crate) fn tables(self, tables: &[Table]) -> Result<(), Failure> {
        let tables = tables.iter().filter(|table| !table.is_empty());
        let tables: Vec<String> = tables.map(|table| table.lines(self.in_colour)).collect();
        print(&tables.join("\n"))
    }

    /// Prints the document, or for people these rows of it.
    pub(crate) fn show(
        self,
        text: &str,
        rows: impl FnOnce() -> Result<Table, Failure>,
    ) -> Result<(), Failure> {
        if self.is_json() {
            document(text)
        } else {
            self.table(&rows()?)
        }
    }

    /// Asks, unless the answer was given on the command line.
    pub(crate) fn confirm(self, question: &str, confirmation: Confirmation) -> Result<(), Failure> {
        if confirmation.yes {
            return Ok(());
        }
        if !self.can_ask {
            let problem = format!("{question} There is no terminal to ask on: add --yes");
            return Err(Failure::Usage(problem));
        }
        eprint!("{} [y/N] ", safe(question));
        io::stderr().flush()?;
        let mut answer = String::new();
        let stdin = io::stdin().lock();
        stdin.take(MAX_ANSWER_BYTES).read_line(&mut answer)?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::Failed("nothing was done".to_owned())),
        }
    }

    /// A bar over this length; a moving one if the length is not known.
    pub(crate) fn bar(self, length: Option<u64>, template: &str) -> ProgressBar {
        let target = if self.has_bars {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(length, target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        if self.has_bars && length.is_none() {
            bar.enable_steady_tick(TICK);
        }
        bar
    }
}

/// Tells the user something beside the result.
pub(crate) fn note(text: &str) {
    complain(&safe(text));
}

/// Prints a text that is safe to standard error.
pub(crate) fn complain(text: &str) {
    // A closed standard error is no reason to stop.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a document of the API as it is, in one line.
pub(crate) fn document(text: &str) -> Result<(), Failure> {
    print(&format!("{}\n", json(text)))
}

fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Rows of names and values, without those that have no value.
pub(crate) fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a Value)>) -> Table {
    let mut table = Table::new(&[]);
    for (name, value) in pairs {
        let text = crate::values::text(value);
        if !text.is_empty() {
            table.row([name, &text]);
        }
    }
    table
}
