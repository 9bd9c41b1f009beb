//! The whole store, which every engine implements.

use std::sync::Arc;

use crate::{
    ApiKeys, Channels, DeadLetters, Erasures, Idempotency, Journal, KeptAnswers, Replays, Secrets,
    SessionEvents, WaitingRoom,
};

/// A whole store. A role takes the trait that it needs; an `Arc<dyn Store>` converts to each.
pub trait Store:
    Channels
    + Secrets
    + Journal
    + KeptAnswers
    + DeadLetters
    + Replays
    + WaitingRoom
    + SessionEvents
    + Erasures
    + Idempotency
    + ApiKeys
{
}

impl<T> Store for T where
    T: Channels
        + Secrets
        + Journal
        + KeptAnswers
        + DeadLetters
        + Replays
        + WaitingRoom
        + SessionEvents
        + Erasures
        + Idempotency
        + ApiKeys
{
}

pub type SharedStore = Arc<dyn Store>;
