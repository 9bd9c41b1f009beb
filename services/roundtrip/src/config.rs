//! The configuration: defaults, then the file, then the environment.
//!
//! Invariant: every unknown key and every wrong or missing value is one line on standard error. They
//! are all reported together, with exit status 64, before anything starts.

mod checks;
mod effective;
mod environment;
mod file;
mod known;
mod reading;
mod secret;
mod tree;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use roundtrip_egress::{Egress, Loopback};
use roundtrip_ingress::{CallbackAuth, MAX_KEY_BYTES};
use roundtrip_model::{
    Check, KeyHash, SealingKeys, Signer, SigningSecret, TokenKeys, WrongSetting, WrongSettings,
    channel::http_url, config::chain, redacted, section, signing::MAX_SECRETS,
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    cli::Role,
    key_file::{self, KeyFileError},
    telemetry,
};

use tree::Table;

pub(crate) use effective::{Setting, shown};
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

const EXIT_CONFIGURATION: u8 = 64;

/// The shortest operator key: too long to guess.
const MIN_OPERATOR_KEY_BYTES: usize = 32;
/// A channel needs a moment to answer; more than a year is most likely a mistake.
const CALLBACK_TTLS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_hours(366 * 24);

/// The windows of notices that can be configured.
const NOTICE_WINDOWS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);

section! {
    #[derive(Debug)]
    pub(crate) struct Config {
        environment: Environment = Environment::Development;
        #[serde(skip_serializing_if = "Option::is_none")]
        public_url: Option<String> = None;
        #[serde(skip_serializing_if = "Option::is_none")]
        sessions_server: Option<String> = None;
        #[serde(skip_serializing)]
        callback_secret: Option<SecretList> = None;
        #[serde(with = "humantime_serde")]
        callback_ttl: Duration = Duration::from_hours(7 * 24), in CALLBACK_TTLS;
        #[serde(skip_serializing_if = "Option::is_none")]
        callback_auth: Option<CallbackAuth> = None;
        #[serde(skip_serializing)]
        sessions_secret: Option<SecretList> = None;
        #[serde(skip_serializing)]
        encryption_keys: Option<SecretList> = None;
        #[serde(skip_serializing)]
        operator_key: Option<Secret> = None;
        #[serde(with = "humantime_serde")]
        drain: Duration = Duration::from_secs(20);
        log: telemetry::Config = telemetry::Config::default();
        broker: roundtrip_broker::Config = roundtrip_broker::Config::default();
        store: roundtrip_store::Config = roundtrip_store::Config::default();
        egress: roundtrip_egress::Config = roundtrip_egress::Config::default();
        operations: Operations = Operations::default();
        notices: Notices = Notices::default();
        ingress: roundtrip_ingress::Config = roundtrip_ingress::Config::default();
        dispatcher: roundtrip_dispatcher::Config = roundtrip_dispatcher::Config::default();
        forwarder: roundtrip_forwarder::Config = roundtrip_forwarder::Config::default();
        recorder: roundtrip_recorder::Config = roundtrip_recorder::Config::default();
    }
}

section! {
    #[derive(Debug, Eq)]
    pub(crate) struct Operations {
        listen: SocketAddr = (Ipv4Addr::LOCALHOST, 8001).into();
    }
}

section! {
    #[derive(Debug)]
    pub(crate) struct Notices {
        /// Where notices are posted; none are made without it.
        #[serde(skip_serializing_if = "Option::is_none")]
        url: Option<String> = None;
        /// The signing secrets, newest first.
        #[serde(skip_serializing)]
        secret: Option<SecretList> = None;
        /// All events of one kind that concern one channel lead to one notice in this time.
        #[serde(with = "humantime_serde")]
        window: Duration = Duration::from_mins(5), in NOTICE_WINDOWS;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Environment {
    /// Loopback only, with an echo channel and an inbox for answers.
    Development,
    /// Keys and secrets are required.
    Production,
}

/// Reads the configuration, and checks it for a process with these roles.
pub(crate) fn load(file: Option<&Path>, roles: &BTreeSet<Role>) -> Result<Config, WrongSettings> {
    let mut check = Check::default();
    let config = read_with(file, std::env::vars_os(), &mut check);
    if let Some(config) = &config {
        config.check(roles, &mut check);
    }
    check.end_with(config)
}

/// Reads the configuration for a command that needs a section alone, which it checks itself.
pub(crate) fn read(file: Option<&Path>) -> Result<Config, WrongSettings> {
    let mut check = Check::default();
    let config = read_with(file, std::env::vars_os(), &mut check);
    check.end_with(config)
}

/// Every setting of a process with these roles, after the same checks as at its start.
pub(crate) fn effective(
    file: Option<&Path>,
    roles: &BTreeSet<Role>,
) -> Result<Vec<Setting>, WrongSettings> {
    let mut check = Check::default();
    let written = written(file, std::env::vars_os(), &mut check);
    let config = reading::read_all::<Config>(written.clone(), &mut check);
    if let Some(config) = &config {
        config.check(roles, &mut check);
    }
    let config = check.end_with(config)?;
    Ok(effective::settings(&config, &written))
}

/// The configuration, with its default in place of each value that cannot be read.
fn read_with(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    check: &mut Check,
) -> Option<Config> {
    let written = written(file, variables, check);
    reading::read_all(written, check)
}

/// The values of the file, and those of the environment over them.
fn written(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    check: &mut Check,
) -> Table {
    let mut table = check.take(file::read(file)).unwrap_or_default();
    environment::lay_over(&mut table, variables, check);
    table
}

pub(crate) fn refuse(wrong: &WrongSettings) -> ExitCode {
    for wrong in wrong.iter() {
        eprintln!("roundtrip: configuration: {}", redacted(&wrong.to_string()));
    }
    ExitCode::from(EXIT_CONFIGURATION)
}

/// Development has no key in its configuration, and no file for one.
fn no_key_file(key: &str, error: &KeyFileError) -> WrongSetting {
    WrongSetting::new(key, format!("is not set, and {}", chain(error)))
}

impl Config {
    /// Where answers go: the SESSIONS_SERVER, or the inbox in development.
    pub(crate) fn sessions_server(&self) -> Result<Url, WrongSetting> {
        match &self.sessions_server {
            Some(text) => {
                http_url(text).map_err(|problem| WrongSetting::new("sessions_server", problem))
            }
            None => self.under_public_url("dev/sessions"),
        }
    }

    /// Where channels may be. In development they run on the same machine.
    pub(crate) fn egress(&self) -> Result<Egress, WrongSettings> {
        Egress::new(&self.egress, self.loopback())
    }

    const fn loopback(&self) -> Loopback {
        match self.environment {
            Environment::Development => Loopback::Allowed,
            Environment::Production => Loopback::Refused,
        }
    }

    /// The `response_url` of messages that name none.
    pub(crate) fn own_response_url(&self) -> Result<Url, WrongSetting> {
        self.under_public_url("webhook-response")
    }

    /// The keys of the tokens in response URLs. Development without configured keys keeps one in a
    /// file beside the data, so that tokens outlive the process.
    pub(crate) fn tokens(&self) -> Result<TokenKeys, WrongSetting> {
        match self.configured_tokens()? {
            Some(keys) => Ok(keys),
            None => key_file::tokens(&self.beside_the_data(CALLBACK_KEY_FILE))
                .map_err(|error| no_key_file("callback_secret", &error)),
        }
    }

    fn configured_tokens(&self) -> Result<Option<TokenKeys>, WrongSetting> {
        let secrets = self.callback_secret.as_ref();
        let keys = secrets.map(|secrets| TokenKeys::new(secrets.iter().map(str::as_bytes)));
        keys.transpose()
            .map_err(|problem| WrongSetting::new("callback_secret", problem.to_string()))
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
    pub(crate) fn sessions_signer(&self) -> Result<Option<Signer>, WrongSetting> {
        signer("sessions_secret", self.sessions_secret.as_ref())
    }

    /// Where notices are posted, if they are on.
    pub(crate) fn notices_url(&self) -> Result<Option<Url>, WrongSetting> {
        let url = self.notices.url.as_deref().map(http_url).transpose();
        url.map_err(|problem| WrongSetting::new("notices.url", problem))
    }

    /// Signs notices. Development may have no secret.
    pub(crate) fn notices_signer(&self) -> Result<Option<Signer>, WrongSetting> {
        signer("notices.secret", self.notices.secret.as_ref())
    }

    /// The keys of the secrets at rest. Development without configured keys keeps one in a file
    /// beside the data.
    pub(crate) fn sealing(&self) -> Result<SealingKeys, WrongSetting> {
        match self.configured_sealing()? {
            Some(keys) => Ok(keys),
            None => key_file::sealing(&self.beside_the_data(ENCRYPTION_KEY_FILE))
                .map_err(|error| no_key_file("encryption_keys", &error)),
        }
    }

    fn configured_sealing(&self) -> Result<Option<SealingKeys>, WrongSetting> {
        let keys = self.encryption_keys.as_ref();
        let keys = keys.map(|keys| SealingKeys::parse(keys.iter())).transpose();
        keys.map_err(|problem| WrongSetting::new("encryption_keys", problem.to_string()))
    }

    fn beside_the_data(&self, name: &str) -> PathBuf {
        let file = self.store.url.strip_prefix("sqlite:").map(Path::new);
        let beside = file
            .and_then(Path::parent)
            .unwrap_or(Path::new(DATA_FOLDER));
        beside.join(name)
    }

    pub(crate) fn operator_key(&self) -> Result<Option<KeyHash>, WrongSetting> {
        let Some(Secret(key)) = &self.operator_key else {
            return Ok(None);
        };
        let key = key.expose_secret();
        let is_long_enough = (MIN_OPERATOR_KEY_BYTES..=MAX_KEY_BYTES).contains(&key.len());
        // Any other character may change on its way through a header.
        if is_long_enough && key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Some(KeyHash::of(key)));
        }
        Err(WrongSetting::new(
            "operator_key",
            format!(
                "must be {MIN_OPERATOR_KEY_BYTES} to {MAX_KEY_BYTES} printable ASCII characters \
                 without spaces"
            ),
        ))
    }

    pub(crate) fn echo_url(&self) -> Result<Url, WrongSetting> {
        self.under_public_url("dev/echo/incoming")
    }

    fn under_public_url(&self, path: &str) -> Result<Url, WrongSetting> {
        let mut url = self.public_url()?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        Ok(url)
    }

    /// The gateway's URL as channels reach it; in development, where it listens.
    fn public_url(&self) -> Result<Url, WrongSetting> {
        let Some(text) = &self.public_url else {
            return self.listening_url();
        };
        let url = http_url(text).map_err(|problem| WrongSetting::new("public_url", problem))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(WrongSetting::new(
                "public_url",
                "must not contain a user name or a password: every channel receives it",
            ));
        }
        Ok(url)
    }

    pub(crate) fn listening_url(&self) -> Result<Url, WrongSetting> {
        let scheme = self.ingress.tls.as_ref().map_or("http", |_| "https");
        http_url(&format!("{scheme}://{}", self.ingress.listen))
            .map_err(|problem| WrongSetting::new("ingress.listen", problem))
    }
}

/// The signer of a list of secrets, the newest first.
fn signer(key: &'static str, list: Option<&SecretList>) -> Result<Option<Signer>, WrongSetting> {
    let Some(list) = list else {
        return Ok(None);
    };
    let secrets: Result<Vec<SigningSecret>, _> = list.iter().map(str::parse).collect();
    let secrets = secrets.map_err(|problem| WrongSetting::new(key, format!("each {problem}")))?;
    let (newest, older) = match secrets.split_first() {
        Some(split) if secrets.len() <= MAX_SECRETS => split,
        _ => {
            let problem = format!("must contain 1 to {MAX_SECRETS} secrets");
            return Err(WrongSetting::new(key, problem));
        }
    };
    let older = older.iter().map(|older| (older.clone(), None));
    Ok(Some(Signer::new(newest, older)))
}

#[cfg(test)]
mod tests;
