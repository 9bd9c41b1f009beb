//! Stands in for an engine's ledger until it is built: every call says that the store is away.

/// What a call answers.
#[derive(Debug, thiserror::Error)]
#[error("this engine does not keep messages yet")]
pub(crate) struct Unbuilt;

macro_rules! unbuilt_ledger {
    ($engine:ty) => {
        const _: () = {
            use std::time::Duration;

            use async_trait::async_trait;
            use roundtrip_model::{Entry, MessageId, ReplayId};
            use time::OffsetDateTime;
            use $crate::{
                DeadFilter, DeadLetter, DeadLetters, Idempotency, Journal, MessageFilter,
                MessageRecord, Progress, Replay, ReplayStatus, Replays, Reservation,
                StoreError::{self, Away},
                unbuilt::Unbuilt,
            };

            #[async_trait]
            impl Journal for $engine {
                async fn record(&self, _: &[Entry]) -> Result<(), StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
                async fn message(
                    &self,
                    _: &MessageId,
                ) -> Result<Option<(MessageRecord, Vec<Entry>)>, StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
                async fn messages(
                    &self,
                    _: &MessageFilter,
                    _: Option<&MessageId>,
                    _: u16,
                ) -> Result<Vec<MessageRecord>, StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
            }

            #[async_trait]
            impl DeadLetters for $engine {
                async fn bury(&self, _: &[DeadLetter]) -> Result<(), StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
                async fn dead_letters(
                    &self,
                    _: &DeadFilter,
                    _: Option<&str>,
                    _: u16,
                ) -> Result<Vec<DeadLetter>, StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
                async fn count_dead_letters(&self, _: &DeadFilter) -> Result<u64, StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
                async fn mark_replayed(&self, _: &[String], _: &ReplayId) -> Result<(), StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
                async fn purge_dead_letters(&self, _: &DeadFilter) -> Result<u64, StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
            }

            #[async_trait]
            impl Replays for $engine {
                async fn create_replay(&self, _: &Replay) -> Result<(), StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
                async fn replay(&self, _: &ReplayId) -> Result<Option<Replay>, StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
                async fn claim_replay(
                    &self,
                    _: &str,
                    _: OffsetDateTime,
                    _: Duration,
                ) -> Result<Option<Replay>, StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
                async fn advance_replay(
                    &self,
                    _: &ReplayId,
                    _: &str,
                    _: &Progress,
                    _: OffsetDateTime,
                ) -> Result<Option<ReplayStatus>, StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
                async fn end_replay(
                    &self,
                    _: &ReplayId,
                    _: ReplayStatus,
                    _: OffsetDateTime,
                ) -> Result<Option<Replay>, StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
            }

            #[async_trait]
            impl Idempotency for $engine {
                async fn reserve(
                    &self,
                    _: &str,
                    _: &str,
                    _: &MessageId,
                    _: OffsetDateTime,
                    _: Duration,
                ) -> Result<Reservation, StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
                async fn complete(&self, _: &str, _: &MessageId) -> Result<(), StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
                async fn release(&self, _: &str, _: &MessageId) -> Result<(), StoreError> {
                    Err(Away(Box::new(Unbuilt)))
                }
            }
        };
    };
}
pub(crate) use unbuilt_ledger;
