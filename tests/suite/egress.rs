//! Egress rules as in production, with real DNS: which addresses the gateway connects to for a
//! channel. 127.0.0.2 is allowed explicitly here; 127.0.0.1 is not.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use bson::doc;
use harness::{
    byte_server::{ByteServer, Step},
    dns::NameServer,
    gateway::{Accounted, Plan, Setup, TestGateway, attempts},
    process::free_port,
    scripted::{Reply, ScriptedServer},
    tls::{Authority, TlsFront},
};
use roundtrip_broker::Queue;
use roundtrip_model::{DeadReason, decision::DeadKind};
use serde_json::{Value, json};

on_both_setups! {
    a_name_with_changing_answers_is_connected_to_only_at_allowed_addresses,
    a_channel_that_may_not_be_connected_to_is_refused_by_the_api,
    proxy_variables_of_the_environment_are_ignored,
}

/// The allowed address.
const GOOD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// The forbidden address.
const BAD: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NAME: &str = "hooks.rebind.example";

/// A gateway with production's rules that may connect to [`GOOD`].
fn production(setup: Setup) -> anyhow::Result<Plan> {
    let plan = Plan::new(setup)?.production();
    Ok(plan.env("ROUNDTRIP__EGRESS__ALLOW", GOOD))
}

/// A server that no connection may reach.
async fn forbidden(port: u16) -> anyhow::Result<ByteServer> {
    ByteServer::start_at(SocketAddr::new(BAD, port), |_| vec![Step::Stall]).await
}

/// A channel server on [`GOOD`] and a forbidden one on the same port of [`BAD`]. The first keeps no
/// connection, so each attempt resolves the name again.
async fn servers() -> anyhow::Result<(ScriptedServer, ByteServer)> {
    let closing = |_: &_| Reply::ok().header("connection", "close");
    // A port that the kernel gives to a connection from [`BAD`] would not be free there.
    let port = free_port()?;
    let good = ScriptedServer::start_at(SocketAddr::new(GOOD, port), closing).await?;
    Ok((good, forbidden(port).await?))
}

/// The errors of a message's failed attempts, once there are more than `known`.
async fn errors(gateway: &TestGateway, id: &str, known: usize) -> anyhow::Result<Vec<String>> {
    let errors = |message: &Value| -> Vec<String> {
        let attempts = attempts(message).into_iter();
        attempts
            .filter_map(|attempt| attempt["error"].as_str().map(str::to_owned))
            .collect()
    };
    let failed = gateway.until_message(id, |message| errors(message).len() > known);
    Ok(errors(&failed.await?))
}

async fn a_name_with_changing_answers_is_connected_to_only_at_allowed_addresses(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let (good, bad) = servers().await?;
    let answer = Arc::new(Mutex::new(vec![GOOD]));
    let set = |addresses: &[IpAddr]| {
        *answer.lock().unwrap_or_else(PoisonError::into_inner) = addresses.to_vec();
    };
    let answered = Arc::clone(&answer);
    let dns = NameServer::start(move |name, _| match name {
        NAME => answered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone(),
        _ => Vec::new(),
    })
    .await?;
    let gateway = production(setup)?
        .env("ROUNDTRIP__EGRESS__NAMESERVERS", dns.address())
        .schedule(&["200ms"; 60].join(","))
        .start()
        .await?;

    // The name resolves to a good address at creation and to another one at the connection.
    let url = format!("http://{NAME}:{}/incoming", good.port());
    gateway.register("c", &url).await?;
    assert_eq!(
        dns.asked(NAME),
        0,
        "a channel is made without asking the DNS"
    );
    set(&[BAD]);
    let first = gateway.send("c", "first").await?;
    let reported = errors(&gateway, &first, 0).await?;
    assert!(
        reported[0].contains("address is not allowed"),
        "{reported:?}"
    );
    assert!(!reported[0].contains("127."), "{reported:?}");
    // A wrong DNS answer may be corrected: the message is still there.
    set(&[GOOD]);
    good.taken_at_least(1).await?;

    // A good and a bad address in one answer.
    for mixed in [[GOOD, BAD], [BAD, GOOD]] {
        set(&mixed);
        let before = good.taken().len();
        let id = gateway.send("c", "mixed").await?;
        errors(&gateway, &id, 0).await?;
        assert_eq!(good.taken().len(), before);
        set(&[GOOD]);
        good.taken_at_least(before + 1).await?;
    }
    assert_eq!(bad.connections(), 0);
    gateway.finish(&[&good]).await
}

/// The usual attack (DNS rebinding): the check sees the first answer, the connection the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_uses_the_addresses_that_were_checked() -> anyhow::Result<()> {
    const MESSAGES: usize = 10;
    let (good, bad) = servers().await?;
    let dns = NameServer::start(|_, before| vec![if before % 2 == 0 { GOOD } else { BAD }]).await?;
    let gateway = production(Setup::Embedded)?
        .env("ROUNDTRIP__EGRESS__NAMESERVERS", dns.address())
        .schedule(&["100ms"; 60].join(","))
        .start()
        .await?;
    let url = format!("http://{NAME}:{}/incoming", good.port());
    gateway.register("c", &url).await?;
    gateway.send_many("c", MESSAGES).await?;
    gateway.all_taken(&[&good]).await?;
    // At least two of them got a good answer, so there was a bad one in between.
    assert!(dns.asked(NAME) > MESSAGES, "{}", dns.asked(NAME));
    assert_eq!(bad.connections(), 0);
    gateway.finish(&[&good]).await.map(drop)
}

async fn a_channel_that_may_not_be_connected_to_is_refused_by_the_api(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let gateway = production(setup)?.start().await?;
    let good = "https://hooks.example.org/";
    gateway.register("good", good).await?;
    for url in [
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1:8000/",
        "http://localhost./",
        "http://[::ffff:169.254.169.254]/",
        "http://[64:ff9b::a00:1]/",
        "http://metadata.google.internal/",
        "http://10.0.0.1/",
        "https://user:secret@hooks.example.org/",
        "https://hooks.example.org:6379/",
        "https://hooks.example.org\\@10.0.0.1/",
    ] {
        let metadata = json!({"endpoint_url": url});
        let channel = json!({"channel_id": "bad", "channel_metadata": metadata});
        let made = gateway.post("/channel", channel).await?;
        let patch = json!({"channel_metadata": metadata});
        let changed = gateway.put("/channel/good", patch).await?;
        for refused in [made, changed] {
            let errors = refused.expect(422)?.json()["errors"].clone();
            let field = &errors[0]["field"];
            assert_eq!(field, "channel_metadata.endpoint_url", "{url}: {errors}");
            assert_eq!(errors[1], Value::Null, "{url}: {errors}");
            assert!(!errors.to_string().contains("secret"), "{errors}");
        }
    }
    gateway.get("/channel/bad").await?.expect(404)?;
    let kept = gateway.get("/channel/good").await?.expect(200)?.json();
    let url = &kept["channel_metadata"]["endpoint_url"];
    assert_eq!(url, "https://hooks.example.org/");
    gateway.finish(&[]).await
}

/// As another client of the database may write it.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_came_past_the_api_is_not_connected_to() -> anyhow::Result<()> {
    let bad = forbidden(0).await?;
    let mut gateway = production(Setup::Servers)?.start().await?;
    let channels = gateway.test_namespace()?.channels().await?;
    let url = format!("http://127.1:{}/", bad.address().port());
    channels
        .insert_one(doc! {"channel_id": "c", "channel_metadata": {"endpoint_url": url}})
        .await?;
    let id = gateway.send("c", "s").await?;
    gateway.until_state(&id, "dead").await?;
    let reported = errors(&gateway, &id, 0).await?;
    let rule = "the endpoint must not lead to a loopback address, unless the operator lists it in egress.allow";
    assert_eq!(reported, [rule], "a single lookup");
    let dead = gateway.dead_letters(Queue::OutboundDead).await?;
    let reasons: Vec<_> = dead.into_iter().map(|message| message.dead).collect();
    let refused = DeadReason::new(DeadKind::EndpointRefused, rule);
    assert_eq!(reasons, [Some(refused)]);
    assert_eq!(bad.connections(), 0);
    gateway.finish(&[]).await.map(drop)
}

async fn proxy_variables_of_the_environment_are_ignored(setup: Setup) -> anyhow::Result<Accounted> {
    let (good, _bad) = servers().await?;
    let proxy = forbidden(0).await?;
    let proxy_url = format!("http://{}", proxy.address());
    let variables = "HTTP_PROXY http_proxy HTTPS_PROXY ALL_PROXY all_proxy".split(' ');
    let plan = variables.fold(production(setup)?, |plan, name| plan.env(name, &proxy_url));
    let gateway = plan.start().await?;
    gateway.register("c", &good.url()).await?;
    gateway.send("c", "s").await?;
    gateway.all_taken(&[&good]).await?;
    assert_eq!(proxy.connections(), 0);
    gateway.finish(&[&good]).await
}

/// Each front stands before the same server; only its certificate differs.
#[tokio::test(flavor = "multi_thread")]
async fn over_https_only_servers_with_a_trusted_certificate_are_used() -> anyhow::Result<()> {
    let channel = ScriptedServer::start(|_| Reply::answering("1")).await?;
    let sessions = ScriptedServer::start(|_| Reply::ok()).await?;
    let behind = SocketAddr::new(BAD, channel.port());
    let folder = tempfile::tempdir()?;
    let authority = Authority::new()?;
    let own = authority.identity("localhost")?;
    let good = TlsFront::start(behind, &own).await?;
    let to_sessions = TlsFront::start(SocketAddr::new(BAD, sessions.port()), &own).await?;
    let unknown = Authority::new()?.identity("localhost")?;
    let misnamed = authority.identity("hooks.example")?;
    let expired = authority.expired_identity("localhost")?;
    let refused = [
        ("unknown", unknown, "UnknownIssuer"),
        ("misnamed", misnamed, "not valid for name"),
        ("expired", expired, "expired"),
    ];
    let url = |front: &TlsFront| format!("https://localhost:{}/incoming", front.port());
    // Development allows connections to the machine itself.
    let mut gateway = Plan::new(Setup::Embedded)?
        .env(
            "ROUNDTRIP__EGRESS__CA_FILE",
            authority.write(folder.path())?.display(),
        )
        .sessions_server(url(&to_sessions))
        .schedule("100ms")
        .start()
        .await?;

    gateway.register("good", &url(&good)).await?;
    gateway.send("good", "s").await?;
    sessions.taken_at_least(1).await?;

    for (name, identity, problem) in refused {
        let front = TlsFront::start(behind, &identity).await?;
        gateway.register(name, &url(&front)).await?;
        let id = gateway.send(name, "s").await?;
        // It was retried: a certificate can be renewed.
        let reported = errors(&gateway, &id, 1).await?;
        for error in &reported {
            let clear = error.contains("certificate") && error.contains(problem);
            assert!(clear, "{name}: {error}");
        }
    }
    assert_eq!(channel.received().len(), 1);
    let dead = gateway.dead_letters(Queue::OutboundDead).await?;
    let kinds: Vec<_> = dead
        .iter()
        .filter_map(|message| Some(message.dead.as_ref()?.kind))
        .collect();
    assert_eq!(kinds, [DeadKind::AttemptsExhausted; 3]);
    gateway.finish(&[&channel, &sessions]).await.map(drop)
}
