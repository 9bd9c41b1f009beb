//! How a command ends, and its exit status.
//!
//! Invariant: every status has one meaning, and the help and `docs/command-line.md` list them all.

use std::{fmt, io};

use crate::{problem::Problem, safe_text::safe};

/// For the help.
pub const EXIT_CODES: &str = "\
Exit status:
  0    done
  1    failed: a file or the terminal, a part of a batch, a cancelled replay, not ready
  2    the command line cannot be used, or a confirmation is missing
  3    the gateway refused the request (4xx)
  4    the gateway was not reached in time, or could not handle the request (5xx)
  5    not found (404)
  6    accepted, but no answer came within --wait
  64   the configuration of the gateway is wrong
  130  interrupted";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Refused = 3,
    Unavailable = 4,
    NotFound = 5,
    Unanswered = 6,
    Interrupted = 130,
}

#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line, a profile or a variable cannot be used.
    Usage(String),
    /// Something on this machine, or a part of the work, failed.
    Failed(String),
    Problem(Box<Problem>),
    NotFound(String),
    /// No whole response came.
    Unreachable(String),
    Unanswered(String),
    Interrupted(String),
    /// The reader of standard output has closed it, as `head` does.
    OutputClosed,
}

impl Failure {
    pub(crate) const fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Failed(_) => Exit::Failed,
            Self::NotFound(_) => Exit::NotFound,
            Self::Unreachable(_) => Exit::Unavailable,
            Self::Unanswered(_) => Exit::Unanswered,
            Self::Interrupted(_) => Exit::Interrupted,
            Self::OutputClosed => Exit::Done,
            Self::Problem(problem) => match problem.status {
                404 => Exit::NotFound,
                500.. => Exit::Unavailable,
                _ => Exit::Refused,
            },
        }
    }

    /// Whether the same request may succeed later.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Problem(problem) => problem.is_temporary(),
            Self::Unreachable(_) => true,
            _ => false,
        }
    }

    /// Whether the gateway did nothing, so that the call can be repeated safely.
    pub(crate) fn is_without_effect(&self) -> bool {
        matches!(self, Self::Problem(problem) if problem.is_without_effect())
    }
}

/// Every text is the command's own, or was escaped when the failure was made.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text)
            | Self::Failed(text)
            | Self::NotFound(text)
            | Self::Unreachable(text)
            | Self::Unanswered(text)
            | Self::Interrupted(text) => f.write_str(&safe(text)),
            Self::Problem(problem) => problem.fmt(f),
            Self::OutputClosed => f.write_str("standard output is closed"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Failed(error.to_string()),
        }
    }
}
