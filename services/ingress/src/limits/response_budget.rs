//! Long responses, whose size the client chooses.
//!
//! Invariant: such a response counts against the byte budget of all requests until its last byte is
//! written or its client is gone. All such responses have a fixed share of the budget, so clients
//! that do not read cannot block sending.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::{Kind, Problem};

/// One part in this many of the byte budget is for responses.
const SHARE: usize = 4;

/// The size of one chunk. The rest of the response stays here, where it counts.
const PIECE_BYTES: usize = 64 << 10;

#[derive(Clone)]
pub(crate) struct ResponseBudget {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
    /// The whole budget: a longer response counts as this much, so one alone always fits.
    most: usize,
}

impl ResponseBudget {
    /// A share of the budget of all requests, which has this many bytes.
    pub(crate) fn of(all: &Arc<Semaphore>, bytes: usize) -> Self {
        let most = bytes / SHARE;
        Self {
            all: Arc::clone(all),
            own: Arc::new(Semaphore::new(most)),
            most,
        }
    }

    pub(crate) fn json(
        &self,
        value: &impl Serialize,
        with: impl Send + Unpin + 'static,
    ) -> Result<Response, Problem> {
        let bytes = serde_json::to_vec(value).map_err(|error| {
            tracing::error!(%error, "a response cannot be written as JSON");
            Problem::from(Kind::Internal)
        })?;
        let counted = CountedBody {
            _reserved: self.reserve(bytes.len()).ok_or(Kind::Overloaded)?,
            _with: with,
            left: Bytes::from(bytes),
        };
        let json = HeaderValue::from_static("application/json");
        Ok(([(header::CONTENT_TYPE, json)], Body::new(counted)).into_response())
    }

    /// Memory for so many bytes, if there is some.
    pub(crate) fn reserve(&self, bytes: usize) -> Option<Reserved> {
        let count = u32::try_from(bytes.min(self.most)).unwrap_or(u32::MAX);
        let take = |from: &Arc<Semaphore>| Arc::clone(from).try_acquire_many_owned(count).ok();
        Some(Reserved {
            _of_all: take(&self.all)?,
            _of_own: take(&self.own)?,
        })
    }
}

/// Bytes that count against the budget until this is dropped.
pub(crate) struct Reserved {
    _of_all: OwnedSemaphorePermit,
    _of_own: OwnedSemaphorePermit,
}

/// A body that counts against the budget until it is dropped.
struct CountedBody<W> {
    left: Bytes,
    _reserved: Reserved,
    _with: W,
}

impl<W: Unpin> HttpBody for CountedBody<W> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.left.len().min(PIECE_BYTES);
        let piece = self.left.split_to(piece);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    const ALL: usize = 1 << 20;

    fn budget() -> (Arc<Semaphore>, ResponseBudget) {
        let all = Arc::new(Semaphore::new(ALL));
        let budget = ResponseBudget::of(&all, ALL);
        (all, budget)
    }

    #[tokio::test]
    async fn a_response_counts_until_it_is_written() {
        let (all, budget) = budget();
        let text = "x".repeat(200_000);
        let response = budget.json(&text, ()).ok().unwrap();
        assert_eq!(all.available_permits(), ALL - 200_002);
        let bytes = to_bytes(response.into_body(), ALL).await.unwrap();
        assert_eq!(bytes.len(), 200_002);
        assert_eq!(all.available_permits(), ALL);
        // An unread response also counts until its client is gone.
        drop(budget.json(&text, ()).ok().unwrap());
        assert_eq!(all.available_permits(), ALL);
    }

    #[tokio::test]
    async fn unread_responses_leave_room_for_requests() {
        let (all, budget) = budget();
        let text = "x".repeat(200_000);
        let unread = budget.json(&text, ()).ok().unwrap();
        assert!(budget.json(&text, ()).is_err());
        assert!(all.available_permits() >= ALL - ALL / SHARE);
        drop(unread);
        assert!(budget.json(&text, ()).is_ok());
    }

    #[tokio::test]
    async fn a_response_longer_than_the_budget_is_sent_alone() {
        let (all, budget) = budget();
        let long = budget.json(&"x".repeat(2 * ALL), ()).ok().unwrap();
        assert!(budget.json(&"short", ()).is_err());
        drop(long);
        assert_eq!(all.available_permits(), ALL);
    }

    #[tokio::test]
    async fn a_response_is_sent_in_pieces() {
        let (_, budget) = budget();
        let response = budget.json(&"x".repeat(200_000), ()).ok().unwrap();
        let mut body = response.into_body();
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
        let frame = frame.await.unwrap().unwrap();
        assert_eq!(frame.data_ref().map(Bytes::len), Some(PIECE_BYTES));
    }
}
