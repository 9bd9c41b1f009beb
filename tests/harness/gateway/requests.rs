//! A test's API requests to its gateway.
//!
//! Invariant: every response is searched for secrets. Messages accepted through
//! [`TestGateway::request`], and the methods that use it, go into the account.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::ensure;
use reqwest::{Method, RequestBuilder, header::CONTENT_TYPE};
use serde_json::{Value, json};

use super::{OPERATOR_KEY, Raw, Response, Role, TestGateway};
use crate::{account::Account, http::Connection, openmetrics::Scrape, wait};

/// How long a response may take.
const RESPONSE_LIMIT: Duration = Duration::from_mins(1);

const JSON: &str = "application/json";

impl TestGateway {
    /// Sends a request; an accepted message goes into the account. If the gateway needs keys, an
    /// operator's key is sent. The body is JSON, unless a header says otherwise.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl ToString,
    ) -> anyhow::Result<Response> {
        let key = self.in_production.then_some(OPERATOR_KEY);
        self.request_with(key, method, path, headers, body).await
    }

    /// As [`TestGateway::request`], with this key or with none.
    pub async fn request_with(
        &self,
        key: Option<&str>,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl ToString,
    ) -> anyhow::Result<Response> {
        let body = body.to_string();
        let mut request = self
            .client
            .request(method, self.url(path))
            .body(body.clone());
        let own = headers.iter().any(|(name, _)| *name == CONTENT_TYPE);
        let json = (!own).then_some((CONTENT_TYPE.as_str(), JSON));
        for (name, value) in headers.iter().copied().chain(json) {
            request = request.header(name, value);
        }
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let response = self.exchange(request).await?;
        self.account().enter(path, &body, &response);
        Ok(response)
    }

    /// Sends a request of a test's own client; an accepted message goes into no account. The request
    /// may have a time limit of its own.
    pub async fn exchange(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let (client, request) = request.build_split();
        let mut request = request?;
        request.timeout_mut().get_or_insert(RESPONSE_LIMIT);
        let response = Response::of(client.execute(request).await?).await?;
        let audit = self.stack.audit();
        audit.response(response.status, &response.whole());
        Ok(response)
    }

    /// Connects, for a test that writes raw bytes; an accepted message goes into no account.
    pub async fn connect(&self) -> anyhow::Result<Raw> {
        Raw::open(self.stack.ingress()).await
    }

    /// The same, to the operations port of the process with this role.
    pub async fn connect_to_operations(&mut self, role: Role) -> anyhow::Result<Raw> {
        Raw::open(self.process(role)?.operations()).await
    }

    /// Gets.
    pub async fn get(&self, path: &str) -> anyhow::Result<Response> {
        self.request(Method::GET, path, &[], "").await
    }

    /// Posts JSON.
    pub async fn post(&self, path: &str, body: impl ToString) -> anyhow::Result<Response> {
        self.request(Method::POST, path, &[], body).await
    }

    /// Puts JSON.
    pub async fn put(&self, path: &str, body: impl ToString) -> anyhow::Result<Response> {
        self.request(Method::PUT, path, &[], body).await
    }

    /// Deletes.
    pub async fn delete(&self, path: &str) -> anyhow::Result<Response> {
        self.request(Method::DELETE, path, &[], "").await
    }

    /// The `/readyz` status and body of the process with this role.
    pub async fn ready(&mut self, role: Role) -> anyhow::Result<(u16, Value)> {
        let (status, body) = self.process(role)?.readiness().await?;
        Ok((status.as_u16(), serde_json::from_slice(&body)?))
    }

    /// The `/metrics` of the process with this role.
    pub async fn metrics(&mut self, role: Role) -> anyhow::Result<String> {
        let operations = self.process(role)?.operations();
        let mut connection = Connection::open(&operations).await?;
        let (status, body) = connection.get("/metrics").await?;
        ensure!(status.is_success(), "/metrics: {status}");
        Ok(String::from_utf8(body.into())?)
    }

    /// The same, read.
    pub async fn scrape(&mut self, role: Role) -> anyhow::Result<Scrape> {
        Scrape::read(&self.metrics(role).await?)
    }

    /// Waits until `GET` on this path is answered 200 with JSON that satisfies the condition.
    pub async fn until(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        wait::until(format!("GET {path}"), async || {
            let response = self.get(path).await.ok()?;
            let json = response.json();
            (response.status == 200 && is_so(&json)).then_some(json)
        })
        .await
    }

    /// Waits until a message satisfies the condition.
    pub async fn until_message(
        &self,
        id: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        self.until(&format!("/channel/message/{id}"), is_so).await
    }

    /// Waits until a message has this state.
    pub async fn until_state(&self, id: &str, state: &str) -> anyhow::Result<Value> {
        self.until_message(id, |message| message["state"] == state)
            .await
    }

    /// Waits until a message is delivered, and returns its attempts. MongoDB keeps the state and
    /// the entries in two collections, so a read can see one before the other.
    pub async fn until_delivered(&self, id: &str) -> anyhow::Result<Vec<Value>> {
        let is_done = |attempt: &Value| attempt["next"]["type"] == "done";
        let message = self.until_message(id, |message| {
            message["state"] == "delivered" && attempts(message).iter().any(is_done)
        });
        Ok(attempts(&message.await?))
    }

    /// Waits until this many messages wait for a channel in the store, and returns the summary.
    pub async fn until_waiting(&self, channel: &str, count: usize) -> anyhow::Result<Value> {
        let path = format!("/channel/{channel}/waiting");
        self.until(&path, |summary| summary["count"] == count).await
    }

    /// Waits until this many dead letters of a channel are listed.
    pub async fn until_dead(&self, channel: &str, count: usize) -> anyhow::Result<Vec<Value>> {
        let path = format!("/dead-letters?channel_id={channel}");
        let letters = |list: &Value| list["dead_letters"].as_array().cloned().unwrap_or_default();
        let list = self.until(&path, |list| letters(list).len() == count);
        Ok(letters(&list.await?))
    }

    /// Waits until this many answers of a session are in the development inbox.
    pub async fn until_in_inbox(&self, session: &str, count: usize) -> anyhow::Result<Vec<Value>> {
        let path = format!("/dev/sessions/{session}");
        let answers = |inbox: &Value| inbox["responses"].as_array().cloned().unwrap_or_default();
        let inbox = self.until(&path, |inbox| answers(inbox).len() >= count);
        Ok(answers(&inbox.await?))
    }

    /// Registers a channel at this endpoint, and returns its signing secret.
    pub async fn register(&self, id: &str, endpoint_url: &str) -> anyhow::Result<String> {
        let metadata = json!({"endpoint_url": endpoint_url});
        let channel = json!({"channel_id": id, "channel_metadata": metadata});
        let created = self.post("/channel", channel).await?.expect(201)?;
        created.field("signing_secret")
    }

    /// Sends a message and returns its id. Its `response_url` is the gateway's own.
    pub async fn send(&self, channel: &str, session: &str) -> anyhow::Result<String> {
        let message = format!("Hello, {session}!");
        let body = json!({"channel_id": channel, "session_id": session, "message": message});
        let accepted = self.post("/channel/message", body).await?.expect(202)?;
        accepted.field("message_id")
    }

    /// Sends this many messages to a channel, each in a session of its own, and returns their ids.
    pub async fn send_many(&self, channel: &str, count: usize) -> anyhow::Result<Vec<String>> {
        let mut ids = Vec::new();
        for number in 0..count {
            ids.push(self.send(channel, &format!("{channel}{number}")).await?);
        }
        Ok(ids)
    }

    pub(super) fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The attempts in a message's timeline.
pub fn attempts(message: &Value) -> Vec<Value> {
    let entries = message["timeline"].as_array().into_iter().flatten();
    let attempts = entries.filter(|entry| entry["type"] == "attempted");
    attempts.cloned().collect()
}

/// The event names of a timeline, in order. A slow attempt also has an entry at its start; whether
/// one is slow depends on the machine.
pub fn events(message: &Value) -> Vec<&str> {
    let entries = message["timeline"].as_array().into_iter().flatten();
    let names = entries.filter_map(|entry| entry["type"].as_str());
    names.filter(|event| *event != "delivering").collect()
}
