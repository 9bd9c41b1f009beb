//! Counts the bytes that another server sends on a connection, and records its response's status.
//!
//! Invariant: a connection reads at most [`EXCHANGE_BYTES`] for each open exchange, plus
//! [`IDLE_BYTES`]; after that it ends. A status is reported only to its own exchange, never to
//! another one on the same connection.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper_util::client::legacy::connect::{Connected, Connection};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{response_body::MAX_BODY_BYTES, status_line::StatusLine};

/// The longest head of a response: what browsers and curl accept.
pub(crate) const MAX_HEAD_BYTES: usize = 256 * 1024;

/// How far a server may be ahead of the reader of its response's body.
pub(crate) const WINDOW_BYTES: usize = 64 * 1024;

/// How far a server may be ahead over HTTP/2, with all responses on one connection.
pub(crate) const CONNECTION_WINDOW_BYTES: usize = 512 * 1024;

/// Maximum bytes read for one exchange: interim responses, head and body.
const EXCHANGE_BYTES: usize = MAX_HEAD_BYTES + MAX_BODY_BYTES + WINDOW_BYTES;

/// Maximum bytes read outside exchanges: settings, pings, and data in flight when exchanges ended.
const IDLE_BYTES: usize = CONNECTION_WINDOW_BYTES + 64 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct Meter(Arc<Mutex<Count>>);

#[derive(Debug)]
struct Count {
    open: usize,
    begun: u64,
    credit: usize,
    /// The response's status line; HTTP/2 sends the status in a frame instead.
    status: Option<StatusLine>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Place(u64);

#[derive(Debug, thiserror::Error)]
#[error("the other side sent too many bytes")]
struct TooManyBytes;

impl Meter {
    fn new(http2: bool) -> Self {
        Self(Arc::new(Mutex::new(Count {
            open: 0,
            begun: 0,
            credit: IDLE_BYTES,
            status: (!http2).then(StatusLine::default),
        })))
    }

    /// Opens an exchange: the bytes read from now on may be its response.
    pub(crate) fn begin(&self) -> Place {
        let mut count = self.0.lock();
        count.open += 1;
        count.begun += 1;
        count.credit = count.most().min(count.credit + EXCHANGE_BYTES);
        if let Some(status) = &mut count.status {
            *status = StatusLine::default();
        }
        Place(count.begun)
    }

    /// Ends an exchange, and removes its unused credit.
    pub(crate) fn end(&self, _: Place) {
        let mut count = self.0.lock();
        count.open -= 1;
        count.credit = count.most().min(count.credit);
    }

    /// The final status of this exchange over HTTP/1, once its line was read.
    pub(crate) fn status(&self, place: Place) -> Option<u16> {
        let count = self.0.lock();
        let status = count.status.as_ref()?.read();
        status.filter(|_| count.begun == place.0)
    }

    fn read(&self, bytes: &[u8]) -> io::Result<()> {
        let mut count = self.0.lock();
        let left = count.credit.checked_sub(bytes.len());
        count.credit = left.ok_or_else(|| io::Error::other(TooManyBytes))?;
        if let Some(status) = &mut count.status {
            status.take(bytes).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

impl Count {
    fn most(&self) -> usize {
        self.open * EXCHANGE_BYTES + IDLE_BYTES
    }
}

/// A connection that counts the bytes it reads.
#[derive(Debug)]
pub(crate) struct Metered<S> {
    stream: S,
    meter: Meter,
}

impl<S: Connection> Metered<S> {
    pub(crate) fn new(stream: S) -> Self {
        let meter = Meter::new(stream.connected().is_negotiated_h2());
        Self { stream, meter }
    }
}

impl<S: Connection> Connection for Metered<S> {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(self.meter.clone())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        Poll::Ready(self.meter.read(&buf.filled()[before..]))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\n";

    #[test]
    fn a_connection_reads_no_more_than_its_open_exchanges_may() {
        let meter = Meter::new(true);
        let places = [meter.begin(), meter.begin()];
        meter.read(&vec![0; 2 * EXCHANGE_BYTES]).unwrap();
        meter.read(&vec![0; IDLE_BYTES]).unwrap();
        meter.read(&[0]).unwrap_err();
        for place in places {
            meter.end(place);
        }
    }

    #[test]
    fn many_short_exchanges_leave_no_credit_for_a_flood() {
        let meter = Meter::new(true);
        for _ in 0..1000 {
            let place = meter.begin();
            meter.read(OK).unwrap();
            meter.end(place);
        }
        meter.read(&vec![0; IDLE_BYTES + 1]).unwrap_err();
    }

    #[test]
    fn a_status_belongs_to_its_own_exchange() {
        let meter = Meter::new(false);
        let first = meter.begin();
        meter.read(OK).unwrap();
        assert_eq!(meter.status(first), Some(200));
        meter.end(first);
        let second = meter.begin();
        assert_eq!(meter.status(second), None);
        meter.read(b"HTTP/1.1 500 X\r\n").unwrap();
        assert_eq!(
            (meter.status(first), meter.status(second)),
            (None, Some(500))
        );
    }
}
