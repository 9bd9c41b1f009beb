//! Limits on answers: the number for each delivery, and the rate of each channel.
//!
//! Invariant: while a delivery is remembered, at most [`AnswerLimits::most`] different answers to
//! it are published, none twice, and at most [`BODIES`] bodies' worth of bytes. A channel that the
//! store does not have cannot answer. The memory is bounded and not shared: after a restart, or on
//! another ingress, only each channel's rate limits answers at first.

use std::{sync::Arc, time::Duration};

use moka::{future::Cache, policy::EvictionPolicy};
use parking_lot::Mutex;
use roundtrip_model::{
    CallbackId, ChannelId, RateLimiter,
    token::{Delivered, IssuedTo, Proven},
};
use roundtrip_store::{CachedChannels, ChannelError, KnownChannel};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::{Instant, timeout},
};

use crate::{
    config::Config,
    problem::{Kind, Problem},
};

/// The most deliveries whose answers are remembered. The one whose last answer is oldest is
/// evicted.
const MAX_DELIVERIES: u64 = 50_000;
const MAX_CHANNELS: u64 = 20_000;
/// How long an unused delivery or rate is remembered.
const IDLE: Duration = Duration::from_hours(1);
/// The byte limit of all answers to one delivery, in bodies of the greatest size.
const BODIES: usize = 16;
/// How long an answer waits for others to its delivery that are being published.
const TURN: Duration = Duration::from_secs(2);
/// How long a channel that the store does not have is refused without another read.
const GONE_FOR: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Taken {
    answers: Vec<CallbackId>,
    bytes: usize,
}

pub(crate) struct Turn {
    taken: OwnedMutexGuard<Taken>,
    answer: CallbackId,
    bytes: usize,
}

pub(crate) struct AnswerLimits {
    most: usize,
    most_bytes: usize,
    rate: u32,
    deliveries: Cache<Delivered, Arc<AsyncMutex<Taken>>>,
    /// By channel; answers without a token share one rate.
    rates: Cache<Option<ChannelId>, Arc<Mutex<RateLimiter>>>,
    gone: Cache<IssuedTo, ()>,
}

impl AnswerLimits {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            most: usize::from(config.max_answers_per_delivery),
            most_bytes: BODIES * config.max_body_bytes,
            rate: config.answer_rate_per_channel,
            deliveries: Cache::builder()
                .max_capacity(MAX_DELIVERIES)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(IDLE)
                .build(),
            rates: Cache::builder()
                .max_capacity(MAX_CHANNELS)
                .eviction_policy(EvictionPolicy::lru())
                .time_to_idle(IDLE)
                .build(),
            gone: Cache::builder()
                .max_capacity(MAX_CHANNELS)
                .time_to_live(GONE_FOR)
                .build(),
        }
    }

    /// Whether the token's channel exists, as far as the store can say. A read is cached for
    /// `store.cache_ttl`, so that answers cost no reads.
    pub(crate) async fn has_channel(
        &self,
        proven: &Proven<'_>,
        channels: &Arc<CachedChannels>,
    ) -> bool {
        let issued_to = proven.issued_to();
        if self.gone.contains_key(&issued_to) {
            return false;
        }
        let is_gone = |read: Result<Arc<KnownChannel>, ChannelError>| match read {
            Ok(channel) => !proven.is_for(&channel.target.uid),
            Err(error) => matches!(error, ChannelError::NotFound(_)),
        };
        let id = proven.channel_id();
        // The cached channel may be an earlier one with this id.
        let is_gone = is_gone(channels.get(id).await) && is_gone(channels.get_now(id).await);
        if is_gone {
            self.gone.insert(issued_to, ()).await;
        }
        !is_gone
    }

    pub(crate) async fn take_rate(&self, channel: Option<&ChannelId>) -> Result<(), Problem> {
        let now = Instant::now().into_std();
        let begun = async { Arc::new(Mutex::new(RateLimiter::new(self.rate.into(), now))) };
        let rate = self.rates.get_with(channel.cloned(), begun).await;
        let mut rate = rate.lock();
        if rate.take(now) {
            return Ok(());
        }
        let wait = rate.blocked_for(now).unwrap_or_default();
        Err(Problem::answer_rate_limited(self.rate, wait))
    }

    /// This answer's turn to be published; `None` if it was published before.
    pub(crate) async fn turn(
        &self,
        delivered: Delivered,
        answer: CallbackId,
        bytes: usize,
    ) -> Result<Option<Turn>, Problem> {
        let taken = self
            .deliveries
            .get_with(delivered, async { Arc::default() });
        let turn = timeout(TURN, taken.await.lock_owned()).await;
        let taken = turn.map_err(|_elapsed| Problem::answers_queue(TURN))?;
        if taken.answers.contains(&answer) {
            return Ok(None);
        }
        let too_many = |most: usize, what: &str| {
            let detail = format!("at most {most} {what} to one delivery are accepted");
            Err(Problem::new(Kind::TooManyAnswers, detail))
        };
        if taken.answers.len() >= self.most {
            return too_many(self.most, "different answers");
        }
        if taken.bytes + bytes > self.most_bytes {
            return too_many(self.most_bytes, "bytes of answers");
        }
        Ok(Some(Turn {
            taken,
            answer,
            bytes,
        }))
    }
}

impl Turn {
    pub(crate) fn published(mut self) {
        self.taken.answers.push(self.answer);
        self.taken.bytes += self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use roundtrip_model::MessageId;

    use super::*;

    fn limits(most: u16, rate: u32) -> AnswerLimits {
        AnswerLimits::new(&Config {
            max_answers_per_delivery: most,
            answer_rate_per_channel: rate,
            max_body_bytes: 1_000,
            ..Config::default()
        })
    }

    fn delivered() -> Delivered {
        Delivered {
            message_id: MessageId::generate(),
            replay_count: 0,
        }
    }

    async fn publish(limits: &AnswerLimits, to: Delivered, bytes: usize) -> Result<(), u16> {
        let turn = limits.turn(to, CallbackId::generate(), bytes).await;
        let turn = turn.map_err(|problem| problem.status())?;
        turn.expect("it is new").published();
        Ok(())
    }

    #[tokio::test]
    async fn only_the_delivery_with_too_many_answers_refuses_more() {
        let limits = limits(3, 1_000);
        let to = delivered();
        for _ in 0..3 {
            publish(&limits, to, 1).await.unwrap();
        }
        assert_eq!(publish(&limits, to, 1).await, Err(409));
        publish(&limits, delivered(), 1).await.unwrap();
        let replayed = Delivered {
            replay_count: 1,
            ..to
        };
        publish(&limits, replayed, 1).await.unwrap();
    }

    #[tokio::test]
    async fn the_bytes_of_a_deliverys_answers_are_bounded() {
        let limits = limits(1_000, 1_000);
        let to = delivered();
        for _ in 0..BODIES {
            publish(&limits, to, 1_000).await.unwrap();
        }
        assert_eq!(publish(&limits, to, 1).await, Err(409));
    }

    #[tokio::test]
    async fn an_answer_that_was_published_has_no_second_turn_and_one_that_failed_has() {
        let limits = limits(3, 1_000);
        let (to, answer) = (delivered(), CallbackId::generate());
        let failed = limits.turn(to, answer, 1).await.ok().flatten();
        drop(failed.expect("a turn"));
        let again = limits.turn(to, answer, 1).await.ok().flatten();
        again.expect("a second turn").published();
        assert!(
            limits
                .turn(to, answer, 1)
                .await
                .is_ok_and(|turn| turn.is_none())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn answers_to_one_delivery_take_turns_and_wait_for_them_a_while() {
        let limits = limits(3, 1_000);
        let (to, answer) = (delivered(), CallbackId::generate());
        let first = limits.turn(to, answer, 1).await.ok().flatten();
        let second = limits.turn(to, answer, 1).await;
        assert_eq!(second.err().map(|problem| problem.status()), Some(429));
        let (third, ()) = tokio::join!(limits.turn(to, answer, 1), async {
            first.expect("a turn").published();
        });
        assert!(third.is_ok_and(|turn| turn.is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn each_channel_has_a_rate_of_its_own() {
        let limits = limits(3, 5);
        let channel = |name: &str| Some(name.parse::<ChannelId>().unwrap());
        let (one, other) = (channel("one"), channel("other"));
        for _ in 0..5 {
            assert!(limits.take_rate(one.as_ref()).await.is_ok());
        }
        assert!(limits.take_rate(one.as_ref()).await.is_err());
        assert!(limits.take_rate(other.as_ref()).await.is_ok());
        assert!(limits.take_rate(None).await.is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limits.take_rate(one.as_ref()).await.is_ok());
    }
}
