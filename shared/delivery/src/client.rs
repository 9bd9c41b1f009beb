//! The client: one request, one outcome.

mod connector;
mod egress_policy;
mod exchange;
mod location;
mod meter;
mod response_body;
mod retry_after;
mod status_line;

use std::{error::Error, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    header::{
        ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, InvalidHeaderValue, LOCATION,
        RETRY_AFTER, USER_AGENT,
    },
};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use percent_encoding::percent_decode_str;
use roundtrip_model::{Check, Outcome, Signer, WrongSettings, config::chain, outcome::Failure};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};
use url::Url;

pub use self::egress_policy::EgressPolicy;
use self::{
    connector::Connector,
    exchange::{Exchange, Outgoing},
    meter::{CONNECTION_WINDOW_BYTES, MAX_HEAD_BYTES, WINDOW_BYTES},
    response_body::ResponseBody,
};
use crate::WebhookConfig;

/// How long an idle connection is kept. It is shorter than most servers' limit, so that a request
/// rarely meets a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// An HTTP/2 connection that is silent for this long during an exchange gets a ping.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Without a reply to the ping within this time the connection and its exchanges end.
const PING_TIMEOUT: Duration = Duration::from_secs(4);

/// Maximum number of header lines that are parsed. Of a longer head only the status is read.
const MAX_HEADER_LINES: usize = 512;

const WEBHOOK_ID: &str = "webhook-id";
const WEBHOOK_TIMESTAMP: &str = "webhook-timestamp";
const WEBHOOK_SIGNATURE: &str = "webhook-signature";
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const ANYTHING: HeaderValue = HeaderValue::from_static("*/*");

#[derive(Debug, Clone)]
pub struct Webhook {
    client: Client<Connector, Outgoing>,
    egress_policy: EgressPolicy,
    user_agent: HeaderValue,
    timeout: Duration,
}

/// What one request posts.
#[derive(Debug)]
pub(crate) struct Post<'a> {
    pub(crate) url: &'a Url,
    pub(crate) webhook_id: &'a str,
    /// The time of this attempt.
    pub(crate) now: OffsetDateTime,
    /// Headers beside those of Standard Webhooks. A name is in lower case.
    pub(crate) headers: &'a [(&'static str, String)],
    pub(crate) body: Bytes,
    pub(crate) signer: Option<&'a Signer>,
}

impl Webhook {
    pub fn new(config: &WebhookConfig, egress_policy: EgressPolicy) -> Result<Self, WrongSettings> {
        let mut check = Check::default();
        let mut user_agent = None;
        check.section("webhook", |check| user_agent = config.check(check));
        let connector = Connector::new(&egress_policy, config.connect_timeout);
        let connector = check.value("webhook", connector);
        let (user_agent, connector) = check.end_with(user_agent.zip(connector))?;
        Ok(Self {
            client: client(config, connector),
            egress_policy,
            user_agent,
            timeout: config.timeout,
        })
    }

    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Posts this JSON once, unsigned. `webhook_id` is the message's id, the same on every attempt;
    /// `now` is the time of this attempt.
    pub async fn post(
        &self,
        url: &Url,
        webhook_id: &str,
        now: OffsetDateTime,
        body: Bytes,
    ) -> Outcome {
        let post = Post {
            url,
            webhook_id,
            now,
            headers: &[],
            body,
            signer: None,
        };
        self.post_within(self.timeout, post).await
    }

    /// Posts once, with this time limit instead of the configured one, and signed if there is a
    /// signer.
    pub(crate) async fn post_within(&self, timeout: Duration, post: Post<'_>) -> Outcome {
        let Post { url, now, .. } = post;
        if let Err(refusal) = self.egress_policy.vet(url) {
            return Outcome::Failed(Failure::NotAllowed(refusal.to_string()));
        }
        let started = Instant::now();
        let deadline = started + timeout;
        let Some(mut request) = request(url) else {
            let problem = "the URL has a character that no request can have";
            return Outcome::Failed(Failure::Connect(problem.to_owned()));
        };
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, self.user_agent.clone());
        if let Err(problem) = webhook_headers(headers, &post) {
            return Outcome::Failed(Failure::Connection(problem.to_string()));
        }
        let (exchange, request) = Exchange::of(request, post.body);
        let responded = timeout_at(deadline, self.client.request(request)).await;
        let mut response = match responded {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return without_head(&exchange, failure(&error)),
            Err(_elapsed) => {
                exchange.retire_connection();
                return without_head(&exchange, Failure::TimedOut(timeout));
            }
        };
        let status = response.status();
        let retry_after = wait_asked_for(response.headers(), now + started.elapsed());
        let location = location_of(url, status, response.headers());
        let mut body = ResponseBody::default();
        // The status line is the response: a 2xx whose body stalls was delivered, and a retry would
        // duplicate it. The time limit therefore ends the reading without failing the exchange.
        if timeout_at(deadline, body.read(response.body_mut()))
            .await
            .is_err()
        {
            exchange.retire_connection();
        }
        Outcome::Responded {
            status: status.as_u16(),
            retry_after,
            location,
            excerpt: body.excerpt(),
        }
    }
}

fn client(config: &WebhookConfig, connector: Connector) -> Client<Connector, Outgoing> {
    let bytes = |constant: usize| u32::try_from(constant).expect("a constant that fits");
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(config.max_idle_per_host)
        .pool_idle_timeout(IDLE_TIMEOUT)
        // As lenient as browsers and curl: a malformed header does not change the status.
        .http1_max_buf_size(MAX_HEAD_BYTES)
        .http1_max_headers(MAX_HEADER_LINES)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http2_max_header_list_size(bytes(MAX_HEAD_BYTES))
        .http2_initial_stream_window_size(bytes(WINDOW_BYTES))
        .http2_initial_connection_window_size(bytes(CONNECTION_WINDOW_BYTES))
        // Without pings a silent connection would accept requests for minutes.
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        // The client retries on another connection only if a kept one was closed *before* any byte
        // of the request was written. That is safe: the server has seen nothing. Otherwise it never
        // resends. It follows no redirect, uses no proxy, and does not decompress, so a small
        // response cannot expand.
        .build(connector)
}

fn request(url: &Url) -> Option<Request<()>> {
    let mut target = url.clone();
    target.set_fragment(None);
    // These cannot fail: the URL has a host.
    let _ = target.set_username("");
    let _ = target.set_password(None);
    let uri: Uri = target.as_str().parse().ok()?;
    let mut request = Request::post(uri)
        .header(ACCEPT, ANYTHING)
        .header(CONTENT_TYPE, JSON)
        .body(())
        .ok()?;
    if let Some(basic) = basic_authorization(url) {
        request.headers_mut().insert(AUTHORIZATION, basic);
    }
    Some(request)
}

fn basic_authorization(url: &Url) -> Option<HeaderValue> {
    let password = url.password();
    if url.username().is_empty() && password.is_none() {
        return None;
    }
    let mut credentials: Vec<u8> = percent_decode_str(url.username()).collect();
    credentials.push(b':');
    credentials.extend(percent_decode_str(password.unwrap_or_default()));
    let basic = format!("Basic {}", BASE64_STANDARD.encode(credentials));
    let mut header = HeaderValue::try_from(basic).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The headers of Standard Webhooks, with the signature over id, timestamp and body, and the post's
/// own.
fn webhook_headers(headers: &mut HeaderMap, post: &Post<'_>) -> Result<(), InvalidHeaderValue> {
    let timestamp = HeaderValue::from(post.now.unix_timestamp());
    headers.insert(WEBHOOK_ID, HeaderValue::from_str(post.webhook_id)?);
    headers.insert(WEBHOOK_TIMESTAMP, timestamp);
    for (name, value) in post.headers {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value)?);
    }
    if let Some(signer) = post.signer {
        let signature = signer.sign(post.webhook_id, post.now, &post.body);
        headers.insert(WEBHOOK_SIGNATURE, HeaderValue::from_str(&signature)?);
    }
    Ok(())
}

/// The outcome of an exchange whose response has an unreadable head. A received status line still
/// counts as the response: the server has judged the message, and errors in the remaining head do not
/// change that.
fn without_head(exchange: &Exchange, failure: Failure) -> Outcome {
    match exchange.status() {
        Some(status) => Outcome::Responded {
            status,
            retry_after: None,
            location: None,
            excerpt: String::new(),
        },
        None => Outcome::Failed(failure),
    }
}

fn wait_asked_for(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    retry_after::read(headers.get(RETRY_AFTER)?, now)
}

fn location_of(url: &Url, status: StatusCode, headers: &HeaderMap) -> Option<String> {
    if !status.is_redirection() {
        return None;
    }
    location::read(headers.get(LOCATION)?, url)
}

fn failure(error: &hyper_util::client::legacy::Error) -> Failure {
    if error.is_connect() {
        Failure::Connect(causes(error))
    } else {
        Failure::Connection(causes(error))
    }
}

/// The error's causes in one line, or its own text without any.
fn causes(error: &(dyn Error + 'static)) -> String {
    chain(error.source().unwrap_or(error))
}

#[cfg(test)]
mod egress_policy_tests;
#[cfg(test)]
mod head_tests;
#[cfg(test)]
mod stall_tests;
#[cfg(test)]
mod tests;
