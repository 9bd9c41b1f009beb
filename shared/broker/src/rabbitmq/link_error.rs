//! Why a link, or a channel on it, fails, and the time limit on each step.

use std::{fmt, io, time::Duration};

use lapin::ErrorKind;
use tokio::time::timeout;

#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Lapin(#[from] lapin::Error),
    #[error("{what} took longer than {limit:?}")]
    TooSlow { what: &'static str, limit: Duration },
    #[error("the connection or its channel was closed")]
    Ended,
    #[error("{0}")]
    Lookup(#[source] io::Error),
    #[error("{0} no longer answers")]
    Silent(String),
    #[error("{}", HostErrors(.0))]
    NoHost(Vec<(String, LinkError)>),
}

struct HostErrors<'a>(&'a [(String, LinkError)]);

impl fmt::Display for HostErrors<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (host, error)) in self.0.iter().enumerate() {
            let separator = if place > 0 { "; " } else { "" };
            write!(f, "{separator}{host}: {error}")?;
        }
        Ok(())
    }
}

impl LinkError {
    /// Whether the broker closed only a channel, so that the connection is still good.
    pub(super) fn closed_channel(&self) -> bool {
        matches!(self, Self::Lapin(error) if error.is_amqp_soft_error())
    }

    pub(super) fn reply_code(&self) -> Option<u16> {
        match self {
            Self::Lapin(error) => match error.kind() {
                ErrorKind::ProtocolError(error) => Some(error.get_id()),
                _ => None,
            },
            _ => None,
        }
    }
}

pub(super) async fn limited<T, E: Into<LinkError>>(
    what: &'static str,
    limit: Duration,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, LinkError> {
    match timeout(limit, step).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(LinkError::TooSlow { what, limit }),
    }
}
