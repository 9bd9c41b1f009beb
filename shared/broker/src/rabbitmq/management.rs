//! Periodically asks RabbitMQ's management API which policies apply to the gateway's exchanges and
//! queues.
//!
//! Invariant: a problem is a warning, logged once and shown on `/readyz` while it lasts. The check
//! stops nothing, changes nothing in RabbitMQ, and reveals neither the URL nor its credentials.

use std::{sync::Arc, time::Duration};

use lapin::uri::AMQPUserInfo;
use parking_lot::Mutex;
use reqwest::{Certificate, Client, Response, StatusCode};
use roundtrip_model::{WrongSetting, config::chain};
use roundtrip_tls::Roots;
use serde::de::DeserializeOwned;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    endpoint::Endpoint,
    foreign_policies::{Found, Target},
    policies,
};
use crate::Config;

/// Time between two checks. RabbitMQ itself shows a change after about 5 s.
const CHECK_EVERY: Duration = Duration::from_secs(20);

const RESPONSE_LIMIT: Duration = Duration::from_secs(5);

const MAX_RESPONSE: usize = 4 << 20;

/// Maximum number of exchanges or queues in a response: RabbitMQ's limit. A namespace has about 90.
const PAGE: &str = "500";

pub(super) struct Management {
    client: Client,
    base: Url,
    vhost: String,
    /// The user and the password, unless the URL has its own.
    user: Option<AMQPUserInfo>,
    config: Config,
    warnings: Arc<Warnings>,
}

#[derive(Debug, Default)]
pub(super) struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    pub(super) fn get(&self) -> Vec<String> {
        self.0.lock().clone()
    }

    fn replace(&self, found: Vec<String>) {
        let mut known = self.0.lock();
        for warning in found.iter().filter(|warning| !known.contains(warning)) {
            tracing::warn!(warning, "a check of RabbitMQ's policies");
        }
        if found.is_empty() && !known.is_empty() {
            tracing::info!("RabbitMQ's policies are as they should be");
        }
        *known = found;
    }
}

/// Why the API gave no result. The HTTP client's errors are stripped of the URL.
#[derive(Debug, thiserror::Error)]
enum ManagementError {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("it answered {0}; the user needs the tag `management` and a permission in the vhost")]
    Denied(StatusCode),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("it answered more than {MAX_RESPONSE} bytes")]
    TooLarge,
    #[error("its response has an unexpected form: {0}")]
    Response(#[from] serde_json::Error),
}

impl Management {
    /// The configured API, if any. Its URL may lack a user: then it is the endpoint's.
    pub(super) fn of(config: &Config, endpoint: &Endpoint) -> Result<Option<Self>, WrongSetting> {
        let Some(url) = &config.management_url else {
            return Ok(None);
        };
        let problem = |problem: &str| WrongSetting::new("management_url", problem);
        let mut base = Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.query().is_none())
            .ok_or_else(|| problem(MALFORMED))?;
        // The HTTP client uses a URL's credentials by itself.
        let user = base.username().is_empty();
        base.path_segments_mut()
            .map_err(|()| problem(MALFORMED))?
            .pop_if_empty()
            .push("api");
        let client = client(&base, &endpoint.roots).map_err(|_| problem(NO_AUTHORITIES))?;
        Ok(Some(Self {
            client,
            base,
            vhost: endpoint.vhost().to_owned(),
            user: user.then(|| endpoint.user().clone()),
            config: config.clone(),
            warnings: Arc::default(),
        }))
    }

    pub(super) fn warnings(&self) -> Arc<Warnings> {
        Arc::clone(&self.warnings)
    }

    pub(super) async fn watch(self, closed: CancellationToken) {
        let mut due = interval(CHECK_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tokio::select! {
                () = closed.cancelled() => return,
                _ = due.tick() => {}
            }
            let found = tokio::select! {
                () = closed.cancelled() => return,
                found = self.find() => found,
            };
            match found {
                Ok(found) => {
                    failing = false;
                    self.warnings.replace(found.warnings(&self.config));
                }
                // The cause may vary between checks; only the first failure is logged.
                Err(_) if failing => {}
                Err(error) => {
                    failing = true;
                    // Its causes contain neither the URL nor the credentials.
                    self.warnings.replace(vec![format!(
                        "the management API at broker.management_url cannot be read: {}",
                        chain(&error)
                    )]);
                }
            }
        }
    }

    async fn find(&self) -> Result<Found, ManagementError> {
        Ok(Found {
            exchanges: self.targets("exchanges").await?,
            queues: self.targets("queues").await?,
            policies: self.get(self.url("policies")).await?,
            operator_policies: self.get(self.url("operator-policies")).await?,
            nodes: self.nodes().await?,
        })
    }

    async fn targets(&self, what: &str) -> Result<Vec<Target>, ManagementError> {
        #[derive(serde::Deserialize)]
        struct Page {
            items: Vec<Target>,
        }
        let mut url = self.url(what);
        url.query_pairs_mut()
            .append_pair("page", "1")
            .append_pair("page_size", PAGE)
            .append_pair("use_regex", "true")
            .append_pair("name", &policies::names(&self.config.namespace))
            .append_pair("columns", "name,policy,operator_policy,arguments,members");
        Ok(self.get::<Page>(url).await?.items)
    }

    /// Number of nodes in the cluster, including stopped ones. `None` if the user lacks the tag
    /// `monitoring`, which this call requires.
    async fn nodes(&self) -> Result<Option<usize>, ManagementError> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.push("nodes");
        }
        url.query_pairs_mut().append_pair("columns", "name");
        match self.get::<Vec<serde::de::IgnoredAny>>(url).await {
            Ok(nodes) => Ok(Some(nodes.len())),
            Err(ManagementError::Denied(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn url(&self, what: &str) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend([what, &self.vhost]);
        }
        url
    }

    async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, ManagementError> {
        let mut request = self.client.get(url);
        if let Some(user) = &self.user {
            request = request.basic_auth(&user.username, Some(&user.password));
        }
        let response = request.send().await.map_err(reqwest::Error::without_url)?;
        match response.status() {
            StatusCode::OK => Ok(serde_json::from_slice(&body(response).await?)?),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(ManagementError::Denied(status))
            }
            status => Err(ManagementError::Status(status)),
        }
    }
}

const MALFORMED: &str = "is malformed; it is http://host:15672 or http://user:password@host:15672, \
                         with the user's name and the password percent-encoded";

const NO_AUTHORITIES: &str =
    "is https://, and this machine has no certificate authorities: set broker.ca_file";

fn client(base: &Url, roots: &Roots) -> Result<Client, reqwest::Error> {
    // Fails if the program has already installed a provider, which is equally good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .timeout(RESPONSE_LIMIT)
        .no_proxy()
        // Without redirects, the credentials go only to this server.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false);
    if base.scheme() == "http" || !roots.is_empty() {
        let roots = roots.certificates().iter();
        let roots: Result<Vec<_>, _> = roots.map(|der| Certificate::from_der(der)).collect();
        builder = builder.tls_certs_only(roots?);
    }
    builder.build()
}

async fn body(mut response: Response) -> Result<Vec<u8>, ManagementError> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(reqwest::Error::without_url)?
    {
        if body.len() + chunk.len() > MAX_RESPONSE {
            return Err(ManagementError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
