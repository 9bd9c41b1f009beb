//! A consumer: a lane for as long as the connection lasts, and then the next one.
//!
//! Invariant: no more parcels are handed out and unsettled than the window has places, those of
//! lost connections included, for a worker may still be at them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use backoff::{ExponentialBackoff, backoff::Backoff};
use roundtrip_model::retry::reconnect;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    Engine,
    endpoint::Endpoint,
    lane::{End, Lane, Out},
    lease::Lease,
    link::Link,
    status::StatusCell,
};
use crate::{Consumer, Delivery, Parcel, Queue};

/// The connection to receive by, while there is one.
pub(super) type Links = watch::Receiver<Option<Arc<Link>>>;

/// Keeps the connection to receive by, until `closed`.
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
            connected = Link::connect(&endpoint, "receive") => connected,
        };
        let reason = match connected {
            Ok((link, mut events)) => {
                let link = Arc::new(link);
                links.send_replace(Some(Arc::clone(&link)));
                waits.reset();
                status.connected(&link.node());
                tokio::select! {
                    () = closed.cancelled() => {
                        link.close().await;
                        return;
                    }
                    reason = link.lost(&mut events) => reason,
                    reason = link.silent() => reason,
                }
            }
            Err(reason) => reason,
        };
        links.send_replace(None);
        status.away(&reason, std::mem::take(&mut first));
        tokio::select! {
            () = closed.cancelled() => return,
            () = pause(&mut waits) => {}
        }
    }
}

async fn pause(waits: &mut ExponentialBackoff) {
    sleep(waits.next_backoff().unwrap_or(Duration::from_secs(1))).await;
}

/// What the caller holds.
pub(super) struct Receiver {
    received: mpsc::Receiver<(Parcel, Lease)>,
}

#[async_trait]
impl Consumer for Receiver {
    async fn next(&mut self) -> Option<Delivery> {
        loop {
            let (parcel, lease) = self.received.recv().await?;
            // What was received by a connection that is gone will come again: working on it now
            // would only double it.
            if !lease.is_lost() {
                return Some(Delivery::new(parcel, Box::new(lease)));
            }
        }
    }
}

/// Starts to receive.
pub(super) fn start(engine: &Arc<Engine>, queue: Queue, window: u16) -> Receiver {
    let window = window.max(1);
    let (out, received) = mpsc::channel(window.into());
    engine
        .consumers
        .spawn(receive(Arc::clone(engine), queue, window, out));
    Receiver { received }
}

async fn receive(engine: Arc<Engine>, queue: Queue, window: u16, out: Out) {
    let places = Arc::new(Semaphore::new(window.into()));
    let mut links = engine.links.clone();
    let mut waits = reconnect();
    let mut complained = false;
    loop {
        let opening = async {
            let link = links.wait_for(Option::is_some).await.ok()?.clone()?;
            Some(Lane::open(&engine, link, queue, window).await)
        };
        let opened = tokio::select! {
            () = engine.closing.cancelled() => return,
            () = out.closed() => return,
            opened = opening => opened,
        };
        match opened {
            None => return,
            Some(Ok(mut lane)) => {
                waits.reset();
                complained = false;
                match lane.run(&out, &places).await {
                    End::Closed => return,
                    End::Dropped => return lane.retire().await,
                    End::Cancelled => drop(engine.consumers.spawn(lane.retire())),
                    End::Lost => {}
                }
            }
            // The connection's own end is logged where it is kept.
            Some(Err(error)) if links.borrow().is_some() && !complained => {
                complained = true;
                tracing::warn!(queue = queue.name(), %error, "cannot consume; trying again");
            }
            Some(Err(_)) => {}
        }
        tokio::select! {
            () = engine.closing.cancelled() => return,
            () = out.closed() => return,
            () = pause(&mut waits) => {}
        }
    }
}
