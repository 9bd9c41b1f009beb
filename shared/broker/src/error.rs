//! The crate's errors.

use std::path::PathBuf;

use roundtrip_model::WrongSettings;

/// Why a publish failed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The broker is unreachable, or was closed.
    #[error("the broker is unavailable: {0}")]
    Unavailable(String),
    /// The broker refuses: blocked, a full queue, a full disk.
    #[error("the broker refuses: {0}")]
    Refused(String),
    /// The message exceeds the broker's size limit, so a repeat fails too. Smaller messages are
    /// accepted.
    #[error("the message is larger than the broker accepts (RabbitMQ's max_message_size)")]
    TooLarge,
    /// No confirm arrived in time. The message may or may not have been stored.
    #[error("the broker did not confirm in time")]
    Unconfirmed,
}

/// A delivery could not be settled; the broker will deliver it again.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The delivery's connection (embedded: the process's lease) is gone.
    #[error("the delivery's lease is gone: {0}")]
    Lost(String),
    /// The broker did not accept the next attempt or the dead letter; the delivery returned
    /// unchanged to its queue.
    #[error(transparent)]
    NotTaken(#[from] PublishError),
}

/// The broker was closed.
#[derive(Debug, thiserror::Error)]
#[error("the broker was closed")]
pub struct Closed;

/// Why a broker could not be opened. Each error is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Settings are wrong.
    #[error(transparent)]
    Settings(#[from] WrongSettings),
    /// Another process has the file open.
    #[error(
        "{} is in use by another process: stop that one, or give this one a broker.url of its own \
         (only RabbitMQ can be shared between processes)",
        .0.display()
    )]
    InUse(PathBuf),
    /// A newer Roundtrip wrote the file.
    #[error(
        "{} has the schema version {found}, and this Roundtrip knows versions up to {known}: run \
         the newer Roundtrip that wrote it",
        path.display()
    )]
    NewerSchema {
        /// The file's path.
        path: PathBuf,
        /// The file's schema version.
        found: i64,
        /// The newest version that this build supports.
        known: i64,
    },
    /// The file cannot be opened, created or read.
    #[error("cannot open {}: {source}", path.display())]
    File {
        /// The file's path.
        path: PathBuf,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
