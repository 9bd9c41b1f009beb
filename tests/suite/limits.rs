//! Limits: what exceeds one is refused and enqueues nothing, and other clients are served
//! meanwhile.

use futures::future::{join_all, select_all};
use harness::{
    gateway::{Plan, Raw, Role, Setup, TestGateway},
    wait,
};
use reqwest::Method;
use serde_json::Value;

const MESSAGE: &str = r#"{"channel_id":"known","session_id":"s","message":"m"}"#;

/// Sends the head of a message that announces this many bytes.
async fn announce(raw: &mut Raw, bytes: usize) -> anyhow::Result<()> {
    raw.write(&head(bytes, "")).await
}

/// The same, and waits until the gateway reads the body.
async fn begin(raw: &mut Raw, bytes: usize) -> anyhow::Result<()> {
    let head = head(bytes, "expect: 100-continue\r\n");
    raw.write(&head).await?;
    raw.expect("HTTP/1.1 100 Continue\r\n\r\n").await
}

fn head(bytes: usize, more: &str) -> String {
    format!(
        "POST /channel/message HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}\
         content-type: application/json\r\ncontent-length: {bytes}\r\n\r\n"
    )
}

/// The status and the body of an answer.
fn read(answer: &str) -> (u16, Value) {
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (
        status.unwrap_or_default(),
        serde_json::from_str(body).unwrap_or_default(),
    )
}

async fn ingress(settings: &[(&str, &str)]) -> anyhow::Result<TestGateway> {
    let mut plan = Plan::new(Setup::Embedded)?;
    for (name, value) in settings {
        plan = plan.env(&format!("ROUNDTRIP__INGRESS__{name}"), value);
    }
    let gateway = plan.start_ingress().await?;
    gateway.register("known", "http://127.0.0.1:9/").await?;
    Ok(gateway)
}

/// Ends the test with this many messages in the queue.
async fn end_with(mut gateway: TestGateway, enqueued: u64) -> anyhow::Result<()> {
    assert_eq!(gateway.enqueued().await?, enqueued);
    let ended = gateway.finish_unaccounted("nothing but the ingress ran");
    ended.await.map(drop)
}

#[tokio::test]
async fn silent_clients_are_cut_and_honest_ones_are_answered_meanwhile() -> anyhow::Result<()> {
    let gateway = ingress(&[("HEADER_TIMEOUT", "2s"), ("MAX_CONNECTIONS", "60")]).await?;
    let mut silent = Vec::new();
    for number in 0..50 {
        let mut raw = gateway.connect().await?;
        if number % 2 == 0 {
            raw.write("POST /channel/message HTTP/1.1\r\nhost: ")
                .await?;
        }
        silent.push(raw);
    }
    gateway.send_many("known", 10).await?;
    for received in join_all(silent.iter_mut().map(Raw::rest)).await {
        assert_eq!(received?, "");
    }
    end_with(gateway, 10).await
}

#[tokio::test]
async fn a_connection_over_the_limit_gets_503_and_others_go_on() -> anyhow::Result<()> {
    let gateway = ingress(&[("MAX_CONNECTIONS", "8")]).await?;
    let head = "POST /channel/message HTTP/1.1\r\n";
    let mut all = Vec::new();
    // The harness holds one connection; of this many, some must be refused.
    for _ in 0..16 {
        let mut raw = gateway.connect().await?;
        // Beyond the limit the gateway may have closed it already.
        let _ = raw.write(head).await;
        all.push(raw);
    }
    let (refused, at, others) = select_all(all.iter_mut().map(|raw| Box::pin(raw.rest()))).await;
    drop(others);
    let (status, problem) = read(&refused?);
    assert_eq!(status, 503);
    assert_eq!(problem["type"], "urn:roundtrip:problem:overloaded");
    gateway.send("known", "s").await?;

    drop(all.swap_remove(at));
    drop(all);
    wait::until("a place for a new connection", async || {
        let mut raw = gateway.connect().await.ok()?;
        announce(&mut raw, MESSAGE.len()).await.ok()?;
        raw.write(MESSAGE).await.ok()?;
        let (status, _) = read(&raw.rest().await.ok()?);
        (status == 202).then_some(())
    })
    .await?;
    end_with(gateway, 2).await
}

#[tokio::test]
async fn a_body_that_trickles_is_408() -> anyhow::Result<()> {
    let gateway = ingress(&[("BODY_TIMEOUT", "1s")]).await?;
    let mut raw = gateway.connect().await?;
    announce(&mut raw, MESSAGE.len()).await?;
    raw.write(&MESSAGE[..10]).await?;
    let (status, problem) = read(&raw.rest().await?);
    assert_eq!(status, 408);
    assert_eq!(problem["status"], 408);
    end_with(gateway, 0).await
}

#[tokio::test]
async fn more_requests_than_may_be_under_way_are_503_until_one_has_ended() -> anyhow::Result<()> {
    let gateway = ingress(&[("MAX_REQUESTS_IN_FLIGHT", "2")]).await?;
    let mut under_way = Vec::new();
    for _ in 0..2 {
        let mut raw = gateway.connect().await?;
        begin(&mut raw, MESSAGE.len()).await?;
        under_way.push(raw);
    }
    let refused = gateway.get("/channel/known").await?.expect(503)?;
    assert_eq!(refused.header("retry-after"), "2");
    assert_eq!(refused.header("content-type"), "application/problem+json");

    for raw in &mut under_way {
        raw.write(MESSAGE).await?;
        assert_eq!(read(&raw.rest().await?).0, 202);
    }
    gateway.get("/channel/known").await?.expect(200)?;
    end_with(gateway, 2).await
}

#[tokio::test]
async fn more_bytes_than_the_budget_are_503_until_it_is_free() -> anyhow::Result<()> {
    /// The least that can be configured: the longest batch.
    const BOUND: usize = 16 << 20;
    const EACH: usize = 1 << 20;
    let bound = BOUND.to_string();
    let gateway = ingress(&[("MAX_BYTES_IN_FLIGHT", bound.as_str())]).await?;
    let all_but_the_end = " ".repeat(EACH - 1);
    let mut under_way = Vec::new();
    for _ in 0..=BOUND / EACH {
        let mut raw = gateway.connect().await?;
        announce(&mut raw, EACH).await?;
        // A refused connection may close before everything is sent.
        let _ = raw.write(&all_but_the_end).await;
        under_way.push(raw);
    }
    let answers = under_way.iter_mut().map(|raw| Box::pin(raw.rest()));
    let (refused, _, others) = select_all(answers).await;
    drop(others);
    assert_eq!(read(&refused?).0, 503);

    drop(under_way);
    wait::until("the budget to be free", async || {
        gateway.send("known", "s").await.ok()
    })
    .await?;
    end_with(gateway, 1).await
}

#[tokio::test]
async fn a_request_over_a_limit_is_a_problem_and_enqueues_nothing() -> anyhow::Result<()> {
    let gateway = ingress(&[]).await?;
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let message =
        |message: &str| format!(r#"{{"channel_id":"known","session_id":"s","message":{message}}}"#);
    let answer = |data: &str| format!(r#"{{"session_id":"s","response_data":{data}}}"#);
    let many = "x: 1\r\n".repeat(70);
    let long = "x".repeat(20 << 10);

    let send = "/channel/message";
    let back = "/webhook-response";
    let path = format!("/channel/{}", "c".repeat(8200));
    let query = format!("/messages?session_id={}", "s".repeat(9000));
    let deep_query = format!(r#"{{"channel_name":{deep}}}"#);
    let gzip = Some(("content-encoding", "gzip"));
    let long = Some(("x-long", &*long));
    for (path, header, body, status, field) in [
        (send, None, message(&deep), 422, Some("message")),
        (send, None, message(r#""\ud800""#), 422, Some("message")),
        (send, None, message("1e400"), 422, Some("message")),
        (back, None, answer(&deep), 422, Some("response_data")),
        (
            back,
            None,
            answer(r#"["\udfff"]"#),
            422,
            Some("response_data[0]"),
        ),
        ("/channels", None, deep_query, 422, Some("channel_name")),
        (send, gzip, message("1"), 415, None),
        (send, long, message("1"), 431, None),
        (&path, None, String::new(), 414, None),
        (&query, None, String::new(), 414, None),
    ] {
        let headers: Vec<_> = header.into_iter().collect();
        let refused = gateway.request(Method::POST, path, &headers, body).await?;
        let shown = &path[..path.len().min(40)];
        assert_eq!(refused.status, status, "{shown}: {}", refused.text);
        let kind = refused.header("content-type");
        assert_eq!(kind, "application/problem+json", "{shown}");
        let named = refused.json()["errors"][0]["field"].clone();
        assert_eq!(named.as_str(), field, "{shown}");
    }

    let mut raw = gateway.connect().await?;
    let head = "GET /channel/known HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    raw.write(&format!("{head}{many}\r\n")).await?;
    let (status, problem) = read(&raw.rest().await?);
    assert_eq!((status, &problem["status"]), (431, &Value::from(431)));
    end_with(gateway, 0).await
}

/// RFC 9112, 3.2: a proxy before the gateway must read the same `Host` as the gateway.
#[tokio::test]
async fn a_request_without_exactly_one_host_is_400() -> anyhow::Result<()> {
    let gateway = ingress(&[]).await?;
    for hosts in [
        "",
        "host: localhost\r\nhost: localhost\r\n",
        "host: local host\r\n",
        "host: user@localhost\r\n",
    ] {
        let mut raw = gateway.connect().await?;
        let head = head(MESSAGE.len(), "").replace("host: localhost\r\n", hosts);
        raw.write(&format!("{head}{MESSAGE}")).await?;
        let (status, problem) = read(&raw.rest().await?);
        assert_eq!(status, 400, "{hosts:?}");
        assert_eq!(problem["type"], "urn:roundtrip:problem:bad-request");
    }
    end_with(gateway, 0).await
}

/// As a page in a browser of this machine does it, by a form or by DNS rebinding.
#[tokio::test]
async fn in_development_a_web_page_changes_nothing() -> anyhow::Result<()> {
    let mut gateway = ingress(&[]).await?;
    for (headers, status) in [
        ("host: evil.example\r\n", 403),
        ("host: localhost\r\norigin: https://evil.example\r\n", 403),
        ("host: localhost\r\norigin: null\r\n", 403),
        ("host: localhost\r\nsec-fetch-site: cross-site\r\n", 403),
        ("host: localhost\r\nsec-fetch-site: same-origin\r\n", 200),
        ("host: localhost\r\norigin: http://localhost:3000\r\n", 200),
    ] {
        for path in ["/channel/known/pause", "/channel/known/secret/rotate"] {
            let mut raw = gateway.connect().await?;
            let head = format!("POST {path} HTTP/1.1\r\n{headers}connection: close\r\n");
            raw.write(&format!("{head}content-length: 0\r\n\r\n"))
                .await?;
            let (answered, problem) = read(&raw.rest().await?);
            assert_eq!(answered, status, "{path} {headers:?}: {problem}");
        }
        let mut raw = gateway.connect_to_operations(Role::Ingress).await?;
        let head = format!("GET /readyz HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
        raw.write(&head).await?;
        let (answered, body) = read(&raw.rest().await?);
        assert_eq!(answered, status, "operations {headers:?}: {body}");
    }
    end_with(gateway, 0).await
}
