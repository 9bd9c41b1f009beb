//! What happened to messages: their timelines, dead letters, and replays.

mod answers;
pub(crate) mod dead_letters;
mod entry;
pub(crate) mod events;
pub(crate) mod messages;
pub(crate) mod replays;
pub(crate) mod sessions;
mod wait;
pub(crate) mod waiting;

pub(crate) use answers::ShownAnswer;
