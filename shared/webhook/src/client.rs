//! The client: one request, one outcome.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, ClientBuilder, Response,
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use roundtrip_model::{Outcome, Signer, outcome::Failure};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::{
    answer::Answer,
    config::{Config, ConfigError},
    reach::Reach,
    retry_after,
};

/// How long an idle connection is kept. Shorter than most servers keep theirs, so that a request
/// seldom meets a connection that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

const WEBHOOK_ID: &str = "webhook-id";
const WEBHOOK_TIMESTAMP: &str = "webhook-timestamp";
const WEBHOOK_SIGNATURE: &str = "webhook-signature";
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Posts webhooks. Cheap to clone: clones share their connections.
#[derive(Debug, Clone)]
pub struct Webhook {
    client: Client,
    reach: Reach,
    timeout: Duration,
}

impl Webhook {
    /// A client with these limits that connects where it may.
    ///
    /// # Errors
    /// Names the setting that cannot be used.
    pub fn new(config: &Config, reach: Reach) -> Result<Self, ConfigError> {
        config.check()?;
        // Where the process has chosen a provider already, that one stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        HeaderValue::from_str(&config.user_agent)
            .map_err(|error| ConfigError::new("webhook.user_agent", error.to_string()))?;
        let said = |error| ConfigError::new("webhook", one_line(error));
        let roots = reach.roots().map_err(said)?;
        let builder = || reach.resolving(builder(config));
        let client = match builder().tls_certs_merge(roots.clone()).build() {
            Ok(client) => client,
            // A machine without root certificates posts to http endpoints all the same; to https
            // ones it says that the certificate's issuer is unknown. What else may be wrong is
            // wrong the second time too.
            Err(error) => {
                let client = builder().tls_certs_only(roots).build().map_err(said)?;
                let problem = one_line(error);
                tracing::warn!(problem, "https endpoints will be refused");
                client
            }
        };
        Ok(Self {
            client,
            reach,
            timeout: config.timeout,
        })
    }

    /// The configured time limit.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Posts this JSON once, unsigned. `webhook_id` names the message, the same on every try; `now`
    /// is the time of this try.
    pub async fn post(
        &self,
        url: &Url,
        webhook_id: &str,
        now: OffsetDateTime,
        body: Bytes,
    ) -> Outcome {
        self.post_within(self.timeout, url, webhook_id, now, body, None)
            .await
    }

    /// As [`Webhook::post`], under this time limit instead of the configured one, and signed where
    /// there is a signer.
    pub(crate) async fn post_within(
        &self,
        timeout: Duration,
        url: &Url,
        webhook_id: &str,
        now: OffsetDateTime,
        body: Bytes,
        signer: Option<&Signer>,
    ) -> Outcome {
        if let Err(refusal) = self.reach.vet(url) {
            return Outcome::Failed(Failure::NotAllowed(refusal.to_string()));
        }
        let started = Instant::now();
        let deadline = started + timeout;
        // The headers of Standard Webhooks, the signature over the others and the body.
        let mut request = self
            .client
            .post(url.clone())
            .header(CONTENT_TYPE, JSON)
            .header(WEBHOOK_ID, webhook_id)
            .header(WEBHOOK_TIMESTAMP, now.unix_timestamp());
        if let Some(signer) = signer {
            request = request.header(WEBHOOK_SIGNATURE, signer.sign(webhook_id, now, &body));
        }
        let request = request.body(body);
        let mut response = match timeout_at(deadline, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Outcome::Failed(failure(error)),
            Err(_elapsed) => return Outcome::Failed(Failure::TimedOut(timeout)),
        };
        let retry_after = wait_asked_for(&response, now + started.elapsed());
        let mut answer = Answer::default();
        // The status line is the answer: a 2xx whose body stalls was delivered, and trying it
        // again would double it. So the time limit ends the reading, not the exchange.
        let _ = timeout_at(deadline, answer.read(&mut response)).await;
        Outcome::Answered {
            status: response.status().as_u16(),
            retry_after,
            excerpt: answer.excerpt(),
        }
    }
}

fn builder(config: &Config) -> ClientBuilder {
    Client::builder()
        .user_agent(&config.user_agent)
        .connect_timeout(config.connect_timeout)
        .pool_max_idle_per_host(config.max_idle_per_host)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        // What HTTP/2 servers refuse unprocessed would be sent again. Below this, hyper-util
        // takes another connection where it learns that a kept one was closed *before* anything
        // of the request was written to it; reqwest has no switch for that, and it is harmless:
        // the other side has seen nothing.
        .retry(reqwest::retry::never())
    // No decompression: reqwest is built without it, so an answer of a few bytes cannot grow.
}

fn wait_asked_for(response: &Response, now: OffsetDateTime) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?;
    retry_after::read(value, now)
}

fn failure(error: reqwest::Error) -> Failure {
    if error.is_connect() {
        Failure::Connect(one_line(error))
    } else {
        Failure::Connection(one_line(error))
    }
}

/// The error's causes in one line. Its URL is left out, for it may hold a password or a token; and
/// its own words too, where a cause says more.
fn one_line(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some repeat their cause in their own text.
        if !causes.iter().any(|said: &String| said.contains(&text)) {
            causes.push(text);
        }
        cause = error.source();
    }
    if causes.is_empty() {
        return error.to_string();
    }
    causes.join(": ")
}

#[cfg(test)]
mod reach_tests;
#[cfg(test)]
mod tests;
