//! The configuration: defaults, then the file, then the environment.
//!
//! Invariant: every unknown key and every invalid value is one line on standard error. They are all
//! reported together, with exit status 64 (`EX_USAGE`), before anything starts.

mod environment;
mod file;
mod known;
mod problem;
mod reading;
mod secret;
mod tree;

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use roundtrip_egress::{Egress, Loopback};
use roundtrip_ingress::{CallbackAuth, MAX_KEY_BYTES};
use roundtrip_model::{
    KeyHash, SealingKeys, Signer, SigningSecret, TokenKeys, channel::http_url, signing::MAX_SECRETS,
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{key_file, telemetry};

pub(crate) use problem::{Problem, chain};
pub(crate) use secret::{Secret, SecretList};

/// The commented default file; a test compares it with the defaults of the code.
pub(crate) const DEFAULT_FILE: &str = include_str!("../roundtrip.toml");

/// The file that is read if none is named and this one exists.
const USUAL_FILE: &str = "roundtrip.toml";

/// The data folder if the store is on another server.
const DATA_FOLDER: &str = "data";
/// Development's key that seals the secrets of channels.
const ENCRYPTION_KEY_FILE: &str = "encryption.key";
/// Development's key for the tokens in response URLs.
const CALLBACK_KEY_FILE: &str = "callback.key";

/// `EX_USAGE` of sysexits.h.
pub(crate) const EXIT_USAGE: u8 = 64;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub environment: Environment,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_server: Option<String>,
    #[serde(skip_serializing)]
    pub callback_secret: Option<SecretList>,
    #[serde(with = "humantime_serde")]
    pub callback_ttl: Duration,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback_auth: Option<CallbackAuth>,
    #[serde(skip_serializing)]
    pub sessions_secret: Option<SecretList>,
    #[serde(skip_serializing)]
    pub encryption_keys: Option<SecretList>,
    #[serde(skip_serializing)]
    pub operator_key: Option<Secret>,
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    pub log: telemetry::Config,
    pub broker: roundtrip_broker::Config,
    pub store: roundtrip_store::Config,
    pub egress: roundtrip_egress::Config,
    pub operations: Operations,
    pub ingress: roundtrip_ingress::Config,
    pub dispatcher: roundtrip_dispatcher::Config,
    pub forwarder: roundtrip_forwarder::Config,
    pub recorder: roundtrip_recorder::Config,
}

/// The shortest operator key: too long to guess.
const MIN_OPERATOR_KEY_BYTES: usize = 32;

const DEFAULT_DRAIN: Duration = Duration::from_secs(20);
const DEFAULT_CALLBACK_TTL: Duration = Duration::from_hours(7 * 24);
/// A channel needs a moment to answer.
const MIN_CALLBACK_TTL: Duration = Duration::from_secs(1);
/// A longer time is most likely a mistake.
const MAX_CALLBACK_TTL: Duration = Duration::from_hours(366 * 24);

impl Default for Config {
    fn default() -> Self {
        Self {
            environment: Environment::Development,
            public_url: None,
            sessions_server: None,
            callback_secret: None,
            callback_ttl: DEFAULT_CALLBACK_TTL,
            callback_auth: None,
            sessions_secret: None,
            encryption_keys: None,
            operator_key: None,
            drain: DEFAULT_DRAIN,
            log: telemetry::Config::default(),
            broker: roundtrip_broker::Config::default(),
            store: roundtrip_store::Config::default(),
            egress: roundtrip_egress::Config::default(),
            operations: Operations::default(),
            ingress: roundtrip_ingress::Config::default(),
            dispatcher: roundtrip_dispatcher::Config::default(),
            forwarder: roundtrip_forwarder::Config::default(),
            recorder: roundtrip_recorder::Config::default(),
        }
    }
}

/// Whether untrusted clients can connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Environment {
    /// Loopback only, with an echo channel and an inbox for answers.
    Development,
    /// Keys and secrets are required.
    Production,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Operations {
    /// The address of the health and readiness checks.
    pub listen: SocketAddr,
}

impl Default for Operations {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8001)),
        }
    }
}

/// Reads and checks the configuration.
pub(crate) fn load(file: Option<&Path>) -> Result<Config, Problem> {
    let config = read(file)?;
    config.check()?;
    Ok(config)
}

/// Reads the configuration for a command that needs a section alone, which it checks itself.
pub(crate) fn read(file: Option<&Path>) -> Result<Config, Problem> {
    read_with(file, std::env::vars_os())
}

fn read_with(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, Problem> {
    let mut table = file::read(file)?;
    let laid_over = environment::lay_over(&mut table, variables);
    match reading::read_all(table) {
        Ok(config) => laid_over.map(|()| config),
        Err(problem) => Err(problem.after(laid_over)),
    }
}

impl Config {
    /// Checks the relations between values, and each section. All problems are reported at once.
    fn check(&self) -> Result<(), Problem> {
        let mut results = vec![
            self.sessions_server().map(drop),
            self.public_url().map(drop),
            self.ingress
                .check()
                .map_err(|error| Problem::section("ingress", &error)),
            self.dispatcher
                .check()
                .map_err(|error| Problem::section("dispatcher", &error)),
            self.forwarder
                .check()
                .map_err(|error| Problem::section("forwarder", &error)),
            self.check_egress(),
            self.log.check(),
            self.configured_tokens().map(drop),
            self.sessions_signer().map(drop),
            self.configured_sealing().map(drop),
            self.operator_key().map(drop),
        ];
        let unless = |holds, key, problem: &str| {
            if holds {
                Ok(())
            } else {
                Err(Problem::key(key, problem))
            }
        };
        results.extend([
            unless(
                self.recorder.batches_at_once > 0,
                "recorder.batches_at_once",
                "must be greater than zero",
            ),
            unless(
                self.recorder.dead_letters_at_once > 0,
                "recorder.dead_letters_at_once",
                "must be greater than zero",
            ),
            // Otherwise keys would be too old between two reads of them.
            unless(
                self.ingress.keys_max_age > self.store.cache_ttl,
                "ingress.keys_max_age",
                "must be longer than store.cache_ttl",
            ),
            unless(
                (MIN_CALLBACK_TTL..=MAX_CALLBACK_TTL).contains(&self.callback_ttl),
                "callback_ttl",
                "must be 1s to 366 days",
            ),
            unless(
                self.callback_ttl > self.dispatcher.retry.max_age,
                "callback_ttl",
                "must be longer than dispatcher.retry.max_age: a message may be delivered that \
                 late",
            ),
        ]);
        match self.environment {
            Environment::Development => results.extend(self.loopback_only()),
            Environment::Production => {
                results.extend(self.needed_in_production());
                results.push(self.no_placeholders());
            }
        }
        Problem::all(results)
    }

    fn check_egress(&self) -> Result<(), Problem> {
        let egress = |error| Problem::section("egress", &error);
        Problem::all([
            self.egress.guard(self.loopback()).map(drop).map_err(egress),
            self.egress.roots().map(drop).map_err(egress),
        ])
    }

    fn loopback_only(&self) -> impl Iterator<Item = Result<(), Problem>> {
        let listens = [
            ("ingress.listen", self.ingress.listen),
            ("operations.listen", self.operations.listen),
        ];
        listens.into_iter().map(|(key, listen)| {
            if listen.ip().is_loopback() {
                return Ok(());
            }
            Err(Problem::key(
                key,
                format!(
                    "is {listen}: environment = \"development\" listens on loopback only; set \
                     environment = \"production\""
                ),
            ))
        })
    }

    /// The settings that production requires and that are missing, with how to make each.
    fn needed_in_production(&self) -> impl Iterator<Item = Result<(), Problem>> {
        let settings = [
            (
                self.sessions_server.is_some(),
                "sessions_server",
                "(SESSIONS_SERVER) must be set if environment = \"production\": answers are \
                 posted there",
            ),
            (
                self.public_url.is_some(),
                "public_url",
                "(ROUNDTRIP__PUBLIC_URL) must be set if environment = \"production\": channels \
                 answer to it",
            ),
            (
                self.callback_secret.is_some(),
                "callback_secret",
                "(CALLBACK_SECRET) must be set if environment = \"production\": it signs the \
                 tokens that link an answer to its message; make it with `openssl rand -hex 32`",
            ),
            (
                self.sessions_secret.is_some(),
                "sessions_secret",
                "(SESSIONS_SECRET) must be set if environment = \"production\": the sessions \
                 server verifies with it that an answer comes from the gateway; make it with \
                 `echo whsec_$(openssl rand -base64 32)`",
            ),
            (
                self.encryption_keys.is_some(),
                "encryption_keys",
                "(ENCRYPTION_KEYS) must be set if environment = \"production\": the secrets of \
                 channels are encrypted with them; make one with `openssl rand -base64 32`",
            ),
        ];
        settings.into_iter().map(|(is_set, key, problem)| {
            if is_set {
                Ok(())
            } else {
                Err(Problem::key(key, problem))
            }
        })
    }

    /// Refuses key material whose bytes are all equal: it is a placeholder and not random.
    fn no_placeholders(&self) -> Result<(), Problem> {
        let decoded = |text: &str| BASE64_STANDARD.decode(text).unwrap_or_default();
        let list = |list: &Option<SecretList>, bytes: &dyn Fn(&str) -> Vec<u8>| {
            let list = list.as_ref();
            list.is_some_and(|list| list.iter().any(|text| is_one_byte(&bytes(text))))
        };
        let signing = |text: &str| {
            text.parse()
                .map_or(Vec::new(), |secret: SigningSecret| secret.bytes().to_vec())
        };
        let operator = self.operator_key.as_ref();
        let secrets = [
            (
                "callback_secret",
                list(&self.callback_secret, &|text| text.as_bytes().to_vec()),
                "openssl rand -hex 32",
            ),
            (
                "sessions_secret",
                list(&self.sessions_secret, &signing),
                "echo whsec_$(openssl rand -base64 32)",
            ),
            (
                "encryption_keys",
                list(&self.encryption_keys, &decoded),
                "openssl rand -base64 32",
            ),
            (
                "operator_key",
                operator.is_some_and(|Secret(key)| is_one_byte(key.expose_secret().as_bytes())),
                "openssl rand -hex 32",
            ),
        ];
        Problem::all(secrets.into_iter().map(|(key, is_placeholder, command)| {
            if !is_placeholder {
                return Ok(());
            }
            let problem =
                format!("must be random, for example from `{command}`: all its bytes are the same");
            Err(Problem::key(key, problem))
        }))
    }

    /// Where answers go: the SESSIONS_SERVER, or the inbox in development.
    pub(crate) fn sessions_server(&self) -> Result<Url, Problem> {
        match &self.sessions_server {
            Some(text) => {
                http_url(text).map_err(|problem| Problem::key("sessions_server", problem))
            }
            None => Ok(self.under_public_url("dev/sessions")?),
        }
    }

    /// Where channels may be. In development they run on the same machine.
    pub(crate) fn egress(&self) -> Result<Egress, Problem> {
        Egress::new(&self.egress, self.loopback())
            .map_err(|error| Problem::section("egress", &error))
    }

    const fn loopback(&self) -> Loopback {
        match self.environment {
            Environment::Development => Loopback::Allowed,
            Environment::Production => Loopback::Refused,
        }
    }

    /// The `response_url` of messages that name none.
    pub(crate) fn own_response_url(&self) -> Result<Url, Problem> {
        self.under_public_url("webhook-response")
    }

    /// The keys of the tokens in response URLs. Development without configured keys keeps one in a
    /// file beside the data, so that tokens outlive the process.
    pub(crate) fn tokens(&self) -> Result<TokenKeys, Problem> {
        match self.configured_tokens()? {
            Some(keys) => Ok(keys),
            None => key_file::tokens(&self.beside_the_data(CALLBACK_KEY_FILE))
                .map_err(|error| Problem::of_error(&error)),
        }
    }

    fn configured_tokens(&self) -> Result<Option<TokenKeys>, Problem> {
        let secrets = self.callback_secret.as_ref();
        let keys = secrets.map(|secrets| TokenKeys::new(secrets.iter().map(str::as_bytes)));
        keys.transpose()
            .map_err(|problem| Problem::key("callback_secret", problem.to_string()))
    }

    /// Whether an answer needs a token. In development it does not: the client's specification
    /// posts without one.
    pub(crate) fn callback_auth(&self) -> CallbackAuth {
        self.callback_auth.unwrap_or(match self.environment {
            Environment::Development => CallbackAuth::Open,
            Environment::Production => CallbackAuth::Signed,
        })
    }

    /// Signs answers for the SESSIONS_SERVER. Development may have none.
    pub(crate) fn sessions_signer(&self) -> Result<Option<Signer>, Problem> {
        let Some(list) = &self.sessions_secret else {
            return Ok(None);
        };
        let secrets: Result<Vec<SigningSecret>, _> = list.iter().map(str::parse).collect();
        let secrets = secrets
            .map_err(|problem| Problem::key("sessions_secret", format!("each {problem}")))?;
        let (newest, older) = match secrets.split_first() {
            Some(split) if secrets.len() <= MAX_SECRETS => split,
            _ => {
                let problem = format!("must contain 1 to {MAX_SECRETS} secrets");
                return Err(Problem::key("sessions_secret", problem));
            }
        };
        let older = older.iter().map(|older| (older.clone(), None));
        Ok(Some(Signer::new(newest, older)))
    }

    /// The keys of the secrets at rest. Development without configured keys keeps one in a file
    /// beside the data.
    pub(crate) fn sealing(&self) -> Result<SealingKeys, Problem> {
        match self.configured_sealing()? {
            Some(keys) => Ok(keys),
            None => key_file::sealing(&self.beside_the_data(ENCRYPTION_KEY_FILE))
                .map_err(|error| Problem::of_error(&error)),
        }
    }

    fn configured_sealing(&self) -> Result<Option<SealingKeys>, Problem> {
        let keys = self.encryption_keys.as_ref();
        let keys = keys.map(|keys| SealingKeys::parse(keys.iter())).transpose();
        keys.map_err(|problem| Problem::key("encryption_keys", problem.to_string()))
    }

    fn beside_the_data(&self, name: &str) -> PathBuf {
        let file = self.store.url.strip_prefix("sqlite:").map(Path::new);
        let beside = file
            .and_then(Path::parent)
            .unwrap_or(Path::new(DATA_FOLDER));
        beside.join(name)
    }

    /// The hash of the operator's key in the configuration, if there is one.
    pub(crate) fn operator_key(&self) -> Result<Option<KeyHash>, Problem> {
        let Some(Secret(key)) = &self.operator_key else {
            return Ok(None);
        };
        let key = key.expose_secret();
        let is_long_enough = (MIN_OPERATOR_KEY_BYTES..=MAX_KEY_BYTES).contains(&key.len());
        // Any other character may change on its way through a header.
        if is_long_enough && key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Some(KeyHash::of(key)));
        }
        Err(Problem::key(
            "operator_key",
            format!(
                "must be {MIN_OPERATOR_KEY_BYTES} to {MAX_KEY_BYTES} printable ASCII characters \
                 without spaces"
            ),
        ))
    }

    /// Where development's echo channel takes messages.
    pub(crate) fn echo_url(&self) -> Result<Url, Problem> {
        self.under_public_url("dev/echo/incoming")
    }

    fn under_public_url(&self, path: &str) -> Result<Url, Problem> {
        let mut url = self.public_url()?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        Ok(url)
    }

    /// The gateway's URL as channels reach it; in development, where it listens.
    fn public_url(&self) -> Result<Url, Problem> {
        let Some(text) = &self.public_url else {
            return self.listening_url();
        };
        let url = http_url(text).map_err(|problem| Problem::key("public_url", problem))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Problem::key(
                "public_url",
                "must not contain a user name or a password: every channel receives it",
            ));
        }
        Ok(url)
    }

    /// Where the API listens.
    pub(crate) fn listening_url(&self) -> Result<Url, Problem> {
        let scheme = self.ingress.tls.as_ref().map_or("http", |_| "https");
        http_url(&format!("{scheme}://{}", self.ingress.listen))
            .map_err(|problem| Problem::key("ingress.listen", problem))
    }
}

fn is_one_byte(bytes: &[u8]) -> bool {
    bytes
        .split_first()
        .is_some_and(|(first, rest)| rest.iter().all(|byte| byte == first))
}

#[cfg(test)]
mod tests;
