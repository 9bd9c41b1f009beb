//! Writes metrics as OpenMetrics text.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};

use crate::Metric;

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics that are shown.
#[derive(Debug)]
pub struct Exposition(Registry);

impl Exposition {
    pub fn of(metrics: impl IntoIterator<Item = &'static dyn Metric>) -> Self {
        let mut registry = Registry::default();
        for metric in metrics {
            registry.register_collector(Box::new(Shown(metric)));
        }
        Self(registry)
    }

    /// The value of each metric now.
    ///
    /// # Errors
    /// If a metric cannot be written.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

struct Shown(&'static dyn Metric);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.about().name())
    }
}

impl Collector for Shown {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Counters, Gauges, Histograms};

    crate::label! {
        enum Fruit as "fruit" { Apple = "apple", Pear = "pear" }
    }

    crate::label! {
        enum Taste as "taste" { Sweet = "sweet", Sour = "sour" }
    }

    const BUCKETS: [f64; 2] = [0.1, 1.0];

    crate::metrics! {
        static METRICS;
        /// Fruits eaten,
        /// by taste.
        static EATEN: Counters<(Fruit, Taste)> = "eaten_total";
        /// Fruits in the bowl.
        static BOWL: Gauges<Fruit> = "bowl";
        /// Bytes that the kernel has counted.
        static READ: Gauges<()> = "read_bytes_total";
        /// How long a bite takes.
        static BITE: Histograms<()> = "bite_seconds" in BUCKETS;
    }

    #[test]
    fn every_kind_is_written_with_its_unit_and_its_labels() {
        EATEN.inc((Fruit::Pear, Taste::Sweet));
        EATEN.add((Fruit::Pear, Taste::Sweet), 2);
        BOWL.set(Fruit::Apple, 3_usize);
        READ.set((), Duration::from_millis(500));
        for millis in [100, 101, 2_000] {
            BITE.observe((), Duration::from_millis(millis));
        }
        let text = Exposition::of(METRICS.iter().copied()).text().unwrap();
        assert_eq!(
            text,
            "# HELP eaten Fruits eaten, by taste.\n\
             # TYPE eaten counter\n\
             eaten_total{fruit=\"apple\",taste=\"sweet\"} 0\n\
             eaten_total{fruit=\"apple\",taste=\"sour\"} 0\n\
             eaten_total{fruit=\"pear\",taste=\"sweet\"} 3\n\
             eaten_total{fruit=\"pear\",taste=\"sour\"} 0\n\
             # HELP bowl Fruits in the bowl.\n\
             # TYPE bowl gauge\n\
             bowl{fruit=\"apple\"} 3.0\n\
             # HELP read_bytes Bytes that the kernel has counted.\n\
             # TYPE read_bytes counter\n\
             # UNIT read_bytes bytes\n\
             read_bytes_total 0.5\n\
             # HELP bite_seconds How long a bite takes.\n\
             # TYPE bite_seconds histogram\n\
             # UNIT bite_seconds seconds\n\
             bite_seconds_sum 2.201\n\
             bite_seconds_count 3\n\
             bite_seconds_bucket{le=\"0.1\"} 1\n\
             bite_seconds_bucket{le=\"1.0\"} 2\n\
             bite_seconds_bucket{le=\"+Inf\"} 3\n\
             # EOF\n"
        );
    }

    #[test]
    fn a_held_thing_is_counted_until_it_is_dropped() {
        static OPEN: Gauges<()> = Gauges::new("open", "Things that are open.");
        let first = OPEN.hold(());
        let second = OPEN.hold(());
        drop(first);
        let shown = Exposition::of([&OPEN as &dyn Metric]);
        assert!(shown.text().unwrap().contains("\nopen 1.0\n"));
        drop(second);
        assert!(shown.text().unwrap().contains("\nopen 0.0\n"));
    }
}
