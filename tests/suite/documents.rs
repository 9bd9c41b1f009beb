//! Runs the code in the pages of `docs`: the servers in `channel-servers.md` and `sessions-servers.md`, and
//! the commands in `producers.md`.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::Context;
use harness::{
    child::{ChildServer, free_address, python, root},
    gateway::{Plan, Setup},
    http::plain_client,
    scripted::{Reply, ScriptedServer, failing_once},
    wait,
};
use roundtrip_model::{Clock, Signer, SigningSecret, SystemClock};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

const STRANGERS_SECRET: &str = "whsec_c3RyYW5nZXJzIHNlY3JldCBvZiAzMiBieXRlcyEhISE=";
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

/// A running server from a page; dropping it ends the server.
struct Documented {
    server: ChildServer,
    _folder: TempDir,
}

impl Documented {
    async fn start(
        page: &str,
        language: Language,
        address: SocketAddr,
        env: (&str, &str),
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (program, file) = match language {
            Language::Python => (python(), "server.py"),
            Language::JavaScript => (PathBuf::from("node"), "server.mjs"),
        };
        let installed = root().join(".servers").canonicalize()?;
        let modules = installed.join("node/node_modules");
        std::os::unix::fs::symlink(modules, folder.path().join("node_modules"))?;
        let file = folder.path().join(file);
        fs::write(&file, snippet(page, language)?)?;
        let mut command = Command::new(program);
        command.arg(&file).current_dir(folder.path());
        command.env("PORT", address.port().to_string());
        command.env(env.0, env.1);
        Ok(Self {
            server: ChildServer::start(command, address).await?,
            _folder: folder,
        })
    }

    /// Posts as the gateway does, with this id and signature; returns the status.
    async fn post(&self, path: &str, id: &str, secret: &str, body: &Value) -> anyhow::Result<u16> {
        let body = body.to_string();
        let now = SystemClock.now();
        let secret: SigningSecret = secret.parse()?;
        let signature = Signer::new(&secret, []).sign(id, now, body.as_bytes());
        let answer = plain_client()?
            .post(self.server.url(path))
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
    let endpoint = format!("http://{address}/incoming");
    let secret = gateway.register("c", &endpoint).await?;
    let secret = ("SIGNING_SECRET", &*secret);
    let _server = Documented::start("channel-servers.md", language, address, secret).await?;
    for message in [json!(0), json!(false), json!("Hello")] {
        let message = json!({"channel_id": "c", "session_id": "s", "message": message});
        let sent = gateway.post("/channel/message", message).await?;
        sent.expect(202)?;
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
    let gateway = ScriptedServer::start(failing_once(Reply::status(503))).await?;
    let secret = ("SIGNING_SECRET", SECRET);
    let address = free_address()?;
    let server = Documented::start("channel-servers.md", language, address, secret).await?;
    let delivery = json!({"session_id": "s", "message": 0, "response_url": gateway.url()});
    let deliver =
        async |id: &str, secret: &str| server.post("/incoming", id, secret, &delivery).await;
    assert_eq!(deliver("msg_1", STRANGERS_SECRET).await?, 401);
    // Retries like the gateway until it is accepted. Then repeats it, as after a lost reply.
    wait::until("the delivery to be taken", async || {
        let status = deliver("msg_1", SECRET).await;
        (status.ok()? == 204).then_some(())
    })
    .await?;
    assert_eq!(deliver("msg_1", SECRET).await?, 204);
    gateway.taken_at_least(1).await?;
    assert_eq!(deliver("msg_2", SECRET).await?, 204);
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
    let posted = gateway.post("/webhook-response", answer).await?;
    posted.expect(202)?;
    wait::until("the answer", async || {
        server
            .server
            .output()
            .contains("from-the-gateway")
            .then_some(())
    })
    .await?;
    let answer = json!({"session_id": "again", "response_data": {"n": [1, 2]}});
    assert_eq!(
        server.post("/", "cb_1", STRANGERS_SECRET, &answer).await?,
        401
    );
    for id in ["cb_1", "cb_1", "cb_2"] {
        assert_eq!(server.post("/", id, SECRET, &answer).await?, 204);
    }
    let again = wait::until("both answers", async || {
        let count = server.server.output().matches("again").count();
        (count >= 2).then_some(count)
    })
    .await?;
    assert_eq!(again, 2, "{}", server.server.output());
    let unaccounted = gateway.finish_unaccounted("the documented server keeps no record");
    unaccounted.await.map(drop)
}

/// The shell's code blocks of the producers' page in their order, each with what its output shows. The
/// first one sets the gateway's address.
const PRODUCERS_COMMANDS: [&[&str]; 9] = [
    &[],
    &["HTTP/1.1 200 OK", r#""status":"answered""#],
    &[r#""state":"#],
    &["event: answer", r#""response_data":"#],
    &["HTTP/1.1 202 Accepted"],
    &["HTTP/1.1 202 Accepted"],
    &["HTTP/1.1 202 Accepted", r#""messages":["#],
    &[r#""accepted":1,"rejected":1"#],
    &[r#""turns":["#, r#""status":"erasing""#],
];

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_producers_page_works() -> anyhow::Result<()> {
    let gateway = Plan::new(Setup::Embedded)?
        .env("ROUNDTRIP__INGRESS__MAX_FOLLOW", "1s")
        .start()
        .await?;
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    gateway.register("slack-sim", &channel.url()).await?;
    let message_id = gateway.send("echo", "abc123").await?;
    gateway.until_state(&message_id, "forwarded").await?;
    let page = fs::read_to_string(root().join("docs/producers.md"))?;
    let blocks: Vec<_> = page.split("```bash\n").skip(1).collect();
    assert_eq!(blocks.len(), PRODUCERS_COMMANDS.len());
    for (block, shown) in blocks.into_iter().zip(PRODUCERS_COMMANDS) {
        let block = block.split("```").next().context("an open block")?;
        let ran = Command::new("bash")
            .args(["-euo", "pipefail", "-c", block])
            .env("api", gateway.url(""))
            .env("message_id", &message_id)
            .output()
            .await?;
        let printed = String::from_utf8_lossy(&ran.stdout);
        let errors = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{block}: {printed} {errors}");
        for text in shown {
            assert!(printed.contains(text), "{block}: {printed} {errors}");
        }
    }
    let unaccounted = gateway.finish_unaccounted("the page's last command erases its session");
    unaccounted.await.map(drop)
}
