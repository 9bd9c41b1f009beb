//! Which acknowledgements to send: many in one frame if possible.
//!
//! Invariant: a multiple acknowledgement names an outstanding tag that was acked. It covers only
//! tags that are acked or requeued. A hung delivery therefore blocks no other: later deliveries are
//! acked one by one.

use std::collections::BTreeSet;

/// A delivery tag of a channel: 1, 2, 3, …
pub(super) type Tag = u64;

/// The tags of one channel that were already settled with the broker.
#[derive(Debug, Default)]
pub(super) struct Acks {
    /// Every tag up to this one is settled.
    frontier: Tag,
    /// The settled tags beyond the frontier.
    beyond: BTreeSet<Tag>,
}

/// The frames to send, in this order. A multiple acknowledgement that overtook a requeue would ack
/// the requeued tag too.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AckBatch {
    pub(super) requeue: Vec<Tag>,
    pub(super) up_to: Option<Tag>,
    pub(super) single: Vec<Tag>,
}

impl Acks {
    /// The frames for deliveries settled since the last call. Each tag comes once.
    pub(super) fn batch(&mut self, mut acked: Vec<Tag>, requeue: Vec<Tag>) -> AckBatch {
        self.beyond.extend(requeue.iter().copied());
        acked.sort_unstable();
        let mut up_to = None;
        let mut next = acked.iter().copied().peekable();
        loop {
            let tag = self.frontier + 1;
            if next.next_if_eq(&tag).is_some() {
                up_to = Some(tag);
            } else if !self.beyond.remove(&tag) {
                break;
            }
            self.frontier = tag;
        }
        let single: Vec<Tag> = next.collect();
        self.beyond.extend(single.iter().copied());
        AckBatch {
            requeue,
            up_to,
            single,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn neighbours_are_acked_together() {
        let batch = Acks::default().batch(vec![3, 1, 2], vec![]);
        assert_eq!(batch.up_to, Some(3));
        assert!(batch.single.is_empty());
    }

    #[test]
    fn a_hung_head_does_not_hold_back_the_others() {
        let mut acks = Acks::default();
        assert_eq!(acks.batch(vec![2, 3], vec![]).single, [2, 3]);
        let batch = acks.batch(vec![1, 4], vec![]);
        assert_eq!(batch.up_to, Some(4));
        assert!(batch.single.is_empty());
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Fate {
        Ack,
        Requeue,
        Never,
    }

    /// Each delivery's settlement, and the flush in which it is sent.
    fn fates() -> impl Strategy<Value = Vec<(Fate, usize)>> {
        let fate =
            prop_oneof![4 => Just(Fate::Ack), 1 => Just(Fate::Requeue), 1 => Just(Fate::Never)];
        vec((fate, 0_usize..6), 0..40)
    }

    proptest! {
        /// The broker's rules: it keeps the outstanding tags, and closes the channel on an
        /// acknowledgement of any other.
        #[test]
        fn the_broker_understands_every_batch(fates in fates()) {
            let tagged: Vec<(Tag, Fate, usize)> = (1..).zip(&fates).map(|(tag, (fate, at))| (tag, *fate, *at)).collect();
            let mut outstanding: BTreeSet<Tag> = tagged.iter().map(|(tag, ..)| *tag).collect();
            let mut seen: Vec<(Tag, Fate)> = Vec::new();
            let mut acks = Acks::default();
            for flush in 0..6 {
                let settled = |wanted| tagged.iter().filter(move |(_, fate, at)| *at == flush && *fate == wanted).map(|(tag, ..)| *tag).collect();
                let batch = acks.batch(settled(Fate::Ack), settled(Fate::Requeue));
                for tag in batch.requeue {
                    prop_assert!(outstanding.remove(&tag));
                    seen.push((tag, Fate::Requeue));
                }
                if let Some(up_to) = batch.up_to {
                    prop_assert!(outstanding.contains(&up_to));
                    let later = outstanding.split_off(&(up_to + 1));
                    seen.extend(outstanding.iter().map(|tag| (*tag, Fate::Ack)));
                    outstanding = later;
                }
                for tag in batch.single {
                    prop_assert!(outstanding.remove(&tag));
                    seen.push((tag, Fate::Ack));
                }
            }
            for (tag, fate, _) in tagged {
                prop_assert_eq!(outstanding.contains(&tag), fate == Fate::Never);
                prop_assert_eq!(seen.contains(&(tag, fate)), fate != Fate::Never);
            }
        }
    }
}
