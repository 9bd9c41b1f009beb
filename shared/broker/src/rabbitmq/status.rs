//! Whether a connection is up. Each change is logged once.

use std::fmt;

use tokio::sync::watch;

use super::endpoint::Endpoint;
use crate::{PublishError, Status};

pub(super) struct StatusCell {
    role: &'static str,
    endpoint: String,
    state: watch::Sender<Status>,
}

impl StatusCell {
    /// Starts as unavailable, without logging: no connection was tried yet.
    pub(super) fn new(role: &'static str, endpoint: &Endpoint) -> Self {
        let state = watch::Sender::new(Status::Unavailable("not reached yet".to_owned()));
        Self {
            role,
            endpoint: endpoint.to_string(),
            state,
        }
    }

    pub(super) fn get(&self) -> Status {
        self.state.borrow().clone()
    }

    pub(super) fn check(&self) -> Result<(), PublishError> {
        match &*self.state.borrow() {
            Status::Ready => Ok(()),
            Status::Blocked(reason) => Err(PublishError::Refused(reason.clone())),
            Status::Unavailable(reason) => Err(PublishError::Unavailable(reason.clone())),
        }
    }

    pub(super) fn connected(&self, node: &str) {
        self.state.send_replace(Status::Ready);
        tracing::info!(role = self.role, node, "connected to RabbitMQ");
    }

    pub(super) fn unblocked(&self) {
        if matches!(self.state.send_replace(Status::Ready), Status::Blocked(_)) {
            tracing::info!(role = self.role, "RabbitMQ accepts messages again");
        }
    }

    pub(super) fn blocked(&self, reason: String) {
        let role = self.role;
        if !matches!(self.get(), Status::Blocked(_)) {
            tracing::warn!(role, reason, "RabbitMQ refuses messages at the moment");
        }
        self.state.send_replace(Status::Blocked(reason));
    }

    /// Marks the connection as lost. `first` is the first attempt's failure: it is logged too,
    /// although the state was already unavailable.
    pub(super) fn unavailable(&self, reason: &impl fmt::Display, first: bool) {
        let (role, reason) = (self.role, reason.to_string());
        if first || !matches!(self.get(), Status::Unavailable(_)) {
            tracing::warn!(
                role,
                endpoint = self.endpoint,
                reason,
                "RabbitMQ is unavailable; trying again"
            );
        }
        self.state.send_replace(Status::Unavailable(reason));
    }

    /// Closed by the gateway itself.
    pub(super) fn closed(&self) {
        self.state
            .send_replace(Status::Unavailable("it was closed".to_owned()));
    }
}
