//! Files and folders that only the process's own user may read, and SQLite databases in them. They
//! hold messages and keys.
//!
//! Invariant: a file made here is private from its first moment. An existing file is neither opened
//! nor changed; [`is_open_to_others`] reports who may read it.

mod private;
pub mod sqlite;

pub use private::{create_new, is_open_to_others};
