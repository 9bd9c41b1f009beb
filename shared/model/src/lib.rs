//! The domain model: ids, channels, messages, callbacks, and the rules for judging and retrying a
//! delivery.
//!
//! Invariant: this crate does no I/O, reads no clock and draws no random numbers. Time and
//! randomness are parameters, so that every rule is a pure function and can be tested.

pub mod callback;
pub mod channel;
pub mod clock;
pub mod config;
pub mod decision;
mod field_error;
pub mod ids;
pub mod journal;
pub mod key;
mod log_throttle;
pub mod message;
pub mod millis;
mod named;
pub mod notice;
pub mod outcome;
mod rate_limiter;
mod redacted;
pub mod response_url;
pub mod retry;
pub mod sealing;
pub mod settings;
pub mod signing;
pub mod token;
pub mod waiting;

pub use callback::Callback;
pub use channel::{Channel, ChannelPatch, StoredChannel};
pub use clock::{Clock, SystemClock};
pub use config::{Check, WrongSetting, WrongSettings};
pub use decision::{DeadReason, Decision};
pub use ids::{
    ApiKeyId, CallbackId, ChannelId, ChannelUid, EntryId, MailboxId, MessageId, NoticeId, ReplayId,
    SessionId,
};
pub use journal::{Entry, Event, MessageKind, State};
pub use key::{ApiKey, IssuedKey, KeyBounds, KeyHash, KeyRole, NewKey, PresentedKey};
pub use log_throttle::LogThrottle;
pub use message::OutboundMessage;
pub use notice::{Notice, NoticeEvent};
pub use outcome::{Outcome, Verdict};
pub use rate_limiter::RateLimiter;
pub use redacted::redacted;
pub use retry::{Next, RetryPolicy};
pub use sealing::SealingKeys;
pub use settings::DeliverySettings;
pub use signing::{Signer, SigningSecret};
pub use token::TokenKeys;
pub use waiting::Waiting;
