//! The known keys.
//!
//! Invariant: the types of the sections define the keys; there is no second list to maintain.

use super::{
    Config, reading,
    tree::{Node, Origin, Table, Value},
};

pub(super) fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    below(&mut Vec::new(), &mut keys);
    keys
}

fn below(path: &mut Vec<&'static str>, keys: &mut Vec<String>) {
    match fields(path) {
        Some(fields) => {
            for field in fields {
                path.push(field);
                below(path, keys);
                path.pop();
            }
        }
        None => keys.push(path.join(".")),
    }
}

/// The keys of a section; `None` for a key that is no section. Deserializing an impossible key
/// makes a section list its own.
fn fields(path: &[&str]) -> Option<&'static [&'static str]> {
    let holding = |key: &str, value| {
        let origin = Origin::Variable(String::new());
        Table::from([(key.to_owned(), Node { value, origin })])
    };
    let asked = path
        .iter()
        .rev()
        .fold(holding("", Value::Other), |inner, key| {
            holding(key, Value::Section(inner))
        });
    reading::read::<Config>(asked)
        .err()
        .and_then(|invalid| invalid.known)
}
