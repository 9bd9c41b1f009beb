//! Everything secret that a test handed out or was handed, to be looked for where it must not be: in
//! the processes' logs, in what refuses a request, and in what a command says on stderr.
//!
//! Invariant: whatever speaks to a gateway holds an [`Audit`] that it tells what it heard: the
//! gateway's own requests, raw connections, processes, commands, the servers at the far ends. Each
//! test's end looks it all through.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    process::Output,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, bail};

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

/// The first status that refuses.
const REFUSED: u16 = 400;

/// What one test knows of secrets; its clones are one.
#[derive(Debug, Clone, Default)]
pub struct Audit(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    secrets: BTreeSet<String>,
    /// Whatever refused: answers of 400 and above, and what commands say on stderr.
    refusals: BTreeSet<String>,
}

impl Audit {
    /// Learns the secrets of a process's environment: what is called one, and the passwords in URLs.
    pub fn environment<'a>(&self, env: impl IntoIterator<Item = (&'a str, &'a str)>) {
        for (name, value) in env {
            // A file's name is none.
            let is_secret = SECRET_VARIABLES.iter().any(|word| name.contains(word));
            if is_secret && !name.ends_with("_FILE") {
                value.split(',').for_each(|secret| self.learn(secret));
            }
            // Not the password alone, for some stand in every log: "guest".
            if let Some((_, rest)) = value.split_once("://")
                && let Some((credentials, _)) = rest.split_once('@')
            {
                self.heard().secrets.insert(format!("{credentials}@"));
            }
        }
    }

    /// Learns what an answer of this status hands out, or keeps it, where it refuses.
    pub fn answer(&self, status: u16, text: &str) {
        if status >= REFUSED {
            self.heard().refusals.insert(text.to_owned());
        } else {
            self.text(text);
        }
    }

    /// The same of an answer as it came over the wire, its head included. Of less than an answer, too.
    pub fn raw_answer(&self, text: &str) {
        let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
        self.answer(status.unwrap_or(REFUSED), text);
    }

    /// Learns what a command prints, and keeps what it says beside it.
    pub fn output(&self, output: &Output) {
        self.text(&String::from_utf8_lossy(&output.stdout));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        self.heard().refusals.insert(said);
    }

    /// Learns the secrets in a text, by how they begin.
    pub fn text(&self, text: &str) {
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

    /// Takes in what another has heard.
    pub fn take_in(&self, other: &Self) {
        let (secrets, refusals) = {
            let other = other.heard();
            (other.secrets.clone(), other.refusals.clone())
        };
        let mut heard = self.heard();
        heard.secrets.extend(secrets);
        heard.refusals.extend(refusals);
    }

    fn learn(&self, secret: &str) {
        if secret.len() >= MIN_BYTES {
            self.heard().secrets.insert(secret.to_owned());
        }
    }

    /// Looks through the logs of the processes of these names, and through all that refused.
    ///
    /// # Errors
    /// If a secret is in one of them: where, and how it begins. If a log cannot be read.
    pub fn check<'a>(
        &self,
        folder: &Path,
        names: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<()> {
        let heard = self.heard();
        for name in names {
            let path = folder.join(format!("{name}.log"));
            let log = File::open(&path).with_context(|| path.display().to_string())?;
            // Line by line: at length a log is longer than what memory should hold.
            for line in BufReader::new(log).split(b'\n') {
                heard.not_in(&String::from_utf8_lossy(&line?), || format!("{name}'s log"))?;
            }
        }
        for refusal in &heard.refusals {
            heard.not_in(refusal, || format!("what refused ({refusal})"))?;
        }
        Ok(())
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn not_in(&self, text: &str, place: impl Fn() -> String) -> anyhow::Result<()> {
        for secret in &self.secrets {
            if text.contains(secret) {
                let begins: String = secret.chars().take(6).collect();
                bail!("{} has the secret {begins}…", place());
            }
        }
        Ok(())
    }
}
