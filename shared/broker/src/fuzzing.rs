//! Entry points for the fuzz targets: each decodes arbitrary bytes as a queue's content and returns
//! the message that a role would receive.

pub use crate::{embedded::fuzzing::row, rabbitmq::fuzzing::message};
