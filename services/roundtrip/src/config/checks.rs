//! Checks the configuration of a process: each section, and the relations between settings.
//!
//! Invariant: all wrong and missing settings are reported at once.

use std::collections::BTreeSet;

use base64::{Engine, prelude::BASE64_STANDARD};
use roundtrip_model::{Check, SigningSecret, WrongSetting};
use secrecy::ExposeSecret;

use super::{Config, Environment, Secret, SecretList};
use crate::{cli::Role, listener::Tls};

/// How to make each secret.
const HEX: &str = "openssl rand -hex 32";
const WHSEC: &str = "echo whsec_$(openssl rand -base64 32)";
const BASE64: &str = "openssl rand -base64 32";

impl Config {
    pub(super) fn check(&self, roles: &BTreeSet<Role>, check: &mut Check) {
        self.check_bounds(check);
        check.take(self.sessions_server());
        check.take(self.public_url());
        check.take(self.configured_tokens());
        check.take(self.sessions_signer());
        check.take(self.notices_url());
        check.take(self.notices_signer());
        check.section("notices", |check| self.notices.check_bounds(check));
        check.take(self.configured_sealing());
        check.take(self.operator_key());
        check.section("log", |check| self.log.check(check));
        check.section("broker", |check| self.broker.check(check));
        check.section("store", |check| self.store.check(check));
        check.section("egress", |check| self.egress.check(check));
        check.section("ingress", |check| self.check_ingress(roles, check));
        check.section("dispatcher", |check| self.dispatcher.check(check));
        check.section("forwarder", |check| self.forwarder.check(check));
        check.section("recorder", |check| self.recorder.check_bounds(check));
        check.unless(
            self.callback_ttl > self.dispatcher.retry.max_age,
            "callback_ttl",
            "must be longer than dispatcher.retry.max_age: a message may be delivered that late",
        );
        self.check_roles(roles, check);
        match self.environment {
            // The invalid value may be a misspelt `production`, so neither rule is applied.
            _ if check.has("environment") => {}
            Environment::Development => self.loopback_only(check),
            Environment::Production => {
                self.needed_in_production(check);
                self.no_placeholders(check);
            }
        }
    }

    fn check_ingress(&self, roles: &BTreeSet<Role>, check: &mut Check) {
        self.ingress.check(check);
        // Otherwise keys would be too old between two reads of them.
        let is_longer = self.ingress.keys_max_age > self.store.cache_ttl;
        let problem = "must be longer than store.cache_ttl";
        check.unless(is_longer, "keys_max_age", problem);
        if let Some(files) = &self.ingress.tls
            && roles.contains(&Role::Ingress)
        {
            check.section("tls", |check| {
                check.take(Tls::check(files));
            });
        }
    }

    /// Refuses roles that could never work. The embedded broker belongs to one process, so a role
    /// whose counterpart is another process would wait for ever.
    fn check_roles(&self, roles: &BTreeSet<Role>, check: &mut Check) {
        let missing: Vec<&str> = Role::every()
            .filter(|role| !roles.contains(role))
            .map(Role::name)
            .collect();
        if self.broker.embedded_file().is_some() && !missing.is_empty() {
            let problem = format!(
                "(BROKER_URL) is the embedded broker, which belongs to one process, and the roles \
                 {} are missing in this process",
                missing.join(", ")
            );
            let wrong = WrongSetting::new("broker.url", problem);
            check.add(wrong.remedy("leave --role out, or use RabbitMQ (amqp://)"));
        }
    }

    fn loopback_only(&self, check: &mut Check) {
        for (key, listen) in [
            ("ingress.listen", self.ingress.listen),
            ("operations.listen", self.operations.listen),
        ] {
            if !listen.ip().is_loopback() {
                let problem =
                    format!("is {listen}: environment = \"development\" listens on loopback only");
                let wrong = WrongSetting::new(key, problem);
                check.add(wrong.remedy("set environment = \"production\""));
            }
        }
    }

    /// Reports the settings that production requires and that are missing, with how to make each.
    fn needed_in_production(&self, check: &mut Check) {
        let (server, url) = (&self.sessions_server, &self.public_url);
        for (is_set, key, variable, reason, command) in [
            (
                server.is_some(),
                "sessions_server",
                "SESSIONS_SERVER",
                "answers are posted there",
                None,
            ),
            (
                url.is_some(),
                "public_url",
                "ROUNDTRIP__PUBLIC_URL",
                "channels answer to it",
                None,
            ),
            (
                self.callback_secret.is_some(),
                "callback_secret",
                "CALLBACK_SECRET",
                "it signs the tokens that link an answer to its message",
                Some(HEX),
            ),
            (
                self.sessions_secret.is_some(),
                "sessions_secret",
                "SESSIONS_SECRET",
                "the sessions server verifies with it that an answer comes from the gateway",
                Some(WHSEC),
            ),
            (
                self.notices.url.is_none() || self.notices.secret.is_some(),
                "notices.secret",
                "ROUNDTRIP__NOTICES__SECRET",
                "the receiver verifies with it that a notice comes from the gateway",
                Some(WHSEC),
            ),
            (
                self.encryption_keys.is_some(),
                "encryption_keys",
                "ENCRYPTION_KEYS",
                "the secrets of channels are encrypted with them",
                Some(BASE64),
            ),
        ] {
            if is_set {
                continue;
            }
            let problem =
                format!("({variable}) must be set if environment = \"production\": {reason}");
            let wrong = WrongSetting::new(key, problem);
            check.add(match command {
                Some(command) => wrong.remedy(format!("make one with `{command}`")),
                None => wrong,
            });
        }
    }

    /// Refuses key material whose bytes are all equal: it is a placeholder and not random.
    fn no_placeholders(&self, check: &mut Check) {
        let has = |list: &Option<SecretList>, bytes: fn(&str) -> Vec<u8>| {
            let mut texts = list.iter().flat_map(SecretList::iter);
            texts.any(|text| is_one_byte(&bytes(text)))
        };
        let as_is = |text: &str| text.as_bytes().to_vec();
        let signing = |text: &str| {
            let secret = text.parse();
            secret.map_or(Vec::new(), |secret: SigningSecret| secret.bytes().to_vec())
        };
        let operator_key = |Secret(key): &Secret| is_one_byte(key.expose_secret().as_bytes());
        for (key, is_placeholder, command) in [
            ("callback_secret", has(&self.callback_secret, as_is), HEX),
            (
                "sessions_secret",
                has(&self.sessions_secret, signing),
                WHSEC,
            ),
            ("notices.secret", has(&self.notices.secret, signing), WHSEC),
            (
                "encryption_keys",
                has(&self.encryption_keys, |text| {
                    BASE64_STANDARD.decode(text).unwrap_or_default()
                }),
                BASE64,
            ),
            (
                "operator_key",
                self.operator_key.as_ref().is_some_and(operator_key),
                HEX,
            ),
        ] {
            check.unless(
                !is_placeholder,
                key,
                format!("must be random, for example from `{command}`: all its bytes are the same"),
            );
        }
    }
}

fn is_one_byte(bytes: &[u8]) -> bool {
    bytes
        .split_first()
        .is_some_and(|(first, rest)| rest.iter().all(|byte| byte == first))
}
