//! A consumer: one subscription for each RabbitMQ queue, which is replaced when it ends.
//!
//! Invariant: unsettled deliveries never exceed the window. Those of lost connections count too,
//! because a worker may still handle them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use backoff::{ExponentialBackoff, backoff::Backoff};
use roundtrip_model::retry::reconnect;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Engine,
    endpoint::Endpoint,
    lease::ChannelLease,
    link::Link,
    link_error::LinkError,
    refusals::{self, ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED},
    status::StatusCell,
    subscription::{End, Out, Source, SubscribeError, Subscription},
};
use crate::{Consumer, Delivery, Message, Queue, metrics::Purpose};

pub(super) type Links = watch::Receiver<Option<Arc<Link>>>;

pub(super) async fn keep_connected(
    endpoint: Endpoint,
    links: watch::Sender<Option<Arc<Link>>>,
    closed: CancellationToken,
) {
    let status = StatusCell::new("receiving", &endpoint);
    let mut waits = reconnect();
    let mut first = true;
    loop {
        let connected = tokio::select! {
            () = closed.cancelled() => return,
            connected = Link::connect(&endpoint, Purpose::Receive) => connected,
        };
        let reason = match connected {
            Ok((link, mut events)) => {
                let link = Arc::new(link);
                links.send_replace(Some(Arc::clone(&link)));
                waits.reset();
                status.connected(&link.node());
                let reason = tokio::select! {
                    () = closed.cancelled() => {
                        link.close().await;
                        return;
                    }
                    reason = link.lost(&mut events) => reason,
                    reason = link.silent() => reason,
                };
                // Its consumers hold the connection too. A silent one would keep them.
                link.end();
                reason
            }
            Err(reason) => reason,
        };
        links.send_replace(None);
        status.unavailable(&reason, std::mem::take(&mut first));
        tokio::select! {
            () = closed.cancelled() => return,
            () = pause(&mut waits) => {}
        }
    }
}

async fn pause(waits: &mut ExponentialBackoff) {
    sleep(waits.next_backoff().unwrap_or(Duration::from_secs(1))).await;
}

pub(super) struct Receiver {
    received: mpsc::Receiver<(Message, ChannelLease)>,
}

#[async_trait]
impl Consumer for Receiver {
    async fn next(&mut self) -> Option<Delivery> {
        loop {
            let (message, lease) = self.received.recv().await?;
            // A lost connection's deliveries come again: handling them now would only duplicate the
            // attempt.
            if !lease.is_lost() {
                return Some(Delivery::new(message, Box::new(lease)));
            }
        }
    }
}

/// Consumes each RabbitMQ queue in its own task, so that one refused queue does not delay the
/// others.
pub(super) fn start(engine: &Arc<Engine>, queue: Queue, window: u16) -> Receiver {
    let window = window.max(1);
    let (out, received) = mpsc::channel(window.into());
    let places = Arc::new(Semaphore::new(window.into()));
    for name in engine.topology.queues(queue) {
        let source = Source {
            queue,
            name: name.clone(),
            window,
        };
        let receiving = receive(Arc::clone(engine), source, out.clone(), Arc::clone(&places));
        engine.consumers.spawn(receiving);
    }
    Receiver { received }
}

async fn receive(engine: Arc<Engine>, source: Source, out: Out, places: Arc<Semaphore>) {
    let mut links = engine.links.clone();
    let mut waits = Waits::default();
    let mut missing = false;
    loop {
        let opening = async {
            let link = links.wait_for(Option::is_some).await.ok()?.clone()?;
            Some(Subscription::open(&engine, link, &source, missing).await)
        };
        let opened = tokio::select! {
            () = engine.closing.cancelled() => return,
            () = out.closed() => return,
            opened = opening => opened,
        };
        let wait = match opened {
            None => return,
            Some(Ok(mut subscription)) => {
                missing = false;
                let since = Instant::now();
                let end = subscription.run(&out, &places).await;
                if since.elapsed() > refusals::STEADY {
                    waits = Waits::default();
                }
                match end {
                    End::Closed => return,
                    End::Dropped => return subscription.retire().await,
                    End::Cancelled => {
                        engine.consumers.spawn(subscription.retire());
                        waits.short()
                    }
                    End::Lost(error) => waits.after(&source, &error, links.borrow().is_some()),
                }
            }
            Some(Err(SubscribeError::Consuming(error)))
                if error.reply_code() == Some(NOT_FOUND) =>
            {
                missing = true;
                waits.short()
            }
            // The publisher declares everything, and logs refusals.
            Some(Err(SubscribeError::Declaring(error))) if error.closed_channel() => waits.long(),
            Some(Err(SubscribeError::Declaring(error) | SubscribeError::Consuming(error))) => {
                waits.after(&source, &error, links.borrow().is_some())
            }
        };
        tokio::select! {
            () = engine.closing.cancelled() => return,
            () = out.closed() => return,
            () = sleep(wait) => {}
        }
    }
}

/// How long to wait before the consumer is opened again, and what was logged about it.
struct Waits {
    short: ExponentialBackoff,
    long: ExponentialBackoff,
    /// The reply code that was logged last, 0 for none. The error text cannot be compared, because
    /// it contains the channel's number.
    logged: Option<u16>,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            short: reconnect(),
            long: refusals::waits(),
            logged: None,
        }
    }
}

impl Waits {
    fn short(&mut self) -> Duration {
        let most = self.short.max_interval;
        self.short.next_backoff().unwrap_or(most)
    }

    fn long(&mut self) -> Duration {
        let most = self.long.max_interval;
        self.long.next_backoff().unwrap_or(most)
    }

    /// Logs an error once until it changes. A lost connection is logged where the connection is
    /// kept.
    fn after(&mut self, source: &Source, error: &LinkError, connected: bool) -> Duration {
        let code = error.reply_code();
        let logged = Some(code.unwrap_or_default());
        if connected && self.logged != logged {
            self.logged = logged;
            tracing::warn!(
                queue = source.name.as_str(),
                %error,
                remedy = remedy(code),
                "cannot consume; trying again"
            );
        }
        match code {
            Some(ACCESS_REFUSED | PRECONDITION_FAILED) => self.long(),
            _ => self.short(),
        }
    }
}

/// What an operator can do about a closed consumer channel.
const fn remedy(code: Option<u16>) -> &'static str {
    match code {
        Some(ACCESS_REFUSED) => "grant the user read on the queue",
        Some(PRECONDITION_FAILED) => {
            "if an acknowledgement timed out, raise RabbitMQ's consumer_timeout above the longest \
             delivery"
        }
        _ => "none; the error may be temporary",
    }
}

#[cfg(test)]
mod tests {
    use lapin::{ErrorKind, protocol::AMQPError};

    use super::*;
    use crate::rabbitmq::test_log::lines_of;

    /// The broker closed this channel.
    fn closed(code: u16, channel: u16) -> LinkError {
        let text = format!("closed the channel {channel}");
        let error = AMQPError::from_id(code, text.into()).unwrap();
        lapin::Error::from(ErrorKind::ProtocolError(error)).into()
    }

    #[test]
    fn a_closed_consumer_channel_is_logged_once_with_what_to_do() {
        let source = Source {
            queue: Queue::Callbacks,
            name: "rt.callbacks".into(),
            window: 1,
        };
        for (code, remedy) in [
            (ACCESS_REFUSED, "grant the user read on the queue"),
            (PRECONDITION_FAILED, "raise RabbitMQ's consumer_timeout"),
        ] {
            let mut waits = Waits::default();
            let lines = lines_of(|| {
                for channel in 1..=10 {
                    waits.after(&source, &closed(code, channel), true);
                }
            });
            let [line] = lines.as_slice() else {
                panic!("{lines:?}")
            };
            assert!(
                line.contains("rt.callbacks") && line.contains(remedy),
                "{line}"
            );
            // Each wait is longer, up to ten seconds and its random part.
            let wait = waits.after(&source, &closed(code, 11), true);
            assert!(wait > Duration::from_secs(4), "{wait:?}");
        }
    }

    #[test]
    fn a_lost_connection_is_not_logged_by_its_consumers() {
        let source = Source {
            queue: Queue::Callbacks,
            name: "rt.callbacks".into(),
            window: 1,
        };
        let lines = lines_of(|| {
            Waits::default().after(&source, &LinkError::Ended, false);
        });
        assert!(lines.is_empty(), "{lines:?}");
    }
}
