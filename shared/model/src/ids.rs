//! Ids. Each kind is a type of its own, so that one cannot be passed for another.
//!
//! Ids that Roundtrip generates have a prefix (`msg_`, `cb_`) and a UUIDv7, so they sort by creation
//! time. The id of an awaited message is a UUIDv8 that begins like a UUIDv7 and ends with the
//! mailbox of the process that waits. Ids that clients choose (channels, sessions) are checked once,
//! when they are parsed.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::{OffsetDateTime, macros::datetime};
use uuid::Uuid;

use crate::millis;

/// The latest time that RFC 3339 can show, in milliseconds.
const LATEST: OffsetDateTime = datetime!(9999-12-31 23:59:59.999 UTC);

/// The longest channel id, in characters (all of them ASCII).
pub const MAX_CHANNEL_ID: usize = 128;

pub const MAX_SESSION_ID_CHARS: usize = 512;

/// Words that the API's paths use in the place of a channel id.
const RESERVED_CHANNEL_IDS: [&str; 2] = ["message", "messages"];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A channel id is empty, too long, or has a character outside `[A-Za-z0-9._~-]`.
    #[error("must be 1 to {MAX_CHANNEL_ID} characters of A-Z a-z 0-9 . _ ~ -")]
    ChannelForm,
    /// The API's paths use this word, or a client's URL library would resolve it away (`.` and
    /// `..`).
    #[error("'{0}' is reserved and cannot be a channel id")]
    ChannelReserved(String),
    #[error("must be 1 to {MAX_SESSION_ID_CHARS} characters, none of them a control character")]
    SessionForm,
    /// The prefix is missing, or the rest is not a UUID.
    #[error("must be '{0}' and a UUID of 32 hexadecimal digits")]
    MadeForm(&'static str),
}

/// Declares an id that Roundtrip generates: a prefix and a UUIDv7.
macro_rules! made_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            const PREFIX: &'static str = $prefix;

            pub const LENGTH: usize = Self::PREFIX.len() + uuid::fmt::Simple::LENGTH;

            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", Self::PREFIX, self.0.as_simple())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(Self::PREFIX)
                    // `Uuid` also reads other spellings; an id has exactly one.
                    .filter(|rest| rest.len() == uuid::fmt::Simple::LENGTH)
                    .filter(|rest| !rest.bytes().any(|b| b.is_ascii_uppercase()))
                    .and_then(|rest| Uuid::try_parse(rest).ok())
                    .map(Self)
                    .ok_or(IdError::MadeForm(Self::PREFIX))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(de::Error::custom)
            }
        }
    };
}

made_id! {
    /// An accepted message. It is also the `webhook-id`, the same on every attempt.
    MessageId, "msg_"
}

impl MessageId {
    /// The id of a message for whose answer a process waits at this mailbox. It is a UUIDv7 whose
    /// last random bytes are the mailbox, and has the version 8.
    pub fn awaited_at(mailbox: MailboxId) -> Self {
        let mut bytes = Uuid::now_v7().into_bytes();
        if let Some(end) = bytes.last_chunk_mut() {
            *end = mailbox.0;
        }
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    /// Where its answer is awaited, if a process waited for it when it was sent.
    pub fn mailbox(&self) -> Option<MailboxId> {
        let is_awaited = self.0.get_version() == Some(uuid::Version::Custom);
        let mailbox = self.bytes().last_chunk().copied();
        mailbox.filter(|_| is_awaited).map(MailboxId)
    }

    pub(crate) const fn bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// When it was made, to the millisecond: it begins with its time.
    ///
    /// An id from another program may hold a time that RFC 3339 cannot show. The result is then the
    /// latest time that it can show.
    pub fn made_at(&self) -> OffsetDateTime {
        let millis = i64::try_from(self.0.as_u128() >> 80).unwrap_or(i64::MAX);
        millis::time(millis).unwrap_or(LATEST)
    }

    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

/// The address of a process for notes about the answers that it waits for. It is chosen at random when
/// the process starts. It is public: it says where an answer goes, and grants nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MailboxId([u8; MAILBOX_BYTES]);

/// Few enough to leave a [`MessageId`] its time and its counter.
const MAILBOX_BYTES: usize = 4;

impl MailboxId {
    pub fn generate() -> Self {
        let [.., a, b, c, d] = Uuid::new_v4().into_bytes();
        Self([a, b, c, d])
    }
}

impl fmt::Display for MailboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

made_id! {
    /// An accepted callback, and the `webhook-id` of its forward. If a callback token names the
    /// message, the id is derived from the answer (a UUIDv8). Then an answer that is posted again
    /// has the same id.
    CallbackId, "cb_"
}

impl CallbackId {
    pub(crate) const fn derived(digest: [u8; 16]) -> Self {
        Self(uuid::Builder::from_custom_bytes(digest).into_uuid())
    }
}

made_id! {
    /// A notice, and its `webhook-id`. It is derived from what the notice is about and from a window
    /// of time (a UUIDv8), so that two processes give a repeated notice the same id.
    NoticeId, "ntc_"
}

impl NoticeId {
    pub(crate) const fn derived(digest: [u8; 16]) -> Self {
        Self(uuid::Builder::from_custom_bytes(digest).into_uuid())
    }
}

made_id! {
    /// A journal entry. It distinguishes a repeated entry from a second one.
    EntryId, "ent_"
}

impl EntryId {
    /// The id of the entry that says that a message is overdue: always the same for one replay count
    /// (a UUIDv8).
    pub(crate) fn of_overdue(message_id: &MessageId, replay_count: u32) -> Self {
        let bytes = message_id.0.as_u128() ^ u128::from(replay_count);
        Self(uuid::Builder::from_custom_bytes(bytes.to_be_bytes()).into_uuid())
    }
}

made_id! {
    ReplayId, "rpl_"
}

made_id! {
    /// An API key. The id is public; only the key's secret grants access.
    ApiKeyId, "key_"
}

/// Distinguishes the channels that have used one id, one after the other.
///
/// A channel id is free again after its channel is deleted; a uid is never reused. The store
/// assigns it and defines its form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChannelUid(String);

impl ChannelUid {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for ChannelUid {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Declares an id that a client chooses; its `TryFrom` checks it.
macro_rules! chosen_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::try_from(text.to_owned())
            }
        }
    };
}

chosen_id! {
    /// A channel, by the id that its owner chose: `[A-Za-z0-9._~-]{1,128}`, so that it needs no
    /// escaping in a URL.
    ChannelId
}

impl TryFrom<String> for ChannelId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        let fits = (1..=MAX_CHANNEL_ID).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b));
        if !fits {
            return Err(IdError::ChannelForm);
        }
        if RESERVED_CHANNEL_IDS.contains(&text.as_str()) || text == "." || text == ".." {
            return Err(IdError::ChannelReserved(text));
        }
        Ok(Self(text))
    }
}

chosen_id! {
    /// A session, by the id that its client chose. Roundtrip passes it on without interpreting it.
    SessionId
}

impl TryFrom<String> for SessionId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        let fits = (1..=MAX_SESSION_ID_CHARS).contains(&text.chars().count())
            && !text.chars().any(char::is_control);
        if fits {
            Ok(Self(text))
        } else {
            Err(IdError::SessionForm)
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_generated_id_parses_to_itself() {
        let id = MessageId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_message_id_contains_its_creation_time() {
        let id: MessageId = "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f".parse().unwrap();
        assert_eq!(id.made_at(), datetime!(2024-11-03 06:41:14.931 UTC));
        let forged: MessageId = "msg_ffffffffffff7c4d8e9f0a1b2c3d4e5f".parse().unwrap();
        assert_eq!(forged.made_at(), LATEST);
    }

    #[test]
    fn the_id_of_an_awaited_message_names_the_mailbox_and_its_creation_time() {
        let [before, after] = [(); 2].map(|()| MessageId::generate());
        assert_eq!(before.mailbox(), None);
        let mailbox = MailboxId::generate();
        let awaited = [(); 1000].map(|()| MessageId::awaited_at(mailbox));
        for id in awaited {
            assert_eq!(id.mailbox(), Some(mailbox));
            assert!(id.made_at() >= before.made_at() && id.made_at() >= after.made_at());
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        let distinct: std::collections::HashSet<_> = awaited.into_iter().collect();
        assert_eq!(distinct.len(), awaited.len());
    }

    #[rstest]
    #[case::no_prefix("0192f0c1a2b37c4d8e9f0a1b2c3d4e5f")]
    #[case::other_prefix("cb_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f")]
    #[case::hyphenated("msg_0192f0c1-a2b3-7c4d-8e9f-0a1b2c3d4e5f")]
    #[case::upper_case("msg_0192F0C1A2B37C4D8E9F0A1B2C3D4E5F")]
    #[case::empty("")]
    fn a_message_id_has_one_spelling(#[case] text: &str) {
        assert_eq!(
            text.parse::<MessageId>(),
            Err(IdError::MadeForm("msg_")),
            "{text}"
        );
    }

    #[rstest]
    #[case::plain("slack-sim")]
    #[case::every_kind("A.z_0~-")]
    #[case::longest(&"x".repeat(MAX_CHANNEL_ID))]
    #[case::three_dots("...")]
    fn a_valid_channel_id_is_accepted(#[case] text: &str) {
        assert_eq!(text.parse::<ChannelId>().unwrap().as_str(), text);
    }

    #[rstest]
    #[case::empty("")]
    #[case::too_long(&"x".repeat(MAX_CHANNEL_ID + 1))]
    #[case::slash("a/b")]
    #[case::space("a b")]
    #[case::beyond_ascii("kanal-ä")]
    #[case::reserved("message")]
    #[case::reserved_too("messages")]
    #[case::dot(".")]
    #[case::dots("..")]
    fn a_channel_id_that_does_not_fit_is_refused(#[case] text: &str) {
        assert!(text.parse::<ChannelId>().is_err(), "{text}");
    }

    #[rstest]
    #[case::empty("")]
    #[case::too_long(&"x".repeat(MAX_SESSION_ID_CHARS + 1))]
    #[case::control("a\nb")]
    fn a_session_id_that_does_not_fit_is_refused(#[case] text: &str) {
        assert_eq!(text.parse::<SessionId>(), Err(IdError::SessionForm));
    }
}
