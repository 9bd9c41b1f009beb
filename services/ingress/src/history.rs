//! What happened to messages: their timelines, dead letters, and replays.

pub(crate) mod dead_letters;
mod entry;
pub(crate) mod messages;
pub(crate) mod replays;
pub(crate) mod waiting;
