//! The metrics of the HTTP API, and of what it accepts.
//!
//! Invariant: a label never holds what a client wrote. A request of no call of the API counts as
//! `other`.

use std::{sync::OnceLock, time::Instant};

use axum::{
    extract::{MatchedPath, Request},
    http::{Method, StatusCode},
    middleware::Next,
    response::Response,
};
use roundtrip_metrics::{Counters, END_TO_END, Gauges, Histograms, LabelValue, Labels, REQUEST};

roundtrip_metrics::label! {
    pub(crate) enum Accepted as "kind" {
        Message = "message",
        Answer = "answer",
        Inbound = "inbound",
    }
}

roundtrip_metrics::metrics! {
    pub static METRICS;
    /// Requests of the API by route, method and status.
    static REQUESTS: Counters<(Call, Status)> = "roundtrip_http_requests_total";
    /// Time from a request's headers to its response, with the wait for an answer that it asks for.
    static REQUEST_DURATION: Histograms<Call> = "roundtrip_http_request_duration_seconds" in REQUEST;
    /// Requests of the API under way.
    pub(crate) static REQUESTS_IN_FLIGHT: Gauges<()> = "roundtrip_http_requests_in_flight";
    /// Messages, answers and inbound messages that were accepted: the broker has confirmed them.
    pub(crate) static ACCEPTED: Counters<Accepted> = "roundtrip_accepted_total";
    /// Time to accept one of these, until the broker has it and its journal entry.
    pub(crate) static ACCEPT_DURATION: Histograms<Accepted> = "roundtrip_accept_duration_seconds" in REQUEST;
    /// When the first of the active API keys ends, in seconds since 1970.
    pub(crate) static KEY_ENDS: Gauges<()> = "roundtrip_api_key_expiry_timestamp_seconds";
    /// Time from the acceptance of a message, which was not replayed, to an answer with its token.
    pub(crate) static ACCEPT_TO_ANSWER: Histograms<()> = "roundtrip_accept_to_answer_seconds" in END_TO_END;
}

/// The calls of the API.
static CALLS: OnceLock<Vec<(Method, &'static str)>> = OnceLock::new();

/// Makes the calls known. Must be called before the first request.
pub(crate) fn know(calls: impl IntoIterator<Item = (Method, &'static str)>) {
    CALLS.get_or_init(|| calls.into_iter().collect());
}

/// A call by its place among all; one more stands for every other request.
#[derive(Debug, Clone, Copy)]
struct Call(usize);

impl Call {
    fn of(request: &Request) -> Self {
        let calls = CALLS.get().map(Vec::as_slice).unwrap_or_default();
        let path = request.extensions().get::<MatchedPath>();
        let place = path.and_then(|path| {
            let (method, path) = (request.method(), path.as_str());
            let mut calls = calls.iter();
            calls.position(|call| *call.1 == *path && call.0 == *method)
        });
        Self(place.unwrap_or(calls.len()))
    }
}

impl Labels for Call {
    const IS_SPARSE: bool = true;

    fn count() -> usize {
        CALLS.get().map_or(0, Vec::len) + 1
    }

    fn index(self) -> usize {
        self.0
    }

    fn describe(index: usize, to: &mut Vec<LabelValue>) {
        let call = CALLS.get().and_then(|calls| calls.get(index));
        let (method, route) = call.map_or(("other", "other"), |(method, route)| {
            (method.as_str(), *route)
        });
        to.push(("route", route.into()));
        to.push(("method", method.into()));
    }
}

#[derive(Debug, Clone, Copy)]
struct Status(StatusCode);

const FIRST_STATUS: usize = 100;
const STATUSES: usize = 500;

impl Labels for Status {
    const IS_SPARSE: bool = true;

    fn count() -> usize {
        STATUSES
    }

    fn index(self) -> usize {
        usize::from(self.0.as_u16())
            .saturating_sub(FIRST_STATUS)
            .min(STATUSES - 1)
    }

    fn describe(index: usize, to: &mut Vec<LabelValue>) {
        to.push(("status", (FIRST_STATUS + index).to_string().into()));
    }
}

/// Middleware: counts a request that gets its response. One whose client disconnects is not counted.
pub(crate) async fn measure(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let call = Call::of(&request);
    let response = next.run(request).await;
    REQUEST_DURATION.observe_since(call, began);
    REQUESTS.inc((call, Status(response.status())));
    response
}
