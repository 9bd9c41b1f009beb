//! A request that a scripted server received, and how the script handles it.

use std::{collections::BTreeMap, time::Duration};

use hyper::{HeaderMap, StatusCode, header::CONTENT_LENGTH};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use url::{Position, Url};

/// The length that a response announces whose body never ends.
const STALLED_BYTES: usize = 1_000;

#[derive(Debug, Clone)]
pub struct Received {
    /// Its place in the order of all requests to this server, from 0 on.
    pub number: usize,
    /// The number of the attempt for this `webhook-id`, from 1.
    pub attempt: usize,
    pub headers: HeaderMap,
    /// Its body, byte for byte.
    pub body: String,
}

impl Received {
    /// A header's text; empty where it has none.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    pub fn webhook_id(&self) -> &str {
        self.header("webhook-id")
    }

    /// A text field of its body; empty where it has none.
    pub fn field(&self, name: &str) -> String {
        // Only this field is parsed: others may hold values that `Value` cannot, such as 1e400.
        let fields: BTreeMap<&str, &RawValue> =
            serde_json::from_str(&self.body).unwrap_or_default();
        let text = fields
            .get(name)
            .and_then(|text| serde_json::from_str(text.get()).ok());
        text.unwrap_or_default()
    }

    /// The path and query of its `response_url`.
    pub fn response_path(&self) -> anyhow::Result<String> {
        let url: Url = self.field("response_url").parse()?;
        Ok(url[Position::BeforePath..Position::AfterQuery].to_owned())
    }
}

/// The body of a forward, byte for byte: an answer by channel `c` to this message.
pub fn forward_body(session_id: &str, message_id: &str, response_data: &str) -> String {
    format!(
        r#"{{"session_id":"{session_id}","message_id":"{message_id}","channel_id":"c","response_data":{response_data}}}"#
    )
}

/// How the server handles a request.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: String,
    /// The `response_data` of the answer that it posts.
    pub(super) answer: Option<String>,
    /// How long after the response the answer is posted; before the response if it is absent.
    pub(super) late: Option<Duration>,
    pub(super) gate: Option<CancellationToken>,
    pub(super) end: ResponseEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResponseEnd {
    /// The whole response.
    Whole,
    /// The head and a part of the body, and then nothing more.
    Stalled,
    /// The connection is closed without a response.
    Dropped,
}

impl Reply {
    /// Answers with this status.
    pub fn status(status: u16) -> Self {
        Self {
            status: StatusCode::from_u16(status).expect("a status"),
            headers: Vec::new(),
            body: String::new(),
            answer: None,
            late: None,
            gate: None,
            end: ResponseEnd::Whole,
        }
    }

    /// Accepts it with 200.
    pub fn ok() -> Self {
        Self::status(200)
    }

    /// Does not answer at all.
    pub fn hang() -> Self {
        Self::ok().after(CancellationToken::new())
    }

    /// Sends the head of a 200 and a part of its body, then stalls.
    pub fn stall() -> Self {
        Self {
            end: ResponseEnd::Stalled,
            ..Self::ok()
                .body("and then")
                .header(CONTENT_LENGTH.as_str(), STALLED_BYTES.to_string())
        }
    }

    /// Closes the connection without a response.
    pub fn drop_request() -> Self {
        Self {
            end: ResponseEnd::Dropped,
            ..Self::status(500)
        }
    }

    /// Posts `response_data` (JSON, sent as it is written here) to the request's `response_url`
    /// first, as the seed's server does, and answers 500 where that fails.
    pub fn answering(response_data: impl Into<String>) -> Self {
        Self {
            answer: Some(response_data.into()),
            ..Self::ok()
        }
    }

    /// Posts the answer so long after the response, again until it is accepted or rejected.
    #[must_use]
    pub const fn late(mut self, wait: Duration) -> Self {
        self.late = Some(wait);
        self
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = body.into();
        self
    }

    /// Responds only after the gate has opened.
    #[must_use]
    pub fn after(mut self, gate: CancellationToken) -> Self {
        self.gate = Some(gate);
        self
    }
}

/// A script that gives this reply until the token is cancelled, and then accepts everything.
pub fn failing_until(
    recovered: &CancellationToken,
    reply: Reply,
) -> impl Fn(&Received) -> Reply + Send + Sync + use<> {
    let recovered = recovered.clone();
    move |_| {
        if recovered.is_cancelled() {
            Reply::ok()
        } else {
            reply.clone()
        }
    }
}

/// A script that gives this reply to each message's first attempt, and accepts the second.
pub fn failing_once(reply: Reply) -> impl Fn(&Received) -> Reply + Send + Sync {
    move |request| match request.attempt {
        1 => reply.clone(),
        _ => Reply::ok(),
    }
}
