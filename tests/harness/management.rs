//! RabbitMQ's management API, as an operator uses it.

use anyhow::{Context, ensure};
use hyper::header::CONTENT_TYPE;
use reqwest::Method;
use serde_json::Value;
use url::Url;

use crate::http::plain_client;

/// The management API of the server that the environment names.
#[derive(Debug, Clone)]
pub struct Management {
    client: reqwest::Client,
    /// Its URL, with the credentials of an administrator.
    pub url: Url,
}

impl Management {
    /// That of the server that `tests/run` has started.
    pub fn from_environment() -> anyhow::Result<Self> {
        let url = std::env::var("TEST_MANAGEMENT_URL").context(
            "TEST_MANAGEMENT_URL is not set: run tests/run, or point it to the management API of \
             the RabbitMQ of TEST_AMQP_URL",
        )?;
        Ok(Self {
            client: plain_client()?,
            url: url.parse()?,
        })
    }

    /// Calls it; `path` is what follows `/api`.
    pub async fn call(&self, method: Method, path: &[&str], body: &Value) -> anyhow::Result<()> {
        let mut url = self.url.clone();
        let segments = ["api"].iter().chain(path);
        let mut all = url.path_segments_mut().ok().context("a URL with a host")?;
        all.clear().extend(segments);
        drop(all);
        let request = self.client.request(method, url);
        let request = request.header(CONTENT_TYPE, "application/json");
        let answer = request.body(body.to_string()).send().await?;
        let status = answer.status();
        ensure!(
            status.is_success(),
            "{path:?} was answered {status}: {}",
            answer.text().await?
        );
        Ok(())
    }

    /// Sets a policy.
    pub async fn set_policy(&self, vhost: &str, name: &str, policy: &Value) -> anyhow::Result<()> {
        self.call(Method::PUT, &["policies", vhost, name], policy)
            .await
    }
}
