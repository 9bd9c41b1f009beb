//! An AMQP channel, and what an error on it means.
//!
//! Invariant: dropping a channel closes it, whatever call is under way. The broker may still carry
//! out an abandoned call; closing the channel undoes it. The consumer of a late `basic.consume`
//! ends with its channel.

use std::{ops::Deref, time::Duration};

use futures::FutureExt;
use lapin::Channel;

use super::link_error::{LinkError, limited};

/// The limit on the reply to a close. The broker replies after all earlier calls, and gives up a
/// call on a queue without a leader only after a minute. A new channel may reach the queue sooner.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// AMQP's reply code for a normal close.
pub(super) const REPLY_SUCCESS: u16 = 200;

/// An open channel.
///
/// lapin alone would leave it open: it sends `channel.close` when the last handle is dropped. A
/// consumer or an unanswered `basic.consume` also holds a handle.
pub(super) struct OpenChannel(Channel);

impl OpenChannel {
    pub(super) const fn new(channel: Channel) -> Self {
        Self(channel)
    }

    /// Closes the channel and waits for the reply.
    ///
    /// # Errors
    /// [`LinkError::Lapin`] if it is closed already, [`LinkError::TooSlow`] without a reply in
    /// time. The close is sent in either case.
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
        // The first poll sends the close; the reply is ignored. An error means that the channel is
        // closed already.
        let _ = self.0.close(REPLY_SUCCESS, "OK".into()).now_or_never();
    }
}
