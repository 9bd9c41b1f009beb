//! A response of the API.

use anyhow::{Context, ensure};
use reqwest::{Version, header::HeaderMap};
use serde_json::Value;

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    pub version: Version,
}

impl Response {
    pub(super) async fn of(response: reqwest::Response) -> reqwest::Result<Self> {
        Ok(Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            version: response.version(),
            text: response.text().await?,
        })
    }

    /// Its headers and its body.
    pub(super) fn whole(&self) -> String {
        format!("{:?}\n{}", self.headers, self.text)
    }

    /// Its body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// A text field of its JSON.
    pub fn field(&self, name: &str) -> anyhow::Result<String> {
        let json = self.json();
        let text = json[name].as_str().map(str::to_owned);
        text.with_context(|| format!("no {name} in {json}"))
    }

    /// A header's text; empty if the header is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Itself, if it has this status; otherwise the error has the whole response.
    pub fn expect(self, status: u16) -> anyhow::Result<Self> {
        ensure!(
            self.status == status,
            "expected {status}, got {}: {}",
            self.status,
            self.text
        );
        Ok(self)
    }

    /// Fails unless it is a problem document with this status and a `retry-after` in seconds.
    pub fn expect_retry_after(self, status: u16) -> anyhow::Result<Self> {
        let refused = self.expect(status)?;
        let after = refused.header("retry-after");
        let kind = refused.header("content-type");
        ensure!(
            after.parse::<u64>().is_ok() && kind == "application/problem+json",
            "retry-after {after:?}, content-type {kind:?}"
        );
        Ok(refused)
    }
}
