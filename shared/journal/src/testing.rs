//! For the tests of roles: a journal that exposes its entries, without a broker.

use std::sync::Arc;

use async_trait::async_trait;
use roundtrip_broker::{Broker, Closed, Consumer, Message, PublishError, Queue, Route, Status};
use roundtrip_model::Entry;
use tokio::sync::mpsc;

use crate::{Journal, decode};

impl Journal {
    /// A journal, and the entries appended to it. Call it within a tokio runtime.
    pub fn observed() -> (Self, mpsc::UnboundedReceiver<Entry>) {
        let (entries, observed) = mpsc::unbounded_channel();
        (Self::start(Arc::new(Observer(entries))), observed)
    }
}

/// Confirms everything, and forwards the entries.
struct Observer(mpsc::UnboundedSender<Entry>);

#[async_trait]
impl Broker for Observer {
    async fn publish(&self, _: Route<'_>, message: Message) -> Result<(), PublishError> {
        let entries = decode(&message.body).map_err(|e| PublishError::Refused(e.to_string()))?;
        for entry in entries {
            // The receiver may have been dropped; that is fine.
            let _ = self.0.send(entry);
        }
        Ok(())
    }

    async fn consume(&self, _: Queue, _: u16) -> Result<Box<dyn Consumer>, Closed> {
        Err(Closed)
    }

    fn status(&self) -> Status {
        Status::Ready
    }

    async fn ready(&self, _: Queue) -> Result<u64, PublishError> {
        Ok(0)
    }

    async fn close(&self) {}
}
