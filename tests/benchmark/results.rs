//! The results by round, and what each measurement means.
//!
//! Invariant: the table and the JSON say for each number how it was measured.

use std::{collections::BTreeMap, time::Duration};

use harness::procfs::Usage;

use crate::{
    options::Size,
    raw_rabbitmq::{ACK_EVERY, PREFETCH},
    raw_sqlite::ROWS,
};

/// A measured value, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    Ceiling,
    RawInsert,
    RawPublish,
    RawConsumeEach,
    RawConsumeMultiple,
    Accept,
    Backlog,
    AcceptToDelivery,
    RoundTrips,
    DeliveryP50,
    DeliveryP99,
    RoundTripP50,
    RoundTripP99,
}

impl Measure {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ceiling => "loader's ceiling",
            Self::RawInsert => "raw insert",
            Self::RawPublish => "raw publish",
            Self::RawConsumeEach => "raw consume, ack each",
            Self::RawConsumeMultiple => "raw consume, ack many",
            Self::Accept => "accept",
            Self::Backlog => "deliver a backlog",
            Self::AcceptToDelivery => "accept to delivery",
            Self::RoundTrips => "round trips",
            Self::DeliveryP50 => "one delivery, p50",
            Self::DeliveryP99 => "one delivery, p99",
            Self::RoundTripP50 => "one round trip, p50",
            Self::RoundTripP99 => "one round trip, p99",
        }
    }

    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::DeliveryP50 | Self::DeliveryP99 | Self::RoundTripP50 | Self::RoundTripP99 => "ms",
            _ => "/s",
        }
    }

    /// How it is measured, in one line.
    pub(crate) fn how(self) -> String {
        match self {
            Self::Ceiling => "the loader posts to the counting server, nothing between".to_owned(),
            Self::RawInsert => format!(
                "rusqlite, one indexed row a message, {ROWS} a transaction, WAL, synchronous=FULL"
            ),
            Self::RawPublish => {
                "lapin, one quorum queue, persistent, mandatory, confirmed, as many in flight"
                    .to_owned()
            }
            Self::RawConsumeEach => {
                format!("lapin, the same queue, prefetch {PREFETCH}, an ack for each message")
            }
            Self::RawConsumeMultiple => format!(
                "lapin, the same queue, prefetch {PREFETCH}, one ack for {ACK_EVERY} messages"
            ),
            Self::Accept => {
                "202s a second, first post to last answer; nothing is delivered".to_owned()
            }
            Self::Backlog => {
                "what accept left, first to last arrival at the channel; nothing is posted"
                    .to_owned()
            }
            Self::AcceptToDelivery => {
                "first post to last arrival at the channel, everything running".to_owned()
            }
            Self::RoundTrips => {
                "first post to last answer at the sessions server; the channel answers each"
                    .to_owned()
            }
            Self::DeliveryP50 | Self::DeliveryP99 => {
                "one message at a time: before its post until it is at the channel".to_owned()
            }
            Self::RoundTripP50 | Self::RoundTripP99 => {
                "one message at a time: before its post until its answer is at the sessions server"
                    .to_owned()
            }
        }
    }

    /// The raw rates that limit this one; the slowest is its limit.
    pub(crate) const fn limits(self) -> &'static [Self] {
        match self {
            Self::Accept => &[Self::RawInsert, Self::RawPublish],
            Self::Backlog => &[Self::RawInsert, Self::RawConsumeEach],
            Self::AcceptToDelivery | Self::RoundTrips => {
                &[Self::RawInsert, Self::RawPublish, Self::RawConsumeEach]
            }
            _ => &[],
        }
    }
}

/// A stage whose use of the machine is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Accept,
    AcceptToDelivery,
    RoundTrips,
}

impl Stage {
    pub(crate) const ALL: [Self; 3] = [Self::Accept, Self::AcceptToDelivery, Self::RoundTrips];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Accept => Measure::Accept.name(),
            Self::AcceptToDelivery => Measure::AcceptToDelivery.name(),
            Self::RoundTrips => Measure::RoundTrips.name(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) values: BTreeMap<Measure, f64>,
    /// CPU seconds by process.
    pub(crate) cpu: BTreeMap<Stage, BTreeMap<String, f64>>,
    /// The peak resident memory in bytes, by process.
    pub(crate) memory: BTreeMap<String, u64>,
}

impl Round {
    pub(crate) fn rate(&mut self, measure: Measure, size: Size, took: Duration) {
        self.values.insert(measure, size.per_second(took));
    }

    /// Records the use of each process between two readings.
    pub(crate) fn used(
        &mut self,
        stage: Stage,
        before: &BTreeMap<String, Usage>,
        after: &BTreeMap<String, Usage>,
    ) {
        let used = after.iter().map(|(name, after)| {
            let before = before.get(name).copied().unwrap_or_default();
            let cpu = after.cpu.saturating_sub(before.cpu);
            (name.clone(), cpu.as_secs_f64())
        });
        self.cpu.insert(stage, used.collect());
    }

    /// Records the median and the 99th percentile, in milliseconds.
    pub(crate) fn percentiles(&mut self, p50: Measure, p99: Measure, mut times: Vec<Duration>) {
        times.sort_unstable();
        for (measure, percent) in [(p50, 50), (p99, 99)] {
            if let Some(millis) = percentile(&times, percent) {
                self.values.insert(measure, millis);
            }
        }
    }

    /// A rate as a share of the slowest raw rate that limits it.
    pub(crate) fn share(&self, measure: Measure) -> Option<f64> {
        let limit = measure
            .limits()
            .iter()
            .filter_map(|limit| self.values.get(limit))
            .copied()
            .min_by(f64::total_cmp)?;
        Some(self.values.get(&measure)? / limit)
    }
}

/// A percentile of sorted times, in milliseconds, by nearest rank.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    let time = sorted.get(rank.saturating_sub(1))?;
    Some(time.as_secs_f64() * 1_000.0)
}

/// The median of several rounds, with the least and the greatest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Spread {
    /// `None` without values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        // For an even count the lower of the middle two: a value that was measured.
        let median = *values.get(values.len().checked_sub(1)? / 2)?;
        Some(Self {
            median,
            least: *values.first()?,
            greatest: *values.last()?,
        })
    }
}
