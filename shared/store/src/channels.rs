//! Storage for channels.
//!
//! Invariant: each call reads or changes a channel atomically, also while other clients write to the
//! database.

use std::sync::Arc;

use async_trait::async_trait;
use roundtrip_model::{Channel, ChannelId, ChannelPatch, ChannelUid};

use crate::{
    ChannelError, ChannelPage, DeliveryTarget, Filter, PageRequest, QueryError, Unavailable,
    Version, Versioned,
};

#[async_trait]
pub trait Channels: Send + Sync + 'static {
    /// Adds a channel.
    ///
    /// # Errors
    ///
    /// [`ChannelError::Exists`] if the id is taken; [`ChannelError::Unstorable`].
    async fn create(&self, channel: &Channel) -> Result<Version, ChannelError>;

    /// The channel with this id.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`]; [`ChannelError::Unreadable`] if another client's document is not a
    /// channel.
    async fn get(&self, id: &ChannelId) -> Result<Versioned, ChannelError>;

    /// Only what a delivery needs of the channel with this id.
    async fn target(&self, id: &ChannelId) -> Result<DeliveryTarget, ChannelError>;

    /// Replaces the fields that the patch sets, atomically, and returns the whole channel.
    ///
    /// Unknown fields stay in the document. A metadata value that is equal to the old one keeps the
    /// type that another client gave it. A pause is kept unless the new metadata names it.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`]. [`ChannelError::Changed`] if the stored version is not `expected`,
    /// or if others keep changing the metadata. [`ChannelError::Unstorable`].
    async fn update(
        &self,
        id: &ChannelId,
        patch: &ChannelPatch,
        expected: Option<&Version>,
    ) -> Result<Versioned, ChannelError>;

    /// Pauses or resumes a channel atomically, and returns the whole channel. Changes only
    /// `channel_metadata.delivery.paused`, and writes nothing if it is the same.
    ///
    /// With a `uid`, only that channel: a later channel with the same id is not paused.
    ///
    /// # Errors
    ///
    /// [`ChannelError::NotFound`], also for another uid. [`ChannelError::Changed`] if others keep
    /// changing the channel. [`ChannelError::Unstorable`] if its metadata is not an object.
    async fn set_paused(
        &self,
        id: &ChannelId,
        uid: Option<&ChannelUid>,
        paused: bool,
    ) -> Result<Versioned, ChannelError>;

    /// Removes a channel, and its secrets.
    async fn delete(&self, id: &ChannelId, expected: Option<&Version>) -> Result<(), ChannelError>;

    /// A page of the matching channels. It ends at its limit, at [`MAX_PAGE_BYTES`](crate::MAX_PAGE_BYTES), or where the
    /// query's budget is used up, whichever comes first. Then it has a cursor, and may be empty.
    ///
    /// # Errors
    ///
    /// [`QueryError::TooCostly`] if the budget ends before the first channel is evaluated.
    async fn query(&self, filter: &Filter, page: &PageRequest) -> Result<ChannelPage, QueryError>;

    async fn ping(&self) -> Result<(), Unavailable>;

    /// Stops the store's background tasks and waits for them, up to a limit. No call may follow.
    async fn close(&self) {}
}

pub type SharedChannels = Arc<dyn Channels>;
