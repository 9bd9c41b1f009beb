//! Request bodies that are unread when the response is sent, as after a bad token or a 413.
//!
//! Over HTTP/1.1 the next request follows the body. So the connection must end, unless the rest of
//! the body has already arrived and can be skipped. Without a notice the client sends its next
//! request into a closing connection and cannot know its fate.
//!
//! Invariant: such a response carries `connection: close` (RFC 9112, section 9.6), and no
//! response waits for bytes that have not arrived.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::{Body, HttpBody},
    http::{HeaderValue, Request, Response, Version, header},
};
use bytes::{Buf, Bytes};
use futures::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::task::yield_now;
use tower::ServiceExt;

const MAX_SKIPPED_BYTES: u64 = 64 << 10;

/// How often the body is polled. Each poll lets hyper hand over what it has read.
const MAX_POLLS: usize = 4;

/// Responds to a request. The response says whether the connection ends because of an unread body.
pub(super) async fn respond(
    router: Router,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    // An HTTP/2 stream ends by itself.
    if request.version() > Version::HTTP_11 || request.body().is_end_stream() {
        return router.oneshot(request.map(Body::new)).await;
    }
    // Polling the body would send `100 Continue`, which asks for it.
    let is_awaited = request.headers().contains_key(header::EXPECT);
    let returned = ReturnedBody::default();
    let borrowed = |body| BorrowedBody {
        body: Some(body),
        returned: Arc::clone(&returned),
    };
    let mut response = router.oneshot(request.map(borrowed).map(Body::new)).await?;
    let left = returned.lock().take();
    if let Some(body) = left
        && !body.is_end_stream()
        && (is_awaited || !has_arrived(body).await)
    {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    Ok(response)
}

async fn has_arrived(mut body: Incoming) -> bool {
    let mut most = MAX_SKIPPED_BYTES;
    for _ in 0..MAX_POLLS {
        if body.size_hint().lower() > most {
            return false;
        }
        while let Some(frame) = body.frame().now_or_never() {
            let Some(frame) = frame else { return true };
            let Ok(frame) = frame else { return false };
            let bytes = frame.data_ref().map_or(0, Buf::remaining);
            let Some(rest) = most.checked_sub(bytes as u64) else {
                return false;
            };
            most = rest;
        }
        yield_now().await;
    }
    false
}

type ReturnedBody = Arc<Mutex<Option<Incoming>>>;

/// A body that returns here when the handler drops it.
struct BorrowedBody {
    body: Option<Incoming>,
    returned: ReturnedBody,
}

impl HttpBody for BorrowedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

impl Drop for BorrowedBody {
    fn drop(&mut self) {
        let mut returned = self.returned.lock();
        *returned = self.body.take();
    }
}
