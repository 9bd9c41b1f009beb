//! Calls of the HTTP API.
//!
//! Invariant: every call ends within its time limit, reads a bounded body, and goes only to the
//! configured server: it follows no redirect and uses no proxy, so the key stays there.

use std::time::Duration;

use reqwest::{
    Certificate, Client, Method, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use roundtrip_model::config::chain;
use secrecy::ExposeSecret;
use serde_json::Value;
use url::Url;

use crate::{connection::Connection, failure::Failure, filters::Filter, problem::Problem};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the gateway may take to respond, beyond the time that it is asked to wait.
const RESPONSE_LIMIT: Duration = Duration::from_mins(1);
/// More than the gateway's longest page.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

const REQUEST_ID: &str = "x-request-id";
const JSON: &str = "application/json";
pub(crate) const NDJSON: &str = "application/x-ndjson";

#[derive(Debug)]
pub(crate) struct Api {
    client: Client,
    base: Url,
    authorization: Option<HeaderValue>,
}

/// A request to make.
#[derive(Debug)]
pub(crate) struct Call {
    method: Method,
    path: Vec<String>,
    query: Vec<(&'static str, String)>,
    headers: Vec<(HeaderName, String)>,
    body: Option<(&'static str, String)>,
    limit: Duration,
}

impl Call {
    fn new(method: Method, path: &[&str]) -> Self {
        Self {
            method,
            path: path.iter().map(|&segment| segment.to_owned()).collect(),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
            limit: RESPONSE_LIMIT,
        }
    }

    pub(crate) fn get(path: &[&str]) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn post(path: &[&str]) -> Self {
        Self::new(Method::POST, path)
    }

    pub(crate) fn put(path: &[&str]) -> Self {
        Self::new(Method::PUT, path)
    }

    pub(crate) fn delete(path: &[&str]) -> Self {
        Self::new(Method::DELETE, path)
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(crate) fn filter(mut self, filter: &Filter) -> Self {
        self.query.extend(filter.query());
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.body(JSON, body.to_string())
    }

    pub(crate) fn body(mut self, kind: &'static str, body: impl Into<String>) -> Self {
        self.body = Some((kind, body.into()));
        self
    }

    /// The gateway is asked to wait for so long before it responds.
    pub(crate) const fn waits(mut self, waits: Duration) -> Self {
        self.limit = RESPONSE_LIMIT.saturating_add(waits);
        self
    }

    pub(crate) const fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}

/// A response of success.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) etag: Option<String>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn value(&self) -> Result<Value, Failure> {
        serde_json::from_str(&self.body).map_err(|_error| not_ours())
    }
}

/// Another server may answer under the URL.
pub(crate) fn not_ours() -> Failure {
    Failure::Failed(
        "the response is not one of Roundtrip's; does the URL lead to its API?".to_owned(),
    )
}

impl Api {
    pub(crate) fn open(connection: &Connection) -> Result<Self, Failure> {
        let Connection { url, key, roots } = connection;
        let mut builder = Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("roundtrip/", env!("CARGO_PKG_VERSION")));
        // Without them the client would look for this machine's authorities, which may be missing.
        if url.scheme() == "http" || !roots.is_empty() {
            let roots = roots.certificates().iter();
            let roots: Result<Vec<_>, _> = roots.map(|der| Certificate::from_der(der)).collect();
            builder = builder.tls_certs_only(roots.map_err(|error| failed(&error))?);
        }
        let authorization = key.as_ref().map(|key| {
            let value = HeaderValue::try_from(format!("Bearer {}", key.expose_secret()));
            let mut value = value.map_err(|_error| {
                Failure::Usage("the API key has characters that no key has".to_owned())
            })?;
            value.set_sensitive(true);
            Ok::<_, Failure>(value)
        });
        Ok(Self {
            client: builder.build().map_err(|error| failed(&error))?,
            base: url.clone(),
            authorization: authorization.transpose()?,
        })
    }

    /// Makes a request.
    ///
    /// # Errors
    /// A response of 400 or above is a [`Failure::Problem`].
    pub(crate) async fn call(&self, call: Call) -> Result<Reply, Failure> {
        let (status, headers, body) = self.exchange(call).await?;
        if status.is_success() {
            return Ok(Reply {
                status: status.as_u16(),
                etag: text(&headers, ETAG.as_str()),
                body,
            });
        }
        let reason = status.canonical_reason().unwrap_or_default();
        let id = text(&headers, REQUEST_ID);
        let mut problem = Problem::of(status.as_u16(), reason, &body, id);
        let seconds = text(&headers, RETRY_AFTER.as_str()).and_then(|text| text.parse().ok());
        problem.retry_after = seconds.map(Duration::from_secs);
        Err(Failure::Problem(Box::new(problem)))
    }

    /// Makes a request, whatever the status of its response.
    pub(crate) async fn exchange(
        &self,
        call: Call,
    ) -> Result<(StatusCode, HeaderMap, String), Failure> {
        let limit = call.limit;
        let url = url(&self.base, &call)?;
        let mut headers = HeaderMap::new();
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        for (name, value) in call.headers {
            let value = HeaderValue::try_from(value).map_err(|_error| {
                Failure::Usage(format!(
                    "the value for the header '{name}' has unusable characters"
                ))
            })?;
            headers.insert(name, value);
        }
        let mut request = self.client.request(call.method, url).timeout(limit);
        if let Some((kind, body)) = call.body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            request = request.body(body);
        }
        let sent = request.headers(headers).send().await;
        let mut response = sent.map_err(|error| self.unreachable(&error, limit))?;
        let body = self.read(&mut response, limit).await?;
        Ok((response.status(), response.headers().clone(), body))
    }

    async fn read(&self, response: &mut Response, limit: Duration) -> Result<String, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.unreachable(&error, limit))?
        {
            if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                return Err(Failure::Failed(format!(
                    "the response is longer than {MAX_RESPONSE_BYTES} bytes"
                )));
            }
            body.extend_from_slice(&chunk);
        }
        String::from_utf8(body).map_err(|_error| not_ours())
    }

    fn unreachable(&self, error: &reqwest::Error, limit: Duration) -> Failure {
        let base = &self.base;
        if error.is_timeout() {
            let limit = if error.is_connect() {
                limit.min(CONNECT_LIMIT)
            } else {
                limit
            };
            let limit = humantime::format_duration(limit);
            return Failure::Unreachable(format!("{base} did not respond within {limit}"));
        }
        let source = std::error::Error::source(error);
        let why = source.map_or_else(|| error.to_string(), chain);
        Failure::Unreachable(format!("{base} cannot be reached: {why}"))
    }
}

fn url(base: &Url, call: &Call) -> Result<Url, Failure> {
    let is_dropped = |id: &&String| ["", ".", ".."].contains(&id.as_str());
    // A URL drops these segments, and the call would be another one.
    if let Some(id) = call.path.iter().find(is_dropped) {
        return Err(Failure::Usage(format!("'{id}' cannot be an id in a call")));
    }
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(&call.path);
    }
    if !call.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&call.query);
    }
    Ok(url)
}

fn failed(error: &reqwest::Error) -> Failure {
    Failure::Failed(chain(error))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("http://h", "http://h/sessions/a%2F..%2Fb%3F?since=00%3A00%2B01%3A00")]
    #[case(
        "http://h/p/",
        "http://h/p/sessions/a%2F..%2Fb%3F?since=00%3A00%2B01%3A00"
    )]
    fn an_id_stays_one_segment_of_the_path(#[case] base: &str, #[case] expected: &str) {
        let call = Call::get(&["sessions", "a/../b?"]).query("since", "00:00+01:00");
        let url = url(&Url::parse(base).unwrap(), &call).unwrap();
        assert_eq!(url.as_str(), expected);
    }

    #[rstest]
    #[case("")]
    #[case(".")]
    #[case("..")]
    fn an_id_that_a_url_drops_is_refused(#[case] id: &str) {
        let base = Url::parse("http://h").unwrap();
        let refused = url(&base, &Call::get(&["channel", id])).unwrap_err();
        assert!(matches!(refused, Failure::Usage(_)));
    }
}
