//! What is wrong with the configuration.
//!
//! Invariant: it is one line, names the key, and shows no value that could be secret: what goes in
//! here is the gateway's own words, never what a library says of a text that it could not read.

use std::process::ExitCode;

use roundtrip_model::redacted;

use super::{EXIT_USAGE, tree::Origin};

/// What is wrong with the configuration, in one line.
#[derive(Debug, thiserror::Error)]
#[error("roundtrip: configuration: {0}")]
pub(crate) struct Problem(String);

impl Problem {
    /// A problem with the value of one key.
    pub(crate) fn key(key: &str, problem: impl AsRef<str>) -> Self {
        Self(format!("{key} {}", problem.as_ref()))
    }

    /// A problem with what was written in one place.
    pub(super) fn at(origin: &Origin, problem: impl AsRef<str>) -> Self {
        Self(format!("{origin}: {}", problem.as_ref()))
    }

    /// A problem that says itself which key it means.
    pub(crate) fn said(error: &dyn std::error::Error) -> Self {
        Self(chain(error))
    }

    /// A problem that names its key within a section.
    pub(crate) fn section(section: &str, error: &dyn std::error::Error) -> Self {
        let Self(line) = Self::said(error);
        Self(format!("{section}.{line}"))
    }

    /// Nobody could call the gateway.
    pub(crate) fn no_key() -> Self {
        Self(
            "there is no API key, so nobody could call the gateway; make one with `roundtrip keys \
             create --name first --role operator`, or set operator_key (OPERATOR_KEY)"
                .to_owned(),
        )
    }

    /// Tells it, and what to exit with.
    pub(crate) fn exit(&self) -> ExitCode {
        eprintln!("{}", redacted(&self.to_string()));
        ExitCode::from(EXIT_USAGE)
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line = format!("{line}: {error}");
        source = error.source();
    }
    line.replace('\n', " ")
}
