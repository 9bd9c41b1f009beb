//! What the tests of several modules share, and the entry points of the fuzz targets.

#[cfg(test)]
mod bench;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;

#[cfg(test)]
pub(crate) use bench::{Bench, OPERATOR_KEY, SEALING_KEY, TestResponse};
