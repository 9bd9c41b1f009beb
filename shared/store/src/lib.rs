//! Storage for channels and messages, behind traits with two engines: MongoDB, and an embedded one
//! on SQLite.
//!
//! Invariant: both engines return the same for the same call, including the query filter. One
//! contract suite tests both. A document that another client wrote to the database, with only the
//! five fields of `ChannelStoreObject`, works.
//!
//! No type of the mongodb or rusqlite crates leaves this crate.

#![warn(missing_docs)]

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
mod open;
mod open_error;
mod page;
mod secrets;
mod target;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use roundtrip_model::{
    Channel, ChannelId, ChannelPatch, ChannelUid, StoredChannel, channel::FieldError,
};

pub use cache::{CachedChannels, KnownChannel};
pub use config::Config;
pub use filter::{Filter, FilterError};
pub use keys::{ApiKeys, MAX_ACTIVE_KEYS, MAX_KEYS_UNDER_ONE};
pub use ledger::{
    DeadFilter, DeadLetter, DeadLetters, DeadQueue, Detail, FIRST_ENTRIES, Idempotency, Journal,
    MAX_ENTRIES, MAX_PAGE, MAX_RUNNING_REPLAYS, MessageFilter, MessageRecord, Progress, Replay,
    ReplayFilter, ReplaySource, ReplayStatus, Replays, Reservation, StateFilter,
};
pub use open::open;
pub use open_error::OpenError;
pub use page::{
    ChannelPage, Cursor, DEFAULT_LIMIT, Direction, MAX_LIMIT, MAX_PAGE_BYTES, PageRequest, Sort,
    SortField,
};
pub use secrets::{SealedSecret, Secrets, SharedSecrets, Signing};
pub use target::DeliveryTarget;

/// Storage for channels.
#[async_trait]
pub trait Channels: Send + Sync + 'static {
    /// Adds a channel.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`] if the id is taken; [`StoreError::Unstorable`].
    async fn create(&self, channel: &Channel) -> Result<Version, StoreError>;

    /// The channel with this id.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`]; [`StoreError::Unreadable`] if another client's document is not a
    /// channel.
    async fn get(&self, id: &ChannelId) -> Result<Versioned, StoreError>;

    /// Only what a delivery needs of the channel with this id.
    ///
    /// # Errors
    ///
    /// As for [`Channels::get`].
    async fn target(&self, id: &ChannelId) -> Result<DeliveryTarget, StoreError>;

    /// Replaces the fields that the patch sets, atomically, and returns the whole channel.
    ///
    /// Unknown fields stay in the document. A metadata value that is equal to the old one keeps the
    /// type that another client gave it. A pause is kept unless the new metadata names it.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`]. [`StoreError::Changed`] if the stored version is not `expected`,
    /// or if others keep changing the metadata. [`StoreError::Unstorable`].
    async fn update(
        &self,
        id: &ChannelId,
        patch: &ChannelPatch,
        expected: Option<&Version>,
    ) -> Result<Versioned, StoreError>;

    /// Pauses or resumes a channel atomically, and returns the whole channel. Writes only
    /// `channel_metadata.delivery.paused`, and only if it changes.
    ///
    /// With a `uid`, only that channel: a later channel with the same id is not paused.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`], also for another uid. [`StoreError::Changed`] if others keep
    /// changing the channel. [`StoreError::Unstorable`] if its metadata is not an object.
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

    /// A page of the matching channels. It ends at its limit or at [`MAX_PAGE_BYTES`], whichever
    /// comes first, and has at least one channel if any is left.
    ///
    /// # Errors
    ///
    /// [`StoreError::TooCostly`], [`StoreError::TooBusy`] and [`StoreError::Unavailable`] only.
    /// Filters and cursors are checked when they are parsed.
    async fn query(&self, filter: &Filter, page: &PageRequest) -> Result<ChannelPage, StoreError>;

    /// Whether the store is available now.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unavailable`].
    async fn ping(&self) -> Result<(), StoreError>;

    /// Stops the store's background tasks and waits for them, up to a limit. No call may follow.
    async fn close(&self) {}
}

/// Channels that roles share.
pub type SharedChannels = Arc<dyn Channels>;

/// A whole store. A role takes the trait that it needs; an `Arc<dyn Store>` converts to each.
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
    /// Differs after every change of the channel's five fields, by any client.
    pub version: Version,
}

/// A version of a channel: a digest of its five fields, so that it also shows changes by other
/// clients of the database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(String);

impl Version {
    /// The version of this content.
    #[must_use]
    pub fn of(channel: &StoredChannel) -> Self {
        Self(digest(&serde_json::to_vec(channel).unwrap_or_default()))
    }

    /// A version as a client names it. Any text is valid; it may match no version.
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

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A channel with this id already exists.
    #[error("a channel with the id '{0}' exists")]
    Exists(ChannelId),
    /// There is no channel with this id.
    #[error("there is no channel with the id '{0}'")]
    NotFound(ChannelId),
    /// The stored version is not the expected one.
    #[error("the channel '{0}' has changed meanwhile")]
    Changed(ChannelId),
    /// A document written by another client is not a channel.
    #[error("the stored document of '{id}' is no channel: {problem}")]
    Unreadable {
        /// The document's id.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A field holds a value that no engine could return, such as a key with a NUL character.
    #[error("cannot be stored: {0}")]
    Unstorable(FieldError),
    /// The limit on active API keys is reached.
    #[error("no more than {MAX_ACTIVE_KEYS} API keys can be active at once")]
    TooMany,
    /// The limit on active API keys under one key that is limited to channels is reached.
    #[error("no more than {MAX_KEYS_UNDER_ONE} API keys that a limited one has made can be active")]
    TooManyUnderOne,
    /// The limit on running replays of one key is reached.
    #[error("no more than {MAX_RUNNING_REPLAYS} replays of one key can run at once")]
    TooManyReplays,
    /// A query exceeded its budget or its time limit. The store itself is available.
    #[error("the query is too costly")]
    TooCostly,
    /// Too many queries are running, and none ended in time. The store itself is available.
    #[error("too many queries are under way")]
    TooBusy,
    /// The store is unavailable or failed. The source gives the cause.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The source of [`StoreError::Unavailable`] if no response came in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
pub(crate) struct TimedOut(pub(crate) std::time::Duration);
