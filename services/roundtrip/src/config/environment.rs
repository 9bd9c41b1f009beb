//! The configuration's variables: `ROUNDTRIP__SECTION__KEY`, and the few that go by a name of their
//! own.
//!
//! Invariant: a variable that was meant for the gateway is used or refused, never passed over: a
//! rule that was mistyped must not be a rule that is not there. Its value is shown in neither case.

use std::{cell::OnceCell, collections::BTreeMap, ffi::OsString};

use super::{
    Problem, known,
    reading::shown,
    tree::{Node, Origin, Table, Value},
};

/// What every variable of the gateway begins with; another underscore follows, but see [`FILE`].
const PREFIX: &str = "ROUNDTRIP_";
/// What stands before, and between, sections and keys.
const BETWEEN: &str = "__";
/// Names the file, and so is none of its keys.
const FILE: &str = "ROUNDTRIP_CONFIG";

/// The variables that go without the prefix, for they are part of every deployment.
const SHORT_VARIABLES: [(&str, &str); 7] = [
    ("BROKER_URL", "broker.url"),
    ("STORE_URL", "store.url"),
    ("SESSIONS_SERVER", "sessions_server"),
    ("CALLBACK_SECRET", "callback_secret"),
    ("SESSIONS_SECRET", "sessions_secret"),
    ("ENCRYPTION_KEYS", "encryption_keys"),
    ("OPERATOR_KEY", "operator_key"),
];

/// Lays what the variables say over what the file says.
pub(super) fn lay_over(
    table: &mut Table,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(), Problem> {
    // In order, so that several that are wrong are always reported alike.
    let variables: BTreeMap<OsString, OsString> = variables.into_iter().collect();
    let text = |name: &str, value: &OsString| {
        let value = value.clone().into_string();
        value.map_err(|_| Problem::key(name, "is no UTF-8"))
    };
    let keys = OnceCell::new();
    let mut results = Vec::new();
    for (name, value) in &variables {
        let Some(name) = name.to_str() else { continue };
        let upper = name.to_ascii_uppercase();
        let Some(rest) = upper.strip_prefix(PREFIX) else {
            continue;
        };
        match rest.strip_prefix('_') {
            Some(path) => {
                let key = path.to_ascii_lowercase().replace(BETWEEN, ".");
                let text = text(name, value);
                results.push(text.and_then(|text| set(table, name, &key, text)));
            }
            None if upper == FILE => {}
            None => results.push(refuse_if_meant(name, rest, keys.get_or_init(known::keys))),
        }
    }
    for (name, key) in SHORT_VARIABLES {
        if let Some(value) = variables.get(&OsString::from(name)) {
            results.push(text(name, value).and_then(|value| {
                // Set but empty means not set: compose files pass `${SESSIONS_SERVER:-}` so.
                if value.is_empty() {
                    return Ok(());
                }
                set(table, name, key, value)
            }));
        }
    }
    Problem::all(results)
}

fn set(table: &mut Table, name: &str, key: &str, text: String) -> Result<(), Problem> {
    let origin = || Origin::Variable(name.to_owned());
    let (sections, key) = key
        .rsplit_once('.')
        .map_or((None, key), |(sections, key)| (Some(sections), key));
    let mut table = table;
    for section in sections.into_iter().flat_map(|path| path.split('.')) {
        let node = table.entry(section.to_owned()).or_insert_with(|| Node {
            value: Value::Section(Table::new()),
            origin: origin(),
        });
        let Value::Section(inner) = &mut node.value else {
            let problem = format!("{} is meant for a section, and is none", shown(section));
            return Err(Problem::at(&node.origin, problem));
        };
        table = inner;
    }
    let beneath = table.remove(key).map(Box::new);
    let value = Value::Said { text, beneath };
    let origin = origin();
    table.insert(key.to_owned(), Node { value, origin });
    Ok(())
}

/// Refuses a variable with one underscore after the prefix where it can only be meant for the
/// gateway. Others may begin so: Kubernetes gives every container `ROUNDTRIP_PORT`,
/// `ROUNDTRIP_INGRESS_SERVICE_HOST` and more of the kind, where a Service has such a name.
fn refuse_if_meant(name: &str, rest: &str, keys: &[String]) -> Result<(), Problem> {
    let flat = |key: &str| key.replace(BETWEEN, "_").to_ascii_uppercase();
    let sections = keys.iter().filter_map(|key| key.split('.').next());
    let meant = keys.iter().map(String::as_str).chain(sections);
    let meant = meant
        .map(|key| key.replace('.', BETWEEN))
        .find(|key| flat(key) == flat(rest));
    match meant {
        Some(key) => Err(Problem::key(
            name,
            format!(
                "is no variable of the gateway's; it is written {PREFIX}_{}",
                key.to_ascii_uppercase()
            ),
        )),
        None if rest.contains(BETWEEN) => Err(Problem::key(
            name,
            "is no variable of the gateway's; they are written ROUNDTRIP__SECTION__KEY, with two \
             underscores each time",
        )),
        None => Ok(()),
    }
}
