//! Files and folders that only the process's own user may read, and SQLite databases in them. They
//! hold messages and keys.
//!
//! Invariant: a file made here is private from its first moment. [`is_open_to_others`] reports who
//! may read an existing one.

mod private;
pub mod sqlite;

pub use private::{create_new, is_open_to_others};
