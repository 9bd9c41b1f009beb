//! A channel, and what an error on it means.
//!
//! Invariant: a channel that is dropped is closed, whatever is under way on it. So the broker undoes
//! a call that was given up and that it carries out later: the consumer of a late `basic.consume`
//! goes with its channel.

use std::{ops::Deref, time::Duration};

use futures::FutureExt;
use lapin::Channel;

use super::link::{LinkError, limited};

/// The limit on the answer to a close. The broker answers after everything that was asked before,
/// and itself gives up a call on a queue without a leader within this.
const CLOSE_LIMIT: Duration = Duration::from_mins(1);

/// AMQP's reply code for a close in good order.
pub(super) const REPLY_SUCCESS: u16 = 200;

/// An open channel.
///
/// lapin alone would not close it: it sends `channel.close` when the last handle is dropped, and a
/// `basic.consume` without its answer, or a consumer, is such a handle.
pub(super) struct OpenChannel(Channel);

impl OpenChannel {
    pub(super) const fn new(channel: Channel) -> Self {
        Self(channel)
    }

    /// Closes it, and waits for the answer.
    ///
    /// # Errors
    /// [`LinkError::Lapin`] where it is closed already, [`LinkError::TooSlow`] without an answer in
    /// time; the close itself is sent all the same.
    pub(super) async fn close(&self) -> Result<(), LinkError> {
        let closing = self.0.close(REPLY_SUCCESS, "OK".into());
        limited("channel.close", CLOSE_LIMIT, closing).await
    }
}

impl Deref for OpenChannel {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.0
    }
}

impl Drop for OpenChannel {
    fn drop(&mut self) {
        // The first poll sends the close; nothing waits for the answer. An error means that the
        // channel is closed already.
        let _ = self.0.close(REPLY_SUCCESS, "OK".into()).now_or_never();
    }
}
