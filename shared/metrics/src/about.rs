//! What a metric is called, and what is said about it.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, MetricEncoder},
    metrics::MetricType,
    registry::Unit,
};

static UNITS: [(&str, Unit); 2] = [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)];

const TOTAL: &str = "_total";

/// A metric of any kind.
pub trait Metric: Sync {
    fn about(&self) -> &About;

    fn encode(&self, to: DescriptorEncoder<'_>) -> fmt::Result;
}

#[derive(Debug)]
pub struct About {
    name: &'static str,
    help: &'static str,
}

impl About {
    pub(crate) const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help }
    }

    pub const fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn is_total(&self) -> bool {
        self.name.ends_with(TOTAL)
    }

    /// Writes the metric's name, help, type and unit. The encoder adds the suffixes itself.
    pub(crate) fn describe<'a>(
        &self,
        to: &'a mut DescriptorEncoder<'_>,
        kind: MetricType,
    ) -> Result<MetricEncoder<'a>, fmt::Error> {
        let name = self.name.strip_suffix(TOTAL).unwrap_or(self.name);
        let with_unit = UNITS.iter().find_map(|(suffix, unit)| {
            let name = name.strip_suffix(suffix)?;
            Some((name, Some(unit)))
        });
        let (name, unit) = with_unit.unwrap_or((name, None));
        to.encode_descriptor(name, self.help.trim_start(), unit, kind)
    }
}
