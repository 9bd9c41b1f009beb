//! The deadline of one connection, which follows from what happens on it.
//!
//! ```text
//!  accepted ─────────────────── header_timeout, until the first request has started
//!  a request in progress ────── no limit here: the router bounds every request
//!  idle ─────────────────────── idle_timeout
//!  the next headers arrive ──── header_timeout, from their first byte (HTTP/1.1)
//! ```
//!
//! On HTTP/2 headers come among other frames, so `idle_timeout` applies instead of the last line.
//! A client that does not read its response is idle, too.
//!
//! Invariant: the tracking costs a few atomic operations a request, and no timer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::http::Version;
use tokio::time::Instant;

use super::Limits;

pub(super) struct Activity {
    limits: Limits,
    accepted: Instant,
    under_way: AtomicUsize,
    /// Milliseconds from `accepted` to the start of the current phase.
    since: AtomicU64,
    heading: AtomicBool,
    http2: AtomicBool,
}

impl Activity {
    /// A new connection that waits for its first request's headers.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            accepted: Instant::now(),
            under_way: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            heading: AtomicBool::new(true),
            http2: AtomicBool::new(false),
        }
    }

    pub(super) fn ends_at(&self) -> Instant {
        if self.under_way.load(Ordering::Acquire) > 0 {
            // The router ends the request; the idle time starts after it.
            return Instant::now() + self.limits.idle_timeout;
        }
        let since = self.accepted + Duration::from_millis(self.since.load(Ordering::Relaxed));
        if self.heading.load(Ordering::Relaxed) {
            since + self.limits.header_timeout
        } else {
            since + self.limits.idle_timeout
        }
    }

    /// Starts a request. It ends when the returned guard is dropped.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        self.heading.store(false, Ordering::Relaxed);
        if version == Version::HTTP_2 {
            self.http2.store(true, Ordering::Relaxed);
        }
        UnderWay(Arc::clone(self))
    }

    pub(super) fn noticed(&self) {
        let is_head = self.under_way.load(Ordering::Acquire) == 0
            && !self.heading.load(Ordering::Relaxed)
            && !self.http2.load(Ordering::Relaxed);
        if is_head {
            self.reset();
            self.heading.store(true, Ordering::Relaxed);
        }
    }

    fn reset(&self) {
        let millis = u64::try_from(self.accepted.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(millis, Ordering::Relaxed);
    }
}

pub(super) struct UnderWay(Arc<Activity>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.reset();
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(75);

    fn activity() -> Arc<Activity> {
        Arc::new(Activity::new(Limits {
            connections: 1,
            header_bytes: 1,
            header_timeout: HEADER,
            idle_timeout: IDLE,
        }))
    }

    fn left(activity: &Activity) -> Duration {
        activity.ends_at().saturating_duration_since(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_alone_do_not_prolong_the_wait_for_the_first_request() {
        let activity = activity();
        for _ in 0..10 {
            tokio::time::advance(HEADER / 10).await;
            activity.noticed();
        }
        assert_eq!(left(&activity), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_request_is_not_idle() {
        let activity = activity();
        let under_way = activity.begin(Version::HTTP_11);
        tokio::time::advance(IDLE * 3).await;
        assert_eq!(left(&activity), IDLE);
        drop(under_way);
        assert_eq!(left(&activity), IDLE);
        tokio::time::advance(IDLE).await;
        assert_eq!(left(&activity), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_headers_have_their_time_from_their_first_byte() {
        let activity = activity();
        drop(activity.begin(Version::HTTP_11));
        tokio::time::advance(IDLE / 2).await;
        activity.noticed();
        assert_eq!(left(&activity), HEADER);
        tokio::time::advance(HEADER / 2).await;
        activity.noticed();
        assert_eq!(left(&activity), HEADER / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn frames_of_http_2_are_no_headers_and_no_activity() {
        let activity = activity();
        drop(activity.begin(Version::HTTP_2));
        tokio::time::advance(IDLE / 3).await;
        activity.noticed();
        assert_eq!(left(&activity), IDLE / 3 * 2);
    }
}
