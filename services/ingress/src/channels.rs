//! The calls of channels.

mod crud;
mod endpoint;
mod etag;
mod pause;
pub(crate) mod query;
mod secret;

pub(crate) use crud::{create, delete, read, update};
pub(crate) use pause::{pause, resume};
pub(crate) use query::query;
pub(crate) use secret::rotate;
