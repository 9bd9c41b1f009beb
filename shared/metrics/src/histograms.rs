//! Histograms of durations.

use std::{
    fmt,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use crate::{Labels, Metric, about::About, series::Series};

/// Buckets for what a client waits for, in seconds: from a millisecond to the longest time limit.
pub const REQUEST: [f64; 15] = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
];

/// Buckets for times that may include an outage, in seconds: up to the maximum age of a message.
pub const END_TO_END: [f64; 15] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3_600.0, 21_600.0,
    259_200.0,
];

/// A histogram for each combination of labels.
pub struct Histograms<L> {
    about: About,
    buckets: &'static [f64],
    /// The sum in microseconds, the count of each bucket, and the count beyond them.
    series: Series<L>,
}

impl<L: Labels> Histograms<L> {
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str, buckets: &'static [f64]) -> Self {
        Self {
            about: About::new(name, help),
            buckets,
            series: Series::new(1 + buckets.len() + 1, 0),
        }
    }

    pub fn observe(&self, labels: L, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.buckets.partition_point(|bound| *bound < seconds);
        if let [sum, counts @ ..] = self.series.of(labels)
            && let Some(count) = counts.get(bucket)
        {
            count.fetch_add(1, Relaxed);
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            sum.fetch_add(micros, Relaxed);
        }
    }

    /// Observes the time since `began`.
    pub fn observe_since(&self, labels: L, began: Instant) {
        self.observe(labels, began.elapsed());
    }
}

impl<L: Labels> Metric for Histograms<L> {
    fn about(&self) -> &About {
        &self.about
    }

    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let mut encoder = self.about.describe(&mut to, MetricType::Histogram)?;
        for (labels, cells) in self.series.all() {
            let [sum, counts @ ..] = cells else { continue };
            let sum = Duration::from_micros(sum.load(Relaxed)).as_secs_f64();
            let bounds = self.buckets.iter().copied().chain([f64::INFINITY]);
            let counts = counts.iter().map(|count| count.load(Relaxed));
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            if count > 0 || !L::IS_SPARSE {
                let mut encoder = encoder.encode_family(&labels)?;
                encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}
