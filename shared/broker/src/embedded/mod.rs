//! The embedded engine, on one SQLite file.

use std::sync::Arc;

use async_trait::async_trait;
use roundtrip_model::Clock;

use crate::{
    Broker, Closed, Config, Consumer, OpenError, Parcel, PublishError, Queue, Route, Status,
};

/// The engine.
pub enum Embedded {}

impl Embedded {
    /// Opens it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(_path: &str, _config: &Config, _clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        Err(OpenError::Url("this engine is not built yet".to_owned()))
    }
}

#[async_trait]
impl Broker for Embedded {
    async fn publish(&self, _: Route<'_>, _: Parcel) -> Result<(), PublishError> {
        match *self {}
    }

    async fn consume(&self, _: Queue, _: u16) -> Result<Box<dyn Consumer>, Closed> {
        match *self {}
    }

    fn status(&self) -> Status {
        match *self {}
    }

    async fn ready(&self, _: Queue) -> Result<u64, PublishError> {
        match *self {}
    }

    async fn close(&self) {
        match *self {}
    }
}
