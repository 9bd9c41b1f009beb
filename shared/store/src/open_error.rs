//! Why a store could not be opened.

use std::path::PathBuf;

use roundtrip_model::WrongSettings;

/// Why the store could not be opened. Each message is one line without credentials.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Settings are wrong.
    #[error(transparent)]
    Settings(#[from] WrongSettings),
    /// The embedded store's file cannot be used.
    #[error("cannot open the store's file '{}'", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file belongs to another program, or to another part of Roundtrip.
    #[error("the file '{}' is not a Roundtrip store", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A newer version of Roundtrip wrote the embedded store's file.
    #[error(
        "the store's file '{}' has schema {found}, and this version knows only up to {known}",
        .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The file's schema.
        found: i64,
        /// The newest schema that this version knows.
        known: i64,
    },
}
