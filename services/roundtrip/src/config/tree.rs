//! What was written, and where: the values of the file, and over them those of the environment.
//!
//! Invariant: nothing here shows a value. A line of the configuration may be the one with the
//! password in it.

use std::{collections::BTreeMap, fmt, rc::Rc};

/// The values of a section, by their keys.
pub(super) type Table = BTreeMap<String, Node>;

/// A value, and where it was written.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// A value as it was written.
#[derive(Clone)]
pub(super) enum Value {
    /// The environment's: a text that is what its key asks for, be it a number or a list.
    Said {
        text: String,
        /// What the file says, which an empty text does not take the place of where it can be left
        /// out.
        beneath: Option<Box<Node>>,
    },
    /// A text.
    Text(String),
    /// A whole number.
    Number(i128),
    /// Yes or no.
    Flag(bool),
    /// A list.
    List(Vec<Node>),
    /// A section.
    Section(Table),
    /// What no key takes: fractions, dates, numbers beyond all bounds.
    Other,
}

/// Where a value was written.
#[derive(Clone)]
pub(super) enum Origin {
    /// A variable of the environment.
    Variable(String),
    /// A place in the file.
    File(Place),
}

/// A place in the file, both counted from 1.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) file: Rc<str>,
    pub(super) line: usize,
    pub(super) column: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::File(Place { file, line, column }) => {
                write!(f, "{file}, line {line}, column {column}")
            }
        }
    }
}
