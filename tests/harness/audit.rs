//! Collects every secret of a test, and searches for it where it must not appear: in the processes'
//! logs, in error responses, and in the stderr of commands.
//!
//! Invariant: every client and server of a gateway reports its traffic to an [`Audit`]: requests,
//! raw connections, processes, commands, channel and sessions servers. Each test ends with a
//! search.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    process::Output,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, bail};

/// Variables whose names contain one of these have secret values.
const SECRET_VARIABLES: [&str; 3] = ["SECRET", "KEY", "PASSWORD"];

/// The prefix of a secret, and the separator before its secret part.
const MARKS: [(&str, usize); 3] = [
    // A channel's signing secret.
    ("whsec_", 0),
    // An API key: its id, of 32 digits, is public.
    ("rt_key_", 32 + "_".len()),
    // In a response URL.
    ("token=", 0),
];

/// The shortest text to search for; a shorter one could match by chance.
const MIN_BYTES: usize = 12;

/// The first error status.
const REFUSED: u16 = 400;

/// The secrets of one test; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Audit(Arc<Mutex<Collected>>);

#[derive(Debug, Default)]
struct Collected {
    secrets: BTreeSet<String>,
    /// Error responses (400 and above), and the stderr of commands.
    refusals: BTreeSet<String>,
}

impl Audit {
    /// Adds the secrets of a process's environment: variables with secret names, passwords in URLs.
    pub fn environment<'a>(&self, env: impl IntoIterator<Item = (&'a str, &'a str)>) {
        for (name, value) in env {
            // A file's name is not a secret.
            let is_secret = SECRET_VARIABLES.iter().any(|word| name.contains(word));
            if is_secret && !name.ends_with("_FILE") {
                value.split(',').for_each(|secret| self.add(secret));
            }
            // Not the password alone: a word such as "guest" appears in every log.
            if let Some((_, rest)) = value.split_once("://")
                && let Some((credentials, _)) = rest.split_once('@')
            {
                self.collected().secrets.insert(format!("{credentials}@"));
            }
        }
    }

    /// Adds the secrets of a success response, or keeps an error response for the search.
    pub fn response(&self, status: u16, text: &str) {
        if status >= REFUSED {
            self.collected().refusals.insert(text.to_owned());
        } else {
            self.text(text);
        }
    }

    /// The same for a raw response with its head, or a part of one.
    pub fn raw_response(&self, text: &str) {
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
        self.response(status.unwrap_or(REFUSED), text);
    }

    /// Adds the secrets in a command's stdout, and keeps its stderr for the search.
    pub fn output(&self, output: &Output) {
        self.text(&String::from_utf8_lossy(&output.stdout));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        self.collected().refusals.insert(stderr);
    }

    /// Adds the secrets in a text, by their prefixes.
    pub fn text(&self, text: &str) {
        for (mark, public) in MARKS {
            for (at, _) in text.match_indices(mark) {
                let rest = &text[at + mark.len()..];
                let end = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || "+/=._-".contains(c)))
                    .unwrap_or(rest.len());
                self.add(rest[..end].get(public..).unwrap_or_default());
            }
        }
    }

    /// Adds the contents of another audit.
    pub fn take_in(&self, other: &Self) {
        let (secrets, refusals) = {
            let other = other.collected();
            (other.secrets.clone(), other.refusals.clone())
        };
        let mut collected = self.collected();
        collected.secrets.extend(secrets);
        collected.refusals.extend(refusals);
    }

    fn add(&self, secret: &str) {
        if secret.len() >= MIN_BYTES {
            self.collected().secrets.insert(secret.to_owned());
        }
    }

    /// Searches the logs of the named processes, and all error responses.
    pub fn check<'a>(
        &self,
        folder: &Path,
        names: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<()> {
        let collected = self.collected();
        for name in names {
            let path = folder.join(format!("{name}.log"));
            let log = File::open(&path).with_context(|| path.display().to_string())?;
            // Line by line: a long run's log should not be held in memory.
            for line in BufReader::new(log).split(b'\n') {
                collected
                    .ensure_absent(&String::from_utf8_lossy(&line?), || format!("{name}'s log"))?;
            }
        }
        for refusal in &collected.refusals {
            collected.ensure_absent(refusal, || format!("what refused ({refusal})"))?;
        }
        Ok(())
    }

    fn collected(&self) -> MutexGuard<'_, Collected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collected {
    fn ensure_absent(&self, text: &str, place: impl Fn() -> String) -> anyhow::Result<()> {
        for secret in &self.secrets {
            if text.contains(secret) {
                let start: String = secret.chars().take(6).collect();
                bail!("{} has the secret {start}…", place());
            }
        }
        Ok(())
    }
}
