//! The values of the file, those of the environment over them, and where each was written.
//!
//! Invariant: nothing here shows a value, as any line may hold a password.

use std::{collections::BTreeMap, fmt, rc::Rc};

pub(super) type Table = BTreeMap<String, Node>;

#[derive(Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

#[derive(Clone)]
pub(super) enum Value {
    /// From the environment: a text that becomes what its key needs, a number or a list for
    /// example.
    Variable {
        text: String,
        /// The file's value, which holds if the text is empty.
        of_file: Option<Box<Node>>,
    },
    Text(String),
    Number(i128),
    Flag(bool),
    List(Vec<Node>),
    Section(Table),
    /// What fits no key: fractions, dates, numbers out of range.
    Other,
}

#[derive(Clone)]
pub(super) enum Origin {
    Variable(String),
    File(Place),
}

/// A place in the file; line and column count from 1.
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
