//! Which keys there are.
//!
//! Invariant: it is the sections' own types that say so, not a second list that would have to be
//! kept beside them.

use super::{
    Config, reading,
    tree::{Node, Origin, Table, Value},
};

/// Every key with the sections that it is in, as of `ingress.tls.cert_file`.
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

/// The keys of a section; none where there is a key and no section. A section that is asked for a
/// key that cannot be says which can.
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
        .and_then(|wrong| wrong.known)
}
