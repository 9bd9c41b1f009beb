//! Channels, and what is kept of messages, behind traits with two engines: MongoDB, and an embedded
//! one on SQLite.
//!
//! Invariant: both engines give the same answer to the same call, the query filter included; one
//! contract suite holds them to it. A document that another client wrote straight into the
//! database, with only the seed's fields, works.
//!
//! No type of the mongodb crate's or rusqlite's leaves this crate.

mod cache;
mod canonical;
mod config;
#[cfg(feature = "contract")]
pub mod contract;
mod document;
pub mod embedded;
pub mod filter;
mod keys;
mod ledger;
mod mongo;
mod page;
mod secrets;
mod target;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use roundtrip_model::{
    Channel, ChannelId, ChannelPatch, ChannelUid, StoredChannel, channel::FieldError,
};

pub use cache::{CachedChannels, KnownChannel};
pub use config::{Config, OpenError, open};
pub use filter::{Filter, FilterError};
pub use keys::{ApiKeys, MAX_ACTIVE_KEYS, MAX_KEYS_UNDER_ONE};
pub use ledger::{
    DeadFilter, DeadLetter, DeadLetters, DeadQueue, Detail, FIRST_ENTRIES, Idempotency, Journal,
    MAX_ENTRIES, MAX_PAGE, MAX_RUNNING_REPLAYS, MessageFilter, MessageRecord, Progress, Replay,
    ReplayFilter, ReplaySource, ReplayStatus, Replays, Reservation, StateFilter,
};
pub use page::{
    ChannelPage, Cursor, DEFAULT_LIMIT, Direction, MAX_LIMIT, MAX_PAGE_BYTES, PageRequest, Sort,
    SortField,
};
pub use secrets::{SealedSecret, Secrets, SharedSecrets, Signing};
pub use target::DeliveryTarget;

/// Where channels are kept.
#[async_trait]
pub trait Channels: Send + Sync + 'static {
    /// Adds a channel.
    ///
    /// # Errors
    /// [`StoreError::Exists`] where the id is taken; [`StoreError::Unstorable`].
    async fn create(&self, channel: &Channel) -> Result<Version, StoreError>;

    /// The channel with this id.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Unreadable`] where a foreign document is no channel.
    async fn get(&self, id: &ChannelId) -> Result<Versioned, StoreError>;

    /// What a delivery needs of the channel with this id. The rest is not read.
    ///
    /// # Errors
    /// As for [`Channels::get`].
    async fn target(&self, id: &ChannelId) -> Result<DeliveryTarget, StoreError>;

    /// Replaces the fields that the patch names, in one atomic step, and answers with the whole.
    ///
    /// Fields that Roundtrip does not know stay in the document. Within metadata that is replaced, a
    /// value that reads as before keeps the type that another client gave it. A pause stays unless
    /// the new metadata names it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Changed`] where `expected` names another version
    /// than the one that is stored, or others change the metadata again and again;
    /// [`StoreError::Unstorable`].
    async fn update(
        &self,
        id: &ChannelId,
        patch: &ChannelPatch,
        expected: Option<&Version>,
    ) -> Result<Versioned, StoreError>;

    /// Pauses or resumes a channel in one atomic step, and answers with the whole. Only
    /// `channel_metadata.delivery.paused` is written, and only where it changes.
    ///
    /// With a `uid`, only that channel: a later one under the same id is another's.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], also for another uid; [`StoreError::Changed`] where others change
    /// the channel again and again; [`StoreError::Unstorable`] where its metadata is no object.
    async fn set_paused(
        &self,
        id: &ChannelId,
        uid: Option<&ChannelUid>,
        paused: bool,
    ) -> Result<Versioned, StoreError>;

    /// Removes a channel, and its secrets.
    ///
    /// # Errors
    /// As for [`Channels::update`].
    async fn delete(&self, id: &ChannelId, expected: Option<&Version>) -> Result<(), StoreError>;

    /// The channels that match, a page at a time. A page ends at its limit or at [`MAX_PAGE_BYTES`],
    /// whichever comes first, and holds one channel at the least where one is left.
    ///
    /// # Errors
    /// [`StoreError::TooCostly`], [`StoreError::TooBusy`] and [`StoreError::Away`] only: a filter and
    /// a cursor are checked when they are parsed.
    async fn query(&self, filter: &Filter, page: &PageRequest) -> Result<ChannelPage, StoreError>;

    /// Whether the store answers now.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn ping(&self) -> Result<(), StoreError>;

    /// Ends what the store does in the background, and waits for it, up to a limit. The last call.
    async fn close(&self) {}
}

/// Channels that roles share.
pub type SharedChannels = Arc<dyn Channels>;

/// A whole store. A role asks for the trait that it needs: an `Arc<dyn Store>` is one of each.
pub trait Store:
    Channels + Secrets + Journal + DeadLetters + Replays + Idempotency + ApiKeys
{
}

impl<T> Store for T where
    T: Channels + Secrets + Journal + DeadLetters + Replays + Idempotency + ApiKeys
{
}

/// A store that roles share.
pub type SharedStore = Arc<dyn Store>;

/// A channel as it is stored, and its version.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned {
    /// The channel.
    pub channel: StoredChannel,
    /// Changes with every change of the channel's five fields, whoever makes it.
    pub version: Version,
}

/// A version of a channel: a digest of its five fields, so that a change by another client of the
/// database counts too.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(String);

impl Version {
    /// The version of this content.
    #[must_use]
    pub fn of(channel: &StoredChannel) -> Self {
        Self(digest(&serde_json::to_vec(channel).unwrap_or_default()))
    }

    /// A version as a client names it; any text, which may be no version at all.
    #[must_use]
    pub fn named(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 128 bits of a digest, in hexadecimal.
fn digest(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(bytes);
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    format!("{:032x}", u128::from_be_bytes(half))
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is a channel with this id.
    #[error("a channel with the id '{0}' exists")]
    Exists(ChannelId),
    /// There is no channel with this id.
    #[error("there is no channel with the id '{0}'")]
    NotFound(ChannelId),
    /// The channel is not of the expected version.
    #[error("the channel '{0}' has changed meanwhile")]
    Changed(ChannelId),
    /// A document written by another client is not a channel.
    #[error("the stored document of '{id}' is no channel: {problem}")]
    Unreadable {
        /// Which.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A field holds what no engine could give back, such as a key with a NUL character.
    #[error("cannot be stored: {0}")]
    Unstorable(FieldError),
    /// As many API keys are active as there can be.
    #[error("no more than {MAX_ACTIVE_KEYS} API keys can be active at once")]
    TooMany,
    /// As many API keys are active as one that is limited to channels can have made.
    #[error("no more than {MAX_KEYS_UNDER_ONE} API keys that a limited one has made can be active")]
    TooManyUnderOne,
    /// A key has as many replays running as it may have.
    #[error("no more than {MAX_RUNNING_REPLAYS} replays of one key can run at once")]
    TooManyReplays,
    /// A query is too much work, or took too long. The store is well: it is the query.
    #[error("the query is too costly")]
    TooCostly,
    /// Too many queries are under way, and none of them ended in time. The store is well.
    #[error("too many queries are under way")]
    TooBusy,
    /// The store cannot be reached, or failed. The source says how.
    #[error("the store is away")]
    Away(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The source of [`StoreError::Away`] where no answer came in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
pub(crate) struct TimedOut(pub(crate) std::time::Duration);
