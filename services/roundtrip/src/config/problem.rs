//! Configuration errors.
//!
//! Invariant: each problem is one line, names the key and shows no value that could be secret. The
//! text is the gateway's own: a library's message may quote what it cannot read. All problems that
//! can be found together are reported together.

use std::{fmt, process::ExitCode};

use roundtrip_model::redacted;

use super::{EXIT_USAGE, tree::Origin};

/// One or more problems, a line each.
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

    /// A problem with the value at one place.
    pub(super) fn at(origin: &Origin, problem: impl AsRef<str>) -> Self {
        Self::line(format!("{origin}: {}", problem.as_ref()))
    }

    /// A problem whose message names its key.
    pub(crate) fn of_error(error: &dyn std::error::Error) -> Self {
        Self::line(chain(error))
    }

    /// A problem whose message names its key within a section.
    pub(crate) fn section(section: &str, error: &dyn std::error::Error) -> Self {
        Self::line(format!("{section}.{}", chain(error)))
    }

    /// No call could be authorized.
    pub(crate) fn no_key() -> Self {
        Self::line(
            "there is no API key, so every call would be refused; make one with `roundtrip keys \
             create --name first --role operator`, or set operator_key (OPERATOR_KEY)"
                .to_owned(),
        )
    }

    /// Appends this problem to those of an earlier step.
    pub(super) fn after(self, earlier: Result<(), Self>) -> Self {
        let mut lines = earlier.map_or_else(|Self(lines)| lines, |()| Vec::new());
        lines.extend(self.0);
        Self(lines)
    }

    /// Fails with all problems among the results, if there are any.
    pub(super) fn all(results: impl IntoIterator<Item = Result<(), Self>>) -> Result<(), Self> {
        let problems = results.into_iter().filter_map(Result::err);
        let lines: Vec<String> = problems.flat_map(|Self(lines)| lines).collect();
        if lines.is_empty() {
            Ok(())
        } else {
            Err(Self(lines))
        }
    }

    /// Prints the problems and returns the exit status.
    pub(crate) fn exit(&self) -> ExitCode {
        eprintln!("{}", redacted(&self.to_string()));
        ExitCode::from(EXIT_USAGE)
    }
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line = format!("{line}: {error}");
        source = error.source();
    }
    line.replace('\n', " ")
}
