//! Gauges, and totals that are kept elsewhere.

use std::{fmt, sync::atomic::Ordering::Relaxed, time::Duration};

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
};

use crate::{Labels, Metric, about::About, series::Series};

/// Stands for a value that is not known.
const UNKNOWN: f64 = f64::NAN;

/// The value of a gauge: a number, a duration in seconds, a yes or no, or `None` if it is not known.
#[derive(Debug, Clone, Copy)]
pub struct Reading(f64);

impl From<u64> for Reading {
    fn from(number: u64) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "exact below 2^53, which no number of things reaches"
        )]
        Self(number as f64)
    }
}

impl From<usize> for Reading {
    fn from(number: usize) -> Self {
        (number as u64).into()
    }
}

impl From<bool> for Reading {
    fn from(is_so: bool) -> Self {
        Self(if is_so { 1.0 } else { 0.0 })
    }
}

impl From<Duration> for Reading {
    fn from(duration: Duration) -> Self {
        Self(duration.as_secs_f64())
    }
}

impl<T: Into<Self>> From<Option<T>> for Reading {
    fn from(known: Option<T>) -> Self {
        known.map_or(Self(UNKNOWN), Into::into)
    }
}

/// A gauge for each combination of labels. A series whose value is not known is not shown. If the name
/// ends with `_total`, the values are those of a counter that is kept elsewhere.
pub struct Gauges<L> {
    about: About,
    series: Series<L>,
}

impl<L: Labels> Gauges<L> {
    #[must_use]
    pub const fn new(name: &'static str, help: &'static str) -> Self {
        Self {
            about: About::new(name, help),
            series: Series::new(1, UNKNOWN.to_bits()),
        }
    }

    pub fn set(&self, labels: L, value: impl Into<Reading>) {
        if let [cell] = self.series.of(labels) {
            cell.store(value.into().0.to_bits(), Relaxed);
        }
    }

    fn add(&self, labels: L, by: f64) {
        if let [cell] = self.series.of(labels) {
            let sum = |bits| {
                let before = f64::from_bits(bits);
                let before = if before.is_nan() { 0.0 } else { before };
                Some((before + by).to_bits())
            };
            // Fails never: the function always returns a value.
            let _ = cell.fetch_update(Relaxed, Relaxed, sum);
        }
    }

    /// Shows the series from now on: with 0, unless it has a value.
    pub fn show(&self, labels: L) {
        self.add(labels, 0.0);
    }

    /// Counts one more thing until the result is dropped.
    pub fn hold(&'static self, labels: L) -> Held<L> {
        self.add(labels, 1.0);
        Held {
            gauges: self,
            labels,
        }
    }
}

/// A thing that a gauge counts while it exists.
#[must_use = "it is counted until it is dropped"]
pub struct Held<L: Labels> {
    gauges: &'static Gauges<L>,
    labels: L,
}

impl<L: Labels> Drop for Held<L> {
    fn drop(&mut self) {
        self.gauges.add(self.labels, -1.0);
    }
}

impl<L: Labels> Metric for Gauges<L> {
    fn about(&self) -> &About {
        &self.about
    }

    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let is_total = self.about.is_total();
        let kind = if is_total {
            MetricType::Counter
        } else {
            MetricType::Gauge
        };
        let mut encoder = self.about.describe(&mut to, kind)?;
        for (labels, cells) in self.series.all() {
            let values = cells.iter().map(|cell| f64::from_bits(cell.load(Relaxed)));
            for value in values.filter(|value| !value.is_nan()) {
                let mut encoder = encoder.encode_family(&labels)?;
                if is_total {
                    encoder.encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)?;
                } else {
                    encoder.encode_gauge(&value)?;
                }
            }
        }
        Ok(())
    }
}
