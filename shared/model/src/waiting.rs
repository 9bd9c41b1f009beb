//! Why a message waits, and until when.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{millis, named::named};

named! {
    pub enum WaitReason {
        ChannelPaused = "channel_paused",
        /// This process has no encryption key that decrypts the channel's signing secret.
        SecretUnreadable = "secret_unreadable",
        StoreUnavailable = "store_unavailable",
        EndpointFailing = "endpoint_failing",
        /// Earlier messages of the channel wait in the store, because the channel could not take them.
        EarlierMessages = "earlier_messages",
        /// The breaker of the sessions server is open, for all answers or for the channel's.
        SessionsServerFailing = "sessions_server_failing",
        ChannelAtCapacity = "channel_at_capacity",
        RateLimited = "rate_limited",
        Retry = "retry",
        Scheduled = "scheduled",
    }
}

impl WaitReason {
    pub const fn detail(self) -> &'static str {
        match self {
            Self::ChannelPaused => {
                "the channel is paused; POST /channel/{channel_id}/resume delivers its messages"
            }
            Self::SecretUnreadable => {
                "the channel's signing secret cannot be decrypted with the dispatcher's \
                 ENCRYPTION_KEYS; every role needs the same keys"
            }
            Self::StoreUnavailable => {
                "the store is unavailable, so the channel's endpoint is not known"
            }
            Self::EndpointFailing => {
                "the channel's endpoint keeps failing; a few deliveries at a time probe it"
            }
            Self::EarlierMessages => {
                "earlier messages of the channel wait in the store, because the channel could not take \
                 them; GET /channel/{channel_id}/waiting shows why"
            }
            Self::SessionsServerFailing => {
                "the sessions server keeps failing, for this channel's answers or for all; a few \
                 answers at a time probe it"
            }
            Self::ChannelAtCapacity => {
                "the channel has reached its limit of concurrent deliveries (max_in_flight)"
            }
            Self::RateLimited => "the channel has reached rate_per_second",
            Self::Retry => {
                "the last attempt failed; the next one follows by the channel's retry schedule"
            }
            Self::Scheduled => "the message is scheduled for a later time (deliver_at)",
        }
    }

    /// Whether the channel's state decides how long it lasts.
    pub const fn is_of_channel(self) -> bool {
        matches!(self, Self::ChannelPaused | Self::EndpointFailing)
    }

    /// Whether it lasts until somebody acts. The others end by themselves.
    pub const fn lasts(self) -> bool {
        matches!(
            self,
            Self::ChannelPaused | Self::SecretUnreadable | Self::StoreUnavailable
        )
    }
}

/// Why a message waits in the store, and since or until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// It may be attempted from this time on, in milliseconds. What waits for its channel is due
    /// since its acceptance.
    #[serde(with = "crate::millis")]
    pub due_at: OffsetDateTime,
    pub reason: WaitReason,
}

impl Waiting {
    /// A wait until this time, in whole milliseconds.
    pub fn new(due_at: OffsetDateTime, reason: WaitReason) -> Self {
        let millisecond = millis::time(millis::of(due_at));
        Self {
            due_at: millisecond.unwrap_or(due_at),
            reason,
        }
    }

    /// The attempts of a message that begins to wait: a wait for a retry follows an attempt.
    pub fn attempts(&self, before: u32) -> u32 {
        before + u32::from(self.reason == WaitReason::Retry)
    }
}
