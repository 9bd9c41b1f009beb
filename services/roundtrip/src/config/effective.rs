//! `roundtrip config check`: every setting with its value and where it comes from.
//!
//! Invariant: no secret is shown. A key that is never serialized is a secret, and of a URL only the
//! scheme, the host and the port are shown, because the rest may hold a password.

use roundtrip_client::{Output, Table, json};
use roundtrip_model::redacted;
use serde::Serialize;
use url::Url;

use super::{
    Config, known,
    tree::{self, Node},
};

const SECRET: &str = "(a secret)";
const EMPTY: &str = "(empty)";
const NOT_SET: &str = "(not set)";
const HIDDEN: char = '…';

/// Channels receive this URL, so it has no secret; the check of the configuration sees to it.
const PUBLIC_URL: &str = "public_url";

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    key: String,
    /// `None` if it is not set.
    value: Option<String>,
    origin: String,
}

pub(super) fn settings(config: &Config, written: &tree::Table) -> Vec<Setting> {
    // Every section serializes to an object.
    let values = serde_json::to_value(config).unwrap_or_default();
    let settings = known::keys().into_iter().map(|key| {
        let pointer = format!("/{}", key.replace('.', "/"));
        let value = values.pointer(&pointer);
        let node = node(written, &key).and_then(|node| in_effect(node, value));
        let value = match value {
            Some(value) => Some(text(&key, value)),
            None => node.map(|_| SECRET.to_owned()),
        };
        let origin = match node {
            None => "default".to_owned(),
            Some(node) => node.origin.to_string(),
        };
        Setting { key, value, origin }
    });
    settings.collect()
}

/// What is written for a key.
fn node<'a>(written: &'a tree::Table, key: &str) -> Option<&'a Node> {
    let (mut table, mut names) = (written, key.split('.'));
    loop {
        let node = table.get(names.next()?)?;
        match &node.value {
            tree::Value::Section(inner) => table = inner,
            _ => return names.next().is_none().then_some(node),
        }
    }
}

/// The written value that holds: of an empty variable that means "not set" it is the file's.
fn in_effect<'a>(node: &'a Node, value: Option<&serde_json::Value>) -> Option<&'a Node> {
    let is_empty = value.is_some_and(|value| value == "" || *value == serde_json::json!([]));
    match &node.value {
        tree::Value::Variable { text, of_file } if text.is_empty() && !is_empty => {
            of_file.as_deref()
        }
        _ => Some(node),
    }
}

fn text(key: &str, value: &serde_json::Value) -> String {
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(entries) => {
            let entries: Vec<String> = entries.iter().map(text_of).collect();
            if entries.is_empty() {
                return EMPTY.to_owned();
            }
            entries.join(", ")
        }
        other => other.to_string(),
    };
    if key == PUBLIC_URL || !key.ends_with("url") && !text.contains("://") {
        return redacted(&text).into_owned();
    }
    url(&text)
}

fn text_of(entry: &serde_json::Value) -> String {
    let text = entry.as_str();
    text.map_or_else(|| entry.to_string(), str::to_owned)
}

/// A URL without what may hold a password: a mistyped one may begin with it.
fn url(text: &str) -> String {
    if text.starts_with("sqlite:") {
        return text.to_owned();
    }
    let is_http = text.starts_with("http://") || text.starts_with("https://");
    match Url::parse(text) {
        Ok(url) if is_http => {
            let rest = if url.path() == "/" && url.query().is_none() {
                String::new()
            } else {
                HIDDEN.to_string()
            };
            format!("{}/{rest}", url.origin().ascii_serialization())
        }
        _ => {
            let scheme = ["amqp://", "amqps://", "mongodb://", "mongodb+srv://"];
            let scheme = scheme.into_iter().find(|scheme| text.starts_with(scheme));
            format!("{}{HIDDEN}", scheme.unwrap_or_default())
        }
    }
}

/// The settings as a table, or as JSON.
pub(crate) fn shown(settings: &[Setting], output: Output) -> String {
    match output {
        Output::Json => {
            let lines = settings.iter().map(|setting| {
                let line = serde_json::to_string(setting).unwrap_or_default();
                format!("{}\n", json(&line))
            });
            lines.collect()
        }
        Output::Table => {
            let mut table = Table::new(&["KEY", "FROM", "VALUE"]);
            for Setting { key, value, origin } in settings {
                let value = value.as_deref().unwrap_or(NOT_SET);
                table.row([key, origin, value]);
            }
            table.lines(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, ffi::OsString};

    use roundtrip_model::Check;

    use super::{
        super::{environment, file, reading},
        *,
    };

    fn of(file: &str, variables: &[(&str, &str)]) -> BTreeMap<String, (Option<String>, String)> {
        let mut check = Check::default();
        let mut table = file::parse("r.toml".into(), file).unwrap();
        let variables = variables.iter();
        let variables = variables.map(|(name, value)| (OsString::from(name), value.into()));
        environment::lay_over(&mut table, variables, &mut check);
        let config = reading::read_all(table.clone(), &mut check);
        let config = check.end_with(config).unwrap();
        let settings = settings(&config, &table).into_iter();
        settings
            .map(|Setting { key, value, origin }| (key, (value, origin)))
            .collect()
    }

    #[test]
    fn each_value_is_shown_with_its_origin() {
        let file = "drain = \"5s\"\n[egress]\nallow = [\"10.0.0.0/8\", \"a.example\"]\n";
        let variables = [
            ("ROUNDTRIP__DISPATCHER__CONCURRENCY", "7"),
            ("SESSIONS_SERVER", ""),
            ("ROUNDTRIP__NOTICES__URL", ""),
        ];
        let settings = of(file, &variables);
        for (key, value, origin) in [
            ("drain", Some("5s"), "r.toml, line 1, column 1"),
            (
                "egress.allow",
                Some("10.0.0.0/8, a.example"),
                "r.toml, line 3, column 1",
            ),
            (
                "dispatcher.concurrency",
                Some("7"),
                "ROUNDTRIP__DISPATCHER__CONCURRENCY",
            ),
            ("operations.listen", Some("127.0.0.1:8001"), "default"),
            ("broker.url", Some("sqlite:data/broker.db"), "default"),
            ("sessions_server", None, "default"),
            ("notices.url", None, "default"),
            ("operator_key", None, "default"),
        ] {
            let (shown, from) = &settings[key];
            assert_eq!((shown.as_deref(), from.as_str()), (value, origin), "{key}");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let variables = [
            ("CALLBACK_SECRET", "5ecret"),
            ("SESSIONS_SECRET", "5ecret"),
            ("ENCRYPTION_KEYS", "5ecret"),
            ("OPERATOR_KEY", "5ecret"),
            ("ROUNDTRIP__NOTICES__SECRET", "5ecret"),
            ("BROKER_URL", "amqp://user:5ecret@a,b/vhost"),
            ("STORE_URL", "5ecret:mongodb://host"),
            (
                "SESSIONS_SERVER",
                "https://user:5ecret@sessions.example:8443/5ecret?key=5ecret",
            ),
            ("ROUNDTRIP__NOTICES__URL", "https://hooks.example/5ecret"),
            (
                "ROUNDTRIP__BROKER__MANAGEMENT_URL",
                "http://user:5ecret@rabbit:15672",
            ),
        ];
        let settings = of("", &variables);
        assert!(!format!("{settings:?}").contains("5ecret"), "{settings:?}");
        let value = |key: &str| settings[key].0.clone().unwrap_or_default();
        for key in [
            "callback_secret",
            "encryption_keys",
            "operator_key",
            "notices.secret",
        ] {
            assert_eq!(value(key), SECRET, "{key}");
        }
        assert_eq!(value("sessions_server"), "https://sessions.example:8443/…");
        assert_eq!(value("broker.management_url"), "http://rabbit:15672/");
    }

    #[test]
    fn a_url_is_shown_without_what_may_be_a_password() {
        for (text, shown) in [
            ("mongodb://user:p@h/db", "mongodb://…"),
            ("http:/user:p@h/db", "…"),
            ("user:p", "…"),
            ("http://p@h", "http://h/"),
        ] {
            assert_eq!(url(text), shown);
        }
    }
}
