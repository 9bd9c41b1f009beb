//! Rows in aligned columns, for people.
//!
//! Invariant: every cell is escaped, and one line.

use unicode_width::UnicodeWidthStr;

use crate::safe_text::safe;

const BETWEEN: &str = "  ";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Good,
    Bad,
    Waiting,
}

impl Colour {
    const fn begin(self) -> &'static str {
        match self {
            Self::Good => "\u{1b}[32m",
            Self::Bad => "\u{1b}[31m",
            Self::Waiting => "\u{1b}[33m",
        }
    }
}

const BOLD: &str = "\u{1b}[1m";
const END: &str = "\u{1b}[0m";

#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self {
            text: safe(text.as_ref()).into_owned(),
            colour: None,
        }
    }
}

impl Cell {
    pub(crate) fn coloured(text: &str, colour: Option<Colour>) -> Self {
        Self {
            colour,
            ..text.into()
        }
    }
}

#[derive(Debug)]
pub struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(heads: &[&'static str]) -> Self {
        Self {
            heads: heads.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row of plain texts.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl AsRef<str>>) {
        self.add(cells.into_iter().map(Cell::from));
    }

    pub(crate) fn add(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines: a head, unless it has no columns' names, and the rows.
    pub fn lines(&self, in_colour: bool) -> String {
        let mut widths: Vec<usize> = self.heads.iter().map(|head| head.width()).collect();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.text.width().max(*width);
            }
        }
        let mut lines = String::new();
        if !self.heads.is_empty() {
            let heads: Vec<Cell> = self.heads.iter().map(Cell::from).collect();
            let head = line(&heads, &widths, false);
            lines += &painted(&head, if in_colour { Some(BOLD) } else { None });
            lines.push('\n');
        }
        for row in &self.rows {
            lines += &line(row, &widths, in_colour);
            lines.push('\n');
        }
        lines
    }
}

fn painted(text: &str, begin: Option<&str>) -> String {
    begin.map_or_else(|| text.to_owned(), |begin| format!("{begin}{text}{END}"))
}

fn line(row: &[Cell], widths: &[usize], in_colour: bool) -> String {
    let mut line = String::new();
    for (number, (cell, width)) in row.iter().zip(widths).enumerate() {
        let begin = cell.colour.filter(|_| in_colour).map(Colour::begin);
        line += &painted(&cell.text, begin);
        if number + 1 < row.len() {
            let padding = width - cell.text.width();
            line.extend(std::iter::repeat_n(' ', padding));
            line += BETWEEN;
        }
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_the_width_that_a_terminal_shows() {
        let mut table = Table::new(&["ID", "NAME", "TAGS"]);
        table.row(["a", "東京", "x"]);
        table.row(["long-id", "b", ""]);
        assert_eq!(
            table.lines(false),
            "ID       NAME  TAGS\na        東京  x\nlong-id  b\n"
        );
    }

    #[test]
    fn a_hostile_cell_stays_in_its_line() {
        let mut table = Table::new(&[]);
        table.row(["name", "a\n\u{1b}[2Jb\u{202e}"]);
        assert_eq!(table.lines(true), "name  a\\n\\u{1b}[2Jb\\u{202e}\n");
    }

    #[test]
    fn colour_changes_no_alignment() {
        let mut table = Table::new(&["STATE", "ID"]);
        table.add([Cell::coloured("dead", Some(Colour::Bad)), "m".into()]);
        let plain = table.lines(true).replace(BOLD, "").replace(END, "");
        assert_eq!(plain.replace(Colour::Bad.begin(), ""), table.lines(false));
        assert!(!table.lines(false).contains('\u{1b}'));
    }
}
