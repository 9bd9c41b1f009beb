//! Takes outbound messages and posts them to their channel's endpoint.
//!
//! Invariant: every message ends in one decision, which the worker loop carries out: done, retry,
//! dead letter, or snooze (which is no attempt). A message becomes a dead letter only for a reason
//! of its own or of its channel. An unavailable store or broker is never such a reason.

mod config;
mod dispatcher;
mod response_urls;
mod waiting_room;

pub use config::Config;
pub use dispatcher::Dispatcher;
pub use response_urls::ResponseUrls;
pub use waiting_room::WaitingRoom;
