//! Runs the servers in `docs/channel-servers.md` and `docs/sessions-servers.md`, extracted from the
//! pages.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Context;
use harness::{
    gateway::{Plan, Setup},
    http::plain_client,
    process::free_port,
    scripted::{Reply, ScriptedServer},
    wait,
};
use roundtrip_model::{Clock, Signer, SigningSecret, SystemClock};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[derive(Debug, Clone, Copy)]
enum Language {
    Python,
    JavaScript,
}

/// The only code block of this language on a page.
fn snippet(page: &str, language: Language) -> anyhow::Result<String> {
    let text = fs::read_to_string(root().join("docs").join(page))?;
    let fence = match language {
        Language::Python => "```python\n",
        Language::JavaScript => "```javascript\n",
    };
    let blocks: Vec<&str> = text.split(fence).skip(1).collect();
    anyhow::ensure!(blocks.len() == 1, "{page}: {} blocks", blocks.len());
    let block = blocks[0].split("```").next();
    block.map(str::to_owned).context("an open block")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A running server from a page; dropping it ends the server.
struct Documented {
    _child: Child,
    folder: TempDir,
    address: SocketAddr,
}

impl Documented {
    async fn start(
        page: &str,
        language: Language,
        address: SocketAddr,
        env: (&str, &str),
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let installed = root().join(".servers");
        let (program, file) = match language {
            Language::Python => (installed.join("venv/bin/python"), "server.py"),
            Language::JavaScript => (PathBuf::from("node"), "server.mjs"),
        };
        let modules = installed.canonicalize()?.join("node/node_modules");
        std::os::unix::fs::symlink(modules, folder.path().join("node_modules"))?;
        let file = folder.path().join(file);
        fs::write(&file, snippet(page, language)?)?;
        let output = fs::File::create(folder.path().join("output"))?;
        let child = Command::new(&program)
            .arg(&file)
            .current_dir(folder.path())
            .env("PORT", address.port().to_string())
            .env(env.0, env.1)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("no {}: run tests/servers install", program.display()))?;
        wait::until("the documented server", async || {
            TcpStream::connect(address).await.ok()
        })
        .await?;
        Ok(Self {
            _child: child,
            folder,
            address,
        })
    }

    fn output(&self) -> String {
        fs::read_to_string(self.folder.path().join("output")).unwrap_or_default()
    }

    /// Posts as the gateway does, with this id and signature; returns the status.
    async fn post(&self, path: &str, id: &str, secret: &str, body: &Value) -> anyhow::Result<u16> {
        let body = body.to_string();
        let now = SystemClock.now();
        let secret: SigningSecret = secret.parse()?;
        let signature = Signer::new(&secret, []).sign(id, now, body.as_bytes());
        let answer = plain_client()?
            .post(format!("http://{}{path}", self.address))
            .header("content-type", "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", now.unix_timestamp())
            .header("webhook-signature", signature)
            .body(body)
            .send()
            .await?;
        Ok(answer.status().as_u16())
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}

#[rstest]
#[case(Language::Python)]
#[case(Language::JavaScript)]
#[tokio::test(flavor = "multi_thread")]
async fn a_documented_channel_server_answers_what_the_gateway_delivers(
    #[case] language: Language,
) -> anyhow::Result<()> {
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let gateway = Plan::new(Setup::Embedded)?
        .sessions_server(sessions.url())
        .start()
        .await?;
    let address = free_address()?;
    let metadata = json!({"endpoint_url": format!("http://{address}/incoming")});
    let channel = json!({"channel_id": "c", "channel_metadata": metadata});
    let made = gateway.post("/channel", channel.to_string()).await?;
    let secret = made.expect(201)?.json()["signing_secret"].clone();
    let secret = ("SIGNING_SECRET", secret.as_str().context("a secret")?);
    let _server = Documented::start("channel-servers.md", language, address, secret).await?;
    for message in [json!(0), json!(false), json!("Hello")] {
        let message = json!({"channel_id": "c", "session_id": "s", "message": message});
        let sent = gateway.post("/channel/message", message.to_string());
        sent.await?.expect(202)?;
    }
    let mut texts: Vec<_> = sessions
        .taken_at_least(3)
        .await?
        .iter()
        .map(|taken| serde_json::from_str::<Value>(&taken.body).unwrap_or_default())
        .map(|answer| answer["response_data"]["text"].to_string())
        .collect();
    texts.sort_unstable();
    let expected = [r#""Got 0""#, r#""Got \"Hello\"""#, r#""Got false""#];
    assert_eq!(texts, expected);
    let unaccounted = gateway.finish_unaccounted("the documented server keeps no record");
    unaccounted.await.map(drop)
}

#[rstest]
#[case(Language::Python)]
#[case(Language::JavaScript)]
#[tokio::test(flavor = "multi_thread")]
async fn a_documented_channel_server_drops_repeats_and_posts_an_answer_until_it_is_accepted(
    #[case] language: Language,
) -> anyhow::Result<()> {
    let gateway = ScriptedServer::start(|received| match received.attempt {
        1 => Reply::status(503),
        _ => Reply::status(202),
    })
    .await?;
    let secret = ("SIGNING_SECRET", SECRET);
    let address = free_address()?;
    let server = Documented::start("channel-servers.md", language, address, secret).await?;
    let delivery = json!({"session_id": "s", "message": 0, "response_url": gateway.url()});
    let stranger = "whsec_c3RyYW5nZXJzIHNlY3JldCBvZiAzMiBieXRlcyEhISE=";
    assert_eq!(
        server
            .post("/incoming", "msg_1", stranger, &delivery)
            .await?,
        401
    );
    // Retries like the gateway until it is accepted. Then repeats it, as after a lost reply.
    wait::until("the delivery to be taken", async || {
        let status = server.post("/incoming", "msg_1", SECRET, &delivery).await;
        (status.ok()? == 204).then_some(())
    })
    .await?;
    assert_eq!(
        server.post("/incoming", "msg_1", SECRET, &delivery).await?,
        204
    );
    gateway.taken_at_least(1).await?;
    assert_eq!(
        server.post("/incoming", "msg_2", SECRET, &delivery).await?,
        204
    );
    let taken = gateway.taken_at_least(2).await?;
    assert_eq!(taken.len(), 2, "{taken:?}");
    let answer = json!({"session_id": "s", "response_data": {"text": "Got 0"}});
    for received in gateway.received() {
        assert_eq!(serde_json::from_str::<Value>(&received.body)?, answer);
    }
    Ok(())
}

#[rstest]
#[case(Language::Python)]
#[case(Language::JavaScript)]
#[tokio::test(flavor = "multi_thread")]
async fn a_documented_sessions_server_takes_each_answer_once(
    #[case] language: Language,
) -> anyhow::Result<()> {
    let address = free_address()?;
    let secret = ("SESSIONS_SECRET", SECRET);
    let server = Documented::start("sessions-servers.md", language, address, secret).await?;
    let gateway = Plan::new(Setup::Embedded)?
        .sessions_server(format!("http://{address}/"))
        .env("SESSIONS_SECRET", SECRET)
        .start()
        .await?;
    let answer = json!({"session_id": "from-the-gateway", "response_data": 1});
    let posted = gateway.post("/webhook-response", answer.to_string());
    posted.await?.expect(202)?;
    wait::until("the answer", async || {
        server.output().contains("from-the-gateway").then_some(())
    })
    .await?;
    let answer = json!({"session_id": "again", "response_data": {"n": [1, 2]}});
    let stranger = "whsec_c3RyYW5nZXJzIHNlY3JldCBvZiAzMiBieXRlcyEhISE=";
    assert_eq!(server.post("/", "cb_1", stranger, &answer).await?, 401);
    for id in ["cb_1", "cb_1", "cb_2"] {
        assert_eq!(server.post("/", id, SECRET, &answer).await?, 204);
    }
    let again = wait::until("both answers", async || {
        let count = server.output().matches("again").count();
        (count >= 2).then_some(count)
    })
    .await?;
    assert_eq!(again, 2, "{}", server.output());
    let unaccounted = gateway.finish_unaccounted("the documented server keeps no record");
    unaccounted.await.map(drop)
}
