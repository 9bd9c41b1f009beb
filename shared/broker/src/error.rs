//! The crate's errors.

use roundtrip_files::sqlite;
use roundtrip_model::WrongSettings;

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

#[derive(Debug, thiserror::Error)]
#[error("the broker was closed")]
pub struct Closed;

/// Why a broker could not be opened. Each error is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Settings(#[from] WrongSettings),
    #[error(transparent)]
    File(#[from] sqlite::OpenError),
    #[error("the broker's writer cannot run")]
    Thread(#[source] Box<dyn std::error::Error + Send + Sync>),
}
