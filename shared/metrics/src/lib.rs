//! The metrics of the process. Each crate declares its own with [`metrics!`], and the executable
//! writes all of them as OpenMetrics text.
//!
//! Invariant: to count or to observe takes no lock and no memory. A label has a small, fixed set of
//! values, so every series has its place from the start.

mod about;
mod counters;
mod declare;
mod exposition;
mod gauges;
mod histograms;
mod labels;
mod series;

pub use about::Metric;
pub use counters::Counters;
pub use exposition::{CONTENT_TYPE, Exposition};
pub use gauges::{Gauges, Held, Reading};
pub use histograms::{END_TO_END, Histograms, REQUEST};
pub use labels::{LabelValue, Labels};
