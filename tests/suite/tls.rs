//! The API over https, with a certificate of the gateway's own.

use std::{fs, path::Path, time::Duration};

use anyhow::Context;
use harness::{
    gateway::{Plan, Role, Setup, TestGateway},
    scripted::{Reply, ScriptedServer},
    wait,
};
use reqwest::{Certificate, Client, Version};
use serde_json::json;
use tempfile::TempDir;
use time::{OffsetDateTime, macros::datetime};

/// Writes a certificate and its key where the gateway reads them.
fn certify(folder: &Path) -> anyhow::Result<Certificate> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    fs::write(folder.join("tls.key"), made.signing_key.serialize_pem())?;
    fs::write(folder.join("tls.crt"), made.cert.pem())?;
    Ok(Certificate::from_pem(made.cert.pem().as_bytes())?)
}

async fn start(folder: &TempDir, settings: &[(&str, &str)]) -> anyhow::Result<TestGateway> {
    let file = |name| folder.path().join(name).display().to_string();
    let plan = Plan::new(Setup::Embedded)?
        .env("ROUNDTRIP__INGRESS__TLS__CERT_FILE", file("tls.crt"))
        .env("ROUNDTRIP__INGRESS__TLS__KEY_FILE", file("tls.key"));
    plan.envs(settings).start().await
}

/// A client that trusts only this certificate.
fn client(trusted: Certificate) -> anyhow::Result<Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .tls_certs_only([trusted])
        .build()
        .context("making a client")
}

fn url(gateway: &TestGateway, path: &str) -> String {
    gateway.url(path).replacen("http:", "https:", 1)
}

#[tokio::test]
async fn a_message_is_taken_by_https_and_by_nothing_else() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let client = client(certify(folder.path())?)?;
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = start(&folder, &[]).await?;
    let known = json!({"channel_id": "c", "channel_metadata": {"endpoint_url": channel.url()}});
    let message = json!({"channel_id": "c", "session_id": "s", "message": "m"});
    for (path, body, status) in [("/channel", known, 201), ("/channel/message", message, 202)] {
        let request = client.post(url(&gateway, path)).body(body.to_string());
        let request = request.header("content-type", "application/json");
        let answer = gateway.exchange(request).await?.expect(status)?;
        assert_eq!(answer.version, Version::HTTP_2);
    }
    channel.taken_at_least(1).await?;
    assert!(gateway.get("/channel/c").await.is_err());
    gateway.finish(&[&channel]).await.map(drop)
}

#[tokio::test]
async fn a_command_trusts_only_the_authorities_of_its_file() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    certify(folder.path())?;
    let gateway = start(&folder, &[]).await?;
    let url = url(&gateway, "");
    let get = ["channels", "get", "echo", "--url", &url, "--ca-file"];
    let other = folder.path().join("other.crt");
    let stranger = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    fs::write(&other, stranger.cert.pem())?;
    for (file, status) in [(folder.path().join("tls.crt"), 0), (other, 4)] {
        let file = file.display().to_string();
        let ended = gateway.client(&[&get[..], &[&*file]].concat(), &[]).await?;
        assert_eq!(ended.status.code(), Some(status), "{ended:?}");
    }
    gateway.finish(&[]).await.map(drop)
}

#[tokio::test]
async fn the_end_of_the_certificate_is_among_the_metrics() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    certify(folder.path())?;
    let mut gateway = start(&folder, &[]).await?;
    let scrape = gateway.scrape(Role::All).await?;
    let ends = scrape.value("roundtrip_certificate_expiry_timestamp_seconds", &[]);
    // The end of `generate_simple_self_signed`.
    let expected = Duration::try_from(datetime!(4096-01-01 0:00 UTC) - OffsetDateTime::UNIX_EPOCH)?;
    assert_eq!(ends, Some(expected.as_secs_f64()));
    gateway.finish(&[]).await.map(drop)
}

#[tokio::test]
async fn a_client_that_never_shakes_hands_is_cut() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let client = client(certify(folder.path())?)?;
    let settings = [("ROUNDTRIP__INGRESS__HEADER_TIMEOUT", "1s")];
    let gateway = start(&folder, &settings).await?;
    let mut silent = gateway.connect().await?;
    assert_eq!(silent.rest().await?, "");
    let honest = client.get(url(&gateway, "/channel/echo"));
    gateway.exchange(honest).await?.expect(200)?;
    gateway.finish(&[]).await.map(drop)
}

#[tokio::test]
async fn a_certificate_that_was_renewed_is_shown_without_a_restart() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let first = client(certify(folder.path())?)?;
    let gateway = start(&folder, &[]).await?;
    let echo = url(&gateway, "/channel/echo");
    gateway.exchange(first.get(&echo)).await?.expect(200)?;

    let second = client(certify(folder.path())?)?;
    wait::until("the new certificate", async || {
        gateway.exchange(second.get(&echo)).await.ok()
    })
    .await?;

    // Half of a change must not apply: this key does not fit the certificate.
    fs::write(folder.path().join("tls.key"), "nonsense")?;
    let kept = ["the new certificate is not used; the current one stays"];
    gateway.until_logged(Role::All, &kept, 1).await?;
    let current = fs::read(folder.path().join("tls.crt"))?;
    let fresh = client(Certificate::from_pem(&current)?)?;
    gateway.exchange(fresh.get(&echo)).await?.expect(200)?;
    gateway.finish(&[]).await.map(drop)
}
