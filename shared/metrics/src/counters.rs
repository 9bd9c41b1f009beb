//! Counters.

use std::{fmt, sync::atomic::Ordering::Relaxed};

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
};

use crate::{Labels, Metric, about::About, series::Series};

/// A counter for each combination of labels.
pub struct Counters<L> {
    about: About,
    series: Series<L>,
}

impl<L: Labels> Counters<L> {
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            about: About::new(name, help),
            series: Series::new(1, 0),
        }
    }

    pub fn inc(&self, labels: L) {
        self.add(labels, 1);
    }

    pub fn add(&self, labels: L, count: u64) {
        if let [cell] = self.series.of(labels) {
            cell.fetch_add(count, Relaxed);
        }
    }
}

impl<L: Labels> Metric for Counters<L> {
    fn about(&self) -> &About {
        &self.about
    }

    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let mut encoder = self.about.describe(&mut to, MetricType::Counter)?;
        for (labels, cells) in self.series.all() {
            let count: u64 = cells.iter().map(|cell| cell.load(Relaxed)).sum();
            if count > 0 || !L::IS_SPARSE {
                let mut encoder = encoder.encode_family(&labels)?;
                encoder.encode_counter(&count, None::<&Exemplar<NoLabelSet, u64>>)?;
            }
        }
        Ok(())
    }
}
