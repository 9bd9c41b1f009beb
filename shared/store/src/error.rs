//! Why a store refused or failed: an error for each kind of call.

use std::{error::Error, sync::Arc};

use roundtrip_files::sqlite;
use roundtrip_model::{ChannelId, WrongSettings, channel::FieldError};

#[derive(Debug, Clone, thiserror::Error)]
#[error("the store is unavailable")]
pub struct Unavailable(#[source] Arc<dyn Error + Send + Sync>);

impl Unavailable {
    #[must_use]
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::from(cause.into()))
    }
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum ChannelError {
    #[error("a channel with the id '{0}' exists")]
    Exists(ChannelId),
    #[error("there is no channel with the id '{0}'")]
    NotFound(ChannelId),
    #[error("the channel '{0}' has changed meanwhile")]
    Changed(ChannelId),
    /// A document written by another client is not a channel.
    #[error("the stored document of '{id}' is no channel: {problem}")]
    Unreadable { id: String, problem: String },
    /// A field holds a value that no engine could return, such as a key with a NUL character.
    #[error("cannot be stored: {0}")]
    Unstorable(FieldError),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why the store could not be opened. Each message is one line without credentials.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Settings(#[from] WrongSettings),
    #[error(transparent)]
    File(#[from] sqlite::OpenError),
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum SecretsError {
    #[error("the secrets of the channel '{0}' have changed meanwhile")]
    Changed(ChannelId),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum QueryError {
    /// The query exceeded its budget or its time limit. The store itself is available.
    #[error("the query is too costly")]
    TooCostly,
    /// Too many queries are running, and none ended in time. The store itself is available.
    #[error("too many queries are under way")]
    TooBusy,
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
pub(crate) struct TimedOut(pub(crate) std::time::Duration);

/// Makes an engine's error the cause of each of these.
macro_rules! caused_by {
    ($cause:ty, $unavailable:path => $($error:ident)*) => {
        $(impl From<$cause> for $error {
            fn from(cause: $cause) -> Self {
                $unavailable(cause).into()
            }
        })*
    };
}
pub(crate) use caused_by;
