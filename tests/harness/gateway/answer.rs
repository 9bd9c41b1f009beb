//! What the gateway answered to a request.

use anyhow::ensure;
use reqwest::{Response, Version, header::HeaderMap};
use serde_json::Value;

/// The gateway's answer to a request.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    pub version: Version,
}

impl Answer {
    pub(super) async fn of(response: Response) -> reqwest::Result<Self> {
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
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// A header's text; empty where it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Itself, if it has this status.
    ///
    /// # Errors
    /// If it has another: the whole answer.
    pub fn expect(self, status: u16) -> anyhow::Result<Self> {
        ensure!(
            self.status == status,
            "expected {status}, got {}: {}",
            self.status,
            self.text
        );
        Ok(self)
    }
}

/// A field's text; empty where it has none.
pub(super) fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}
