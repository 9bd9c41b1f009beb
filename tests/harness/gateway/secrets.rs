//! Everything secret that a test handed out or was handed, to be looked for where it must not be: in
//! the processes' logs, and in what refuses a request.
//!
//! Invariant: a test that ends has been looked through, [`Audit::check`] being part of every end.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::ensure;

use super::Answer;

/// The variables whose values are secret, by what their names hold.
const SECRET_VARIABLES: [&str; 3] = ["SECRET", "KEY", "PASSWORD"];

/// How a secret begins, and what is before the part of it that alone is secret.
const MARKS: [(&str, usize); 3] = [
    // The secret of a channel's signatures.
    ("whsec_", 0),
    // An API key: its id, of 32 digits, is public.
    ("rt_key_", 32 + "_".len()),
    // In a response URL.
    ("token=", 0),
];

/// The shortest that is looked for: less would be found by chance.
const MIN_BYTES: usize = 12;

/// What one test knows of secrets.
#[derive(Debug, Default)]
pub(super) struct Audit(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    secrets: BTreeSet<String>,
    /// The bodies of answers of 400 and above.
    refusals: Vec<String>,
}

impl Audit {
    /// Learns the secrets of a process's environment: what is called one, and the passwords in URLs.
    pub(super) fn environment<'a>(&self, env: impl IntoIterator<Item = (&'a str, &'a str)>) {
        for (name, value) in env {
            // A file's name is none.
            let is_secret = SECRET_VARIABLES.iter().any(|word| name.contains(word));
            if is_secret && !name.ends_with("_FILE") {
                self.learn(value);
            }
            // Not the password alone, for some stand in every log: "guest".
            if let Some((_, rest)) = value.split_once("://")
                && let Some((credentials, _)) = rest.split_once('@')
            {
                self.heard().secrets.insert(format!("{credentials}@"));
            }
        }
    }

    /// Learns what an answer hands out, or keeps it, where it refuses.
    pub(super) fn answer(&self, answer: &Answer) {
        if answer.status >= 400 {
            self.heard().refusals.push(answer.text.clone());
        } else {
            self.text(&answer.text);
        }
    }

    /// Learns the secrets in a text, by how they begin.
    pub(super) fn text(&self, text: &str) {
        for (mark, public) in MARKS {
            for (at, _) in text.match_indices(mark) {
                let rest = &text[at + mark.len()..];
                let end = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || "+/=._-".contains(c)))
                    .unwrap_or(rest.len());
                self.learn(rest[..end].get(public..).unwrap_or_default());
            }
        }
    }

    fn learn(&self, secret: &str) {
        if secret.len() >= MIN_BYTES {
            self.heard().secrets.insert(secret.to_owned());
        }
    }

    /// Looks through the logs, and through all that refused.
    ///
    /// # Errors
    /// If a secret is in one of them: where, and how it begins.
    pub(super) fn check(&self, logs: &[(String, String)]) -> anyhow::Result<()> {
        let heard = self.heard();
        for secret in &heard.secrets {
            let begins: String = secret.chars().take(6).collect();
            for (name, log) in logs {
                ensure!(
                    !log.contains(secret),
                    "{name}'s log has the secret {begins}…"
                );
            }
            for refusal in &heard.refusals {
                ensure!(
                    !refusal.contains(secret),
                    "an answer has the secret {begins}…: {refusal}"
                );
            }
        }
        Ok(())
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
