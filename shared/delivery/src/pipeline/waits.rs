//! Remembers which waits a message's timeline already explains: a waiting message is looked at many
//! times, and its timeline gets an entry only when the reason changes.
//!
//! Invariant: at most [`MAX_REMEMBERED`] messages are remembered. While that many wait, further
//! ones get no entry, so a backlog cannot fill the journal.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use roundtrip_model::waiting::WaitReason;
use tokio::time::Instant;

use crate::admission::MAX_SNOOZE;

const MAX_REMEMBERED: usize = 50_000;

/// How long a message is remembered since the last look at it: longer than any snooze.
const FORGET_AFTER: Duration = Duration::from_secs(2 * MAX_SNOOZE.as_secs());

/// How often expired messages are removed.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// A wait this short is normal for a channel and gets no entry.
const SHORT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Waits {
    most: usize,
    entered: Mutex<Entered>,
}

#[derive(Debug)]
struct Entered {
    messages: HashMap<String, (WaitReason, Instant)>,
    looked_at: Instant,
}

impl Waits {
    pub(super) fn new() -> Self {
        Self::at_most(MAX_REMEMBERED)
    }

    fn at_most(most: usize) -> Self {
        Self {
            most,
            entered: Mutex::new(Entered {
                messages: HashMap::new(),
                looked_at: Instant::now(),
            }),
        }
    }

    pub(super) fn is_news(&self, id: &str, reason: WaitReason, wait: Duration) -> bool {
        if !reason.lasts() && wait <= SHORT {
            return false;
        }
        let now = Instant::now();
        let mut entered = self.entered.lock();
        if let Some(known) = entered.messages.get_mut(id) {
            let before = std::mem::replace(known, (reason, now));
            return before.0 != reason;
        }
        if entered.messages.len() >= self.most {
            if now.duration_since(entered.looked_at) < LOOK_EVERY {
                return false;
            }
            entered.looked_at = now;
            let is_looked_at = |seen: Instant| now.duration_since(seen) < FORGET_AFTER;
            entered.messages.retain(|_, (_, seen)| is_looked_at(*seen));
            if entered.messages.len() >= self.most {
                return false;
            }
        }
        entered.messages.insert(id.to_owned(), (reason, now));
        true
    }

    pub(super) fn forget(&self, id: &str) {
        let mut entered = self.entered.lock();
        entered.messages.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_entered_once_for_each_reason() {
        let (waits, id) = (Waits::new(), "msg_1");
        assert!(waits.is_news(id, WaitReason::ChannelPaused, SHORT));
        assert!(!waits.is_news(id, WaitReason::ChannelPaused, SHORT));
        assert!(!waits.is_news(id, WaitReason::RateLimited, SHORT));
        assert!(waits.is_news(id, WaitReason::RateLimited, LONG));
        waits.forget(id);
        assert!(waits.is_news(id, WaitReason::RateLimited, LONG));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_waits_are_remembered_than_there_is_room_for() {
        let waits = Waits::at_most(2);
        let mut number = 0;
        let mut entered = || {
            number += 1;
            waits.is_news(&number.to_string(), WaitReason::ChannelPaused, LONG)
        };
        assert!(entered() && entered());
        assert!(!entered());
        tokio::time::advance(FORGET_AFTER).await;
        assert!(entered());
    }
}
