//! Why a store could not be opened.

use roundtrip_files::sqlite;
use roundtrip_model::WrongSettings;

/// Why the store could not be opened. Each message is one line without credentials.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Settings(#[from] WrongSettings),
    #[error(transparent)]
    File(#[from] sqlite::OpenError),
}
