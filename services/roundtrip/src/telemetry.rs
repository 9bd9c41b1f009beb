//! Logs: one line an event, as text for people or as JSON for machines.

use std::io::{IsTerminal, stdout};

use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::config::Problem;

/// The log's section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// What is logged: a level, or `tracing`'s filter directives.
    pub level: String,
    /// In what form.
    pub format: Format,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For machines: an object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: Format::Text,
        }
    }
}

/// lapin logs a returned message with its whole body, and each attempt to connect; the broker crate
/// logs what matters of both. `lapin=…` in `log.level` overrides it.
const QUIET: &str = "lapin=off";

/// Starts to log, to standard output.
pub(crate) fn start(config: &Config) -> Result<(), Problem> {
    // A misspelt level would be taken for the name of a module, and silence everything.
    let named_alone = !config.level.contains(['=', ',', '[']);
    if named_alone && config.level.parse::<LevelFilter>().is_err() {
        return Err(Problem::key(
            "log.level",
            "must be error, warn, info, debug, trace or off",
        ));
    }
    let filter = EnvFilter::try_new(format!("{QUIET},{}", config.level)).map_err(|_| {
        Problem::key(
            "log.level",
            "must be a level, or filter directives as of info,roundtrip_ingress=debug",
        )
    })?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stdout().is_terminal());
    match config.format {
        Format::Text => logs.init(),
        Format::Json => logs.json().flatten_event(true).init(),
    }
    Ok(())
}
