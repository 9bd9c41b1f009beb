//! One request on the connection that carries it.
//!
//! Invariant: an exchange opens on its connection's [`Meter`] before the first byte of its request
//! is written, and closes when its [`Exchange`] is dropped.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request,
    body::{Body, Frame, SizeHint},
    http::Extensions,
};
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use parking_lot::Mutex;

use super::meter::{Meter, Place};

pub(crate) struct Exchange(Arc<Shared>);

struct Shared {
    connection: CaptureConnection,
    stage: Mutex<Stage>,
}

enum Stage {
    Waiting,
    Open(Meter, Place),
    Over,
}

/// The request's body. The connection polls it when it takes the request.
pub(crate) struct Outgoing {
    body: Full<Bytes>,
    exchange: Arc<Shared>,
}

impl Exchange {
    pub(crate) fn of(mut request: Request<()>, body: Bytes) -> (Self, Request<Outgoing>) {
        let shared = Arc::new(Shared {
            connection: capture_connection(&mut request),
            stage: Mutex::new(Stage::Waiting),
        });
        let exchange = Arc::clone(&shared);
        let body = Full::new(body);
        (Self(shared), request.map(|()| Outgoing { body, exchange }))
    }

    /// The received status of a response whose remaining head is missing or unreadable.
    pub(crate) fn status(&self) -> Option<u16> {
        match &*self.0.stage.lock() {
            Stage::Open(meter, place) => meter.status(*place),
            Stage::Waiting | Stage::Over => None,
        }
    }

    /// Prevents further exchanges on this connection. An HTTP/1 connection ends with its exchange
    /// anyway; over HTTP/2 the open ones continue.
    pub(crate) fn retire_connection(&self) {
        if let Some(connected) = &*self.0.connection.connection_metadata() {
            connected.poison();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut stage = self.0.stage.lock();
        if let Stage::Open(meter, place) = &*stage {
            meter.end(*place);
        }
        *stage = Stage::Over;
    }
}

impl Shared {
    fn begin(&self) {
        let mut stage = self.stage.lock();
        if !matches!(*stage, Stage::Waiting) {
            return;
        }
        let mut extras = Extensions::new();
        if let Some(connected) = &*self.connection.connection_metadata() {
            connected.get_extras(&mut extras);
        }
        if let Some(meter) = extras.remove::<Meter>() {
            let place = meter.begin();
            *stage = Stage::Open(meter, place);
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.exchange.begin();
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
