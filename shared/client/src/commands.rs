//! The commands, one file for each group.

pub(crate) mod answers;
pub(crate) mod api_keys;
mod batch;
pub(crate) mod channels;
pub(crate) mod dead_letters;
mod follow;
pub(crate) mod health;
mod list;
pub(crate) mod messages;
pub(crate) mod openapi;
mod replay;
pub(crate) mod replays;
pub(crate) mod send;
pub(crate) mod sessions;
mod tail;
mod watch;
