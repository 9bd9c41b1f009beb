//! Environment variables: `ROUNDTRIP__SECTION__KEY`, and a few short names. With `_FILE` after its name a
//! variable names a file with the value, as Docker and Kubernetes mount secrets.
//!
//! Invariant: a variable that is meant for the gateway is used or refused, never ignored, as a
//! mistyped rule must not be a missing rule. Its value is never shown.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::Read,
};

use roundtrip_model::{Check, WrongSetting};

use super::{
    known,
    reading::shown,
    tree::{Node, Origin, Table, Value},
};

/// The prefix of every variable of the gateway; a second underscore follows, except in [`FILE`].
const PREFIX: &str = "ROUNDTRIP_";
/// The separator before and between sections and keys.
const BETWEEN: &str = "__";
/// It names the file and is not one of its keys.
const FILE: &str = "ROUNDTRIP_CONFIG";

/// Follows the name of a variable whose value is in a file.
const FROM_FILE: &str = "_FILE";
/// The longest value that is read from a file. Every secret is shorter.
const MAX_FILE_BYTES: usize = 64 << 10;

/// Variables without the prefix, as every deployment sets them.
const SHORT_VARIABLES: [(&str, &str); 7] = [
    ("BROKER_URL", "broker.url"),
    ("STORE_URL", "store.url"),
    ("SESSIONS_SERVER", "sessions_server"),
    ("CALLBACK_SECRET", "callback_secret"),
    ("SESSIONS_SECRET", "sessions_secret"),
    ("ENCRYPTION_KEYS", "encryption_keys"),
    ("OPERATOR_KEY", "operator_key"),
];

pub(super) fn lay_over(
    table: &mut Table,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    check: &mut Check,
) {
    // Sorted, so that several problems are always reported in the same order.
    let variables: BTreeMap<OsString, OsString> = variables.into_iter().collect();
    let text = |name: &str, value: &OsString| {
        let value = value.clone().into_string();
        value.map_err(|_| WrongSetting::new(name, "is not UTF-8"))
    };
    let keys = OnceCell::new();
    for (name, value) in &variables {
        let Some(name) = name.to_str() else { continue };
        let upper = name.to_ascii_uppercase();
        let Some(rest) = upper.strip_prefix(PREFIX) else {
            continue;
        };
        match rest.strip_prefix('_') {
            Some(path) => {
                let key = path.to_ascii_lowercase().replace(BETWEEN, ".");
                let known = keys.get_or_init(known::keys);
                let text = match in_file(&key, known) {
                    Some(key) => from_file(&variables, name, value).map(|text| (key, text)),
                    None => text(name, value).map(|text| (&*key, Some(text))),
                };
                check.take(text.and_then(|(key, text)| {
                    text.map_or(Ok(()), |text| set(table, name, key, text))
                }));
            }
            None if upper == FILE => {}
            None => {
                check.take(refuse_if_meant(name, rest, keys.get_or_init(known::keys)));
            }
        }
    }
    for (name, key) in SHORT_VARIABLES {
        if let Some(value) = variables.get(&OsString::from(name)) {
            check.take(text(name, value).and_then(|value| {
                // Set but empty means not set: compose files pass `${SESSIONS_SERVER:-}`.
                if value.is_empty() {
                    return Ok(());
                }
                set(table, name, key, value)
            }));
        }
        let name = format!("{name}{FROM_FILE}");
        if let Some(value) = variables.get(OsStr::new(&name)) {
            let read = from_file(&variables, &name, value);
            check.take(
                read.and_then(|text| text.map_or(Ok(()), |text| set(table, &name, key, text))),
            );
        }
    }
}

/// The key whose value is in the file that a variable names, if it names one. Some keys end so
/// themselves.
fn in_file<'a>(key: &'a str, known: &[String]) -> Option<&'a str> {
    let is_known = |key: &str| known.iter().any(|known| known == key);
    let of = key.strip_suffix("_file").filter(|of| is_known(of))?;
    (!is_known(key)).then_some(of)
}

/// The value in the file that a variable names, without the line break at its end. `None` if the
/// variable is empty.
fn from_file(
    variables: &BTreeMap<OsString, OsString>,
    name: &str,
    path: &OsStr,
) -> Result<Option<String>, WrongSetting> {
    if path.is_empty() {
        return Ok(None);
    }
    let wrong = |problem: &str| WrongSetting::new(name, problem);
    let other = &name[..name.len() - FROM_FILE.len()];
    if variables
        .get(OsStr::new(other))
        .is_some_and(|value| !value.is_empty())
    {
        return Err(wrong(&format!("and {other} are both set; set one of them")));
    }
    let unreadable = |error: std::io::Error| {
        wrong(&format!(
            "names a file that cannot be read: {}",
            error.kind()
        ))
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let most = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX);
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > MAX_FILE_BYTES {
        let problem = format!("names a file that is longer than {MAX_FILE_BYTES} bytes");
        return Err(wrong(&problem));
    }
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| wrong("names a file that is not UTF-8"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(wrong("names an empty file")),
        text => Ok(Some(text.to_owned())),
    }
}

fn set(table: &mut Table, name: &str, key: &str, text: String) -> Result<(), WrongSetting> {
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
            return Err(WrongSetting::new(shown(section), "must be a section").at(&node.origin));
        };
        table = inner;
    }
    let of_file = table.remove(key).map(Box::new);
    let value = Value::Variable { text, of_file };
    let origin = origin();
    table.insert(key.to_owned(), Node { value, origin });
    Ok(())
}

/// Refuses a variable with a single underscore after the prefix if the rest names a key or section.
/// Other variables share the prefix: for a Service of that name, Kubernetes sets `ROUNDTRIP_PORT`,
/// `ROUNDTRIP_INGRESS_SERVICE_HOST` and the like in every container.
fn refuse_if_meant(name: &str, rest: &str, keys: &[String]) -> Result<(), WrongSetting> {
    let flat = |key: &str| key.replace(BETWEEN, "_").to_ascii_uppercase();
    let sections = keys.iter().filter_map(|key| key.split('.').next());
    let meant = keys.iter().map(String::as_str).chain(sections);
    let meant = meant
        .map(|key| key.replace('.', BETWEEN))
        .find(|key| flat(key) == flat(rest));
    match meant {
        Some(key) => Err(WrongSetting::new(
            name,
            format!(
                "is not a variable of the gateway; write {PREFIX}_{}",
                key.to_ascii_uppercase()
            ),
        )),
        None if rest.contains(BETWEEN) => Err(WrongSetting::new(
            name,
            "is not a variable of the gateway; variables are named ROUNDTRIP__SECTION__KEY, with \
             double underscores",
        )),
        None => Ok(()),
    }
}
