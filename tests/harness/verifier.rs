//! Verifies requests with the official Standard Webhooks libraries.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::scripted::Received;

const HEADERS: [&str; 3] = ["webhook-id", "webhook-timestamp", "webhook-signature"];

/// Whose library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// PyPI's `standardwebhooks`.
    Python,
    /// npm's `standardwebhooks`.
    JavaScript,
}

impl Library {
    pub const ALL: [Self; 2] = [Self::Python, Self::JavaScript];
}

/// A received request, and the secret to verify it with.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    secret: String,
    headers: Map<String, Value>,
    /// In base64.
    body: String,
}

impl Check {
    /// Checks this received request.
    pub fn new(secret: &str, received: &Received) -> Self {
        let headers = HEADERS.into_iter().filter_map(|name| {
            let value = received.headers.get(name)?.to_str().ok()?;
            Some((name.to_owned(), value.into()))
        });
        Self {
            secret: secret.to_owned(),
            headers: headers.collect(),
            body: base64(received.body.as_bytes()),
        }
    }

    /// With this header in place of its own.
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.headers.insert(name.to_owned(), value.into());
        self
    }

    /// With this body in place of its own.
    pub fn body(mut self, body: &str) -> Self {
        self.body = base64(body.as_bytes());
        self
    }
}

/// Verifies these requests with a library.
pub async fn verified(library: Library, checks: &[Check]) -> anyhow::Result<Vec<bool>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (program, script) = match library {
        Library::Python => (root.join("../.servers/venv/bin/python"), "verify.py"),
        Library::JavaScript => (PathBuf::from("node"), "verify.mjs"),
    };
    let mut child = Command::new(&program)
        .arg(root.join("verify").join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("no {}: run tests/servers install", program.display()))?;
    let mut lines = Vec::new();
    for check in checks {
        lines.extend(serde_json::to_vec(check)?);
        lines.push(b'\n');
    }
    let mut input = child.stdin.take().context("its standard input")?;
    // Write and read concurrently: if its output is not read, the child stops reading input.
    let write = async move {
        input.write_all(&lines).await?;
        drop(input);
        anyhow::Ok(())
    };
    let (written, output) = tokio::join!(write, child.wait_with_output());
    let output = output?;
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && printed.lines().count() == checks.len(),
        "{script} printed {printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    written?;
    printed
        .lines()
        .map(|line| {
            let is_valid = line == "valid";
            let is_result = is_valid || line.starts_with("refused: ");
            ensure!(is_result, "{script}: {line}");
            Ok(is_valid)
        })
        .collect()
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(bytes)
}
