//! What a queue can bring, for the fuzz targets: each reads any bytes as such a thing, and gives
//! back the parcel that a role would be handed.

pub use crate::{embedded::fuzzing::row, rabbitmq::fuzzing::message};
