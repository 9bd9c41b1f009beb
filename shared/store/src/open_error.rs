//! Why a store could not be opened.

use roundtrip_files::sqlite;
use roundtrip_model::WrongSettings;

/// Why the store could not be opened. Each message is one line without credentials.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Settings are wrong.
    #[error(transparent)]
    Settings(#[from] WrongSettings),
    /// The embedded store's file cannot be used.
    #[error(transparent)]
    File(#[from] sqlite::OpenError),
}
