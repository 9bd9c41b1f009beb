//! What is wrong with the configuration.
//!
//! Invariant: each problem is one line, names the key, and shows no value that could be secret: what
//! goes in here is the gateway's own words, never what a library says of a text that it could not
//! read. All problems that can be known at once are reported at once.

use std::{fmt, process::ExitCode};

use roundtrip_model::redacted;

use super::{EXIT_USAGE, tree::Origin};

/// What is wrong with the configuration, a line for each problem.
#[derive(Debug, thiserror::Error)]
pub(crate) struct Problem(Vec<String>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, line) in self.0.iter().enumerate() {
            let before = if number == 0 { "" } else { "\n" };
            write!(f, "{before}roundtrip: configuration: {line}")?;
        }
        Ok(())
    }
}

impl Problem {
    fn line(line: String) -> Self {
        Self(vec![line])
    }

    /// A problem with the value of one key.
    pub(crate) fn key(key: &str, problem: impl AsRef<str>) -> Self {
        Self::line(format!("{key} {}", problem.as_ref()))
    }

    /// A problem with what was written in one place.
    pub(super) fn at(origin: &Origin, problem: impl AsRef<str>) -> Self {
        Self::line(format!("{origin}: {}", problem.as_ref()))
    }

    /// A problem that says itself which key it means.
    pub(crate) fn said(error: &dyn std::error::Error) -> Self {
        Self::line(chain(error))
    }

    /// A problem that names its key within a section.
    pub(crate) fn section(section: &str, error: &dyn std::error::Error) -> Self {
        Self::line(format!("{section}.{}", chain(error)))
    }

    /// No call could be made.
    pub(crate) fn no_key() -> Self {
        Self::line(
            "there is no API key, so every call would be refused; make one with `roundtrip keys \
             create --name first --role operator`, or set operator_key (OPERATOR_KEY)"
                .to_owned(),
        )
    }

    /// This problem behind those of an earlier step.
    pub(super) fn after(self, earlier: Result<(), Self>) -> Self {
        let mut lines = earlier.map_or_else(|Self(lines)| lines, |()| Vec::new());
        lines.extend(self.0);
        Self(lines)
    }

    /// Fails with all of the problems among these, where there are any.
    pub(super) fn all(results: impl IntoIterator<Item = Result<(), Self>>) -> Result<(), Self> {
        let problems = results.into_iter().filter_map(Result::err);
        let lines: Vec<String> = problems.flat_map(|Self(lines)| lines).collect();
        if lines.is_empty() {
            Ok(())
        } else {
            Err(Self(lines))
        }
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
