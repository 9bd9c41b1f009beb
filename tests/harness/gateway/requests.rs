//! A test's API requests to its gateway.
//!
//! Invariant: every response is searched for secrets. Messages accepted through
//! [`TestGateway::request`], and the methods that use it, go into the account.

use std::time::Duration;

use anyhow::Context;
use reqwest::{Method, RequestBuilder, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::{Answer, OPERATOR_KEY, Raw, TestGateway, answer::text};

/// How long a request may take to be answered.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);

impl TestGateway {
    /// Sends a request and returns the response; an accepted message goes into the account. If the
    /// gateway needs keys, an operator's key is sent.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<String>,
    ) -> anyhow::Result<Answer> {
        let key = self.plan.in_production.then_some(OPERATOR_KEY);
        self.request_with(key, method, path, headers, body).await
    }

    /// As [`TestGateway::request`], with this key or with none.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn request_with(
        &self,
        key: Option<&str>,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<String>,
    ) -> anyhow::Result<Answer> {
        let body = body.into();
        let mut request = self
            .client
            .request(method, self.url(path))
            .body(body.clone());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let answer = self.exchange(request).await?;
        self.enter(path, &body, &answer);
        Ok(answer)
    }

    /// Sends a request of a test's own client; an accepted message goes into no account.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn exchange(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let answer = Answer::of(request.timeout(ANSWER_LIMIT).send().await?).await?;
        self.audit.answer(answer.status, &answer.whole());
        Ok(answer)
    }

    /// Connects, for a test that writes raw bytes; an accepted message goes into no account.
    ///
    /// # Errors
    /// If the port is closed.
    pub async fn connect(&self) -> anyhow::Result<Raw> {
        Raw::open(self.ingress, self.audit.clone()).await
    }

    /// Posts JSON.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn post(&self, path: &str, body: impl Into<String>) -> anyhow::Result<Answer> {
        let json = [(CONTENT_TYPE.as_str(), "application/json")];
        self.request(Method::POST, path, &json, body).await
    }

    /// The `/readyz` response of the process with this role.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn ready(&self, role: &str) -> anyhow::Result<Value> {
        let name = self.having(role);
        let process = self.processes.get(&name).context("no such process")?;
        let operations = process.program().operations;
        let url = format!("http://{operations}/readyz");
        Ok(self.exchange(self.client.get(url)).await?.json())
    }

    /// Gets.
    ///
    /// # Errors
    /// If no answer comes.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.request(Method::GET, path, &[], "").await
    }

    /// Registers a channel at this endpoint.
    ///
    /// # Errors
    /// If it is not taken.
    pub async fn register(&self, id: &str, endpoint_url: &str) -> anyhow::Result<()> {
        let channel = json!({
            "channel_id": id,
            "channel_metadata": {"endpoint_url": endpoint_url},
        });
        let answer = self.post("/channel", channel.to_string()).await?;
        answer.expect(201).map(drop)
    }

    /// Sends a message and returns its id. Its `response_url` is the gateway's own.
    ///
    /// # Errors
    /// If it is not accepted.
    pub async fn send(&self, channel: &str, session: &str) -> anyhow::Result<String> {
        let body = json!({
            "channel_id": channel,
            "session_id": session,
            "message": format!("Hello, {session}!"),
        });
        let answer = self.post("/channel/message", body.to_string()).await?;
        let answer = answer.expect(202)?.json();
        Ok(text(&answer, "message_id"))
    }
}
