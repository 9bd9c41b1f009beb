//! The configuration file, in TOML.
//!
//! Invariant: a problem is reported by its place and never by its text. The parser's own message
//! quotes the line, which may hold a password.

use std::{fs, io::ErrorKind, path::Path, rc::Rc};

use roundtrip_model::WrongSetting;
use toml::{
    Spanned,
    de::{DeArray, DeInteger, DeTable, DeValue},
};

use super::{
    USUAL_FILE,
    tree::{Node, Origin, Place, Table, Value},
};

pub(super) fn read(named: Option<&Path>) -> Result<Table, WrongSetting> {
    let path = named.unwrap_or(Path::new(USUAL_FILE));
    let name: Rc<str> = path.display().to_string().into();
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {
            return Ok(Table::new());
        }
        Err(error) => {
            return Err(WrongSetting::new(
                &*name,
                format!("cannot be read: {error}"),
            ));
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => parse(name, &text),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let good = String::from_utf8_lossy(&error.as_bytes()[..good]);
            let end = Text::of(Rc::clone(&name), &good).place(good.len());
            Err(WrongSetting::new("the file", "is not UTF-8").at(&Origin::File(end)))
        }
    }
}

pub(super) fn parse(name: Rc<str>, text: &str) -> Result<Table, WrongSetting> {
    let at = Text::of(name, text);
    match DeTable::parse(text) {
        Ok(table) => Ok(at.table(table.into_inner())),
        Err(error) => {
            let start = error.span().map_or(0, |span| span.start);
            // The parser's messages are constants; only its `Display` quotes the text.
            let problem = error.message().replace('\n', " ");
            Err(WrongSetting::new("", problem).at(&Origin::File(at.place(start))))
        }
    }
}

/// A text with its line starts, to find places in.
struct Text<'a> {
    name: Rc<str>,
    text: &'a str,
}

impl<'a> Text<'a> {
    fn of(name: Rc<str>, text: &'a str) -> Self {
        Self { name, text }
    }

    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place {
            file: Rc::clone(&self.name),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    fn table(&self, table: DeTable<'_>) -> Table {
        let entries = table.into_iter().map(|(key, value)| {
            let origin = Origin::File(self.place(key.span().start));
            let value = self.value(value.into_inner());
            (key.into_inner().into_owned(), Node { value, origin })
        });
        entries.collect()
    }

    fn list(&self, list: DeArray<'_>) -> Vec<Node> {
        let entries = list.into_iter().map(|entry: Spanned<DeValue<'_>>| {
            let origin = Origin::File(self.place(entry.span().start));
            let value = self.value(entry.into_inner());
            Node { value, origin }
        });
        entries.collect()
    }

    fn value(&self, value: DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(number) => number_of(&number).map_or(Value::Other, Value::Number),
            DeValue::Boolean(flag) => Value::Flag(flag),
            DeValue::Array(list) => Value::List(self.list(list)),
            DeValue::Table(table) => Value::Section(self.table(table)),
            DeValue::Float(_) | DeValue::Datetime(_) => Value::Other,
        }
    }
}

fn number_of(number: &DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}
