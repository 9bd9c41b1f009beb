//! Ten failures that were reproduced in a well-known peer and must not happen here. Each has a
//! test; those in other modules are named in the table.
//!
//! | what happened there | what shows that it does not here |
//! |---|---|
//! | behind a 20 s endpoint a message for a fast one waited 16.8 s | `isolation::a_hung_channels_backlog_does_not_stop_a_healthy_one` |
//! | the in-flight cap was soft: 610 of 500 | `isolation::the_cap_on_what_is_under_way_is_hard`; the brokers' contract, `a_window_is_hard` |
//! | the time limit excluded the answer's body: a stalled one was posted again for ever, and a drain never ended | `a_stalled_response_is_one_delivery_and_does_not_delay_the_drain` |
//! | with the queue down a post was stored, and its repeat was refused though nothing was sent | `producers::without_the_broker_no_key_is_remembered` |
//! | a broker restart emptied the queue | `faults::on_rabbitmq_and_mongodb_faults_lose_nothing`; the brokers' contract, `an_unsettled_message_is_delivered_again_after_reopening` |
//! | after a broker restart the consumer never came back | `outages::while_the_broker_is_unavailable_messages_are_refused_and_none_is_lost`; `rabbitmq::a_consumer_outlives_its_queue` |
//! | a nack dropped the task | the brokers' contract, `a_dropped_delivery_is_delivered_again` |
//! | a per-endpoint rate was stored and not enforced | admission, `a_rate_is_enforced` and `messages_over_the_rate_come_back_at_that_rate` |
//! | 429 was retried on the ordinary schedule | `the_retry_after_of_a_429_is_honoured` |
//! | the HTTP client repeated a dropped request by itself, and one attempt was recorded | `each_dropped_request_is_an_attempt` |

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use harness::{
    gateway::{Accounted, Plan, Setup, TestGateway},
    scripted::{Received, Reply, ScriptedServer},
    wait,
};
use roundtrip_broker::{Queue, Route};
use roundtrip_model::ChannelId;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

on_both_setups! {
    a_stalled_response_is_one_delivery_and_does_not_delay_the_drain,
    the_retry_after_of_a_429_is_honoured,
    each_dropped_request_is_an_attempt,
    an_undecodable_message_is_dead_with_its_reason_and_comes_once,
    unreadable_journal_entries_are_kept_and_reported,
}

/// What a bare server does with a request.
#[derive(Clone, Copy)]
enum Then {
    Take,
    /// Sends the head of a 200 and a part of its body, then stalls.
    Stall,
    /// Closes the connection without an answer.
    Drop,
}

/// A bare HTTP server that can break the protocol.
struct Bare {
    address: SocketAddr,
    /// The body of each request, in order.
    bodies: Arc<Mutex<Vec<String>>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Bare {
    /// `then` decides by a request's body and by how often this body has come, from 1 on.
    async fn start(then: fn(&str, usize) -> Then) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let accepting = tokio::spawn({
            let bodies = Arc::clone(&bodies);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, Arc::clone(&bodies), then));
                }
            }
        });
        Ok(Self {
            address,
            bodies,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    fn url(&self) -> String {
        format!("http://{}/incoming", self.address)
    }

    /// How many requests were for this session.
    fn requests_for(&self, session: &str) -> usize {
        let bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        let quoted = format!("\"{session}\"");
        bodies.iter().filter(|body| body.contains(&quoted)).count()
    }

    async fn request_for(&self, session: &str) -> anyhow::Result<()> {
        wait::until(format!("a request for {session}"), async || {
            (self.requests_for(session) > 0).then_some(())
        })
        .await
    }
}

async fn serve(
    mut stream: TcpStream,
    bodies: Arc<Mutex<Vec<String>>>,
    then: fn(&str, usize) -> Then,
) {
    while let Some(body) = read_request(&mut stream).await {
        let count = {
            let mut bodies = bodies.lock().unwrap_or_else(PoisonError::into_inner);
            bodies.push(body.clone());
            bodies.iter().filter(|earlier| **earlier == body).count()
        };
        let answer: &[u8] = match then(&body, count) {
            Then::Take => b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            Then::Stall => b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nand then",
            Then::Drop => return,
        };
        // The client may be gone; the next read shows it.
        let _ = stream.write_all(answer).await;
    }
}

/// The body of the next request; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    const END_OF_HEAD: &str = "\r\n\r\n";
    let mut request = String::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some((head, body)) = request.split_once(END_OF_HEAD) {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.trim().parse::<usize>().ok())?
            })?;
            if body.len() >= length {
                return Some(body.to_owned());
            }
        }
        let read = stream
            .read(&mut chunk)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        request.push_str(&String::from_utf8_lossy(&chunk[..read]));
    }
}

/// A message by the API, once it is delivered.
async fn until_delivered(gateway: &TestGateway, id: &str) -> anyhow::Result<Value> {
    let path = format!("/channel/message/{id}");
    wait::until(format!("{id} to be delivered"), async || {
        let message = gateway.get(&path).await.ok()?.json();
        // MongoDB keeps the state and the entries in two collections: a read in between sees one
        // before the other.
        let is_complete = attempts(&message)
            .iter()
            .any(|attempt| attempt["next"]["type"] == "done");
        (is_complete && message["state"] == "delivered").then_some(message)
    })
    .await
}

/// The attempts in a message's timeline.
fn attempts(message: &Value) -> Vec<&Value> {
    let timeline = message["timeline"].as_array();
    let entries = timeline.into_iter().flatten();
    entries
        .filter(|entry| entry["type"] == "attempted")
        .collect()
}

async fn a_stalled_response_is_one_delivery_and_does_not_delay_the_drain(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let channel = Bare::start(|body, _| {
        if body.contains("\"stalls\"") {
            Then::Stall
        } else {
            Then::Take
        }
    })
    .await?;
    let mut gateway = Plan::new(setup)?
        .schedule("100ms,100ms")
        .env("ROUNDTRIP__DISPATCHER__WEBHOOK__TIMEOUT", "1s")
        .start()
        .await?;
    gateway.register("c", &channel.url()).await?;
    let id = gateway.send("c", "stalls").await?;
    channel.request_for("stalls").await?;
    // It ends cleanly and in time.
    let dispatcher = gateway.having("dispatcher");
    gateway.stop(&dispatcher).await?;
    gateway.process(&dispatcher)?.restart().await?;
    let message = until_delivered(&gateway, &id).await?;
    assert_eq!(attempts(&message).len(), 1);
    // A redelivery would come before this one.
    gateway.send("c", "later").await?;
    channel.request_for("later").await?;
    assert_eq!(channel.requests_for("stalls"), 1);
    gateway
        .finish_unaccounted("both were at a server that keeps its own account")
        .await
}

/// Checked by the order of events: of two failing messages, the one with the longer `Retry-After`
/// comes back last, though it failed first.
async fn the_retry_after_of_a_429_is_honoured(setup: Setup) -> anyhow::Result<Accounted> {
    let busy = ScriptedServer::start(|request: &Received| match request.attempt {
        1 => Reply::status(429).header("retry-after", "4"),
        _ => Reply::ok(),
    })
    .await?;
    let failing = ScriptedServer::start(|request: &Received| match request.attempt {
        1 => Reply::status(503),
        _ => Reply::ok(),
    })
    .await?;
    let gateway = Plan::new(setup)?.schedule("100ms,100ms").start().await?;
    gateway.register("busy", &busy.url()).await?;
    gateway.register("failing", &failing.url()).await?;
    gateway.send("busy", "s").await?;
    busy.received_at_least(1).await?;
    gateway.send("failing", "s").await?;
    failing.taken_at_least(1).await?;
    assert_eq!(busy.received().len(), 1);
    busy.taken_at_least(1).await?;
    gateway.finish(&[&busy, &failing]).await
}

async fn each_dropped_request_is_an_attempt(setup: Setup) -> anyhow::Result<Accounted> {
    let channel = Bare::start(|body, count| {
        if body.contains("\"dropped\"") && count < 3 {
            Then::Drop
        } else {
            Then::Take
        }
    })
    .await?;
    let gateway = Plan::new(setup)?
        .schedule("100ms,100ms,100ms")
        .start()
        .await?;
    gateway.register("c", &channel.url()).await?;
    // It leaves a kept-alive connection, on which an HTTP client may repeat a request by itself.
    let first = gateway.send("c", "first").await?;
    until_delivered(&gateway, &first).await?;
    let id = gateway.send("c", "dropped").await?;
    let message = until_delivered(&gateway, &id).await?;
    assert_eq!(channel.requests_for("dropped"), 3);
    let attempts = attempts(&message);
    assert_eq!(attempts.len(), 3, "{message:#}");
    assert!(
        attempts[..2]
            .iter()
            .all(|attempt| attempt["error"].is_string())
    );
    assert_eq!(attempts[2]["status"], 200);
    gateway
        .finish_unaccounted("both were at a server that keeps its own account")
        .await
}

async fn an_undecodable_message_is_dead_with_its_reason_and_comes_once(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let mut gateway = Plan::new(setup)?.start().await?;
    gateway.register("c", &channel.url()).await?;
    let id: ChannelId = "c".parse()?;
    for (route, poison) in [
        (Route::Outbound(&id), "msg_poison"),
        (Route::Callbacks, "cb_poison"),
        (Route::Journal, "journal_poison"),
    ] {
        gateway.slip_in(route, poison, b"\xff{ no JSON").await?;
    }
    let letters = wait::until("two dead letters", async || {
        let answer = gateway.get("/dead-letters?reason=undecodable").await.ok()?;
        let letters = answer.json()["dead_letters"].as_array()?.clone();
        (letters.len() >= 2).then_some(letters)
    })
    .await?;
    let mut ids: Vec<_> = letters.iter().map(|letter| &letter["webhook_id"]).collect();
    ids.sort_by_key(ToString::to_string);
    assert_eq!(ids, ["cb_poison", "msg_poison"]);
    let logged = |role: &str, of: [&str; 2]| {
        let log = gateway.log(&gateway.having(role)).unwrap_or_default();
        let lines = log.lines();
        lines
            .filter(|line| of.iter().all(|word| line.contains(word)))
            .count()
    };
    let of_the_batch = ["cannot be read", "journal_poison"];
    wait::until("the recorder to log the poison", async || {
        (logged("recorder", of_the_batch) > 0).then_some(())
    })
    .await?;
    // The next message is not affected.
    gateway.send("c", "good").await?;
    gateway.all_taken(&[&channel]).await?;
    let of_the_message = ["delivery.not_attempted", "msg_poison"];
    assert_eq!(logged("dispatcher", of_the_message), 1);
    assert_eq!(
        logged("forwarder", ["forward.not_attempted", "cb_poison"]),
        1
    );
    assert_eq!(logged("recorder", of_the_batch), 1);
    gateway.finish(&[&channel]).await
}

/// A recorder that starts later reports it too: it stays until an operator handles it.
async fn unreadable_journal_entries_are_kept_and_reported(
    setup: Setup,
) -> anyhow::Result<Accounted> {
    let mut gateway = Plan::new(setup)?.start().await?;
    let poison = b"\xff{ no JSON";
    gateway.slip_in(Route::Journal, "poison", poison).await?;
    let recorder = gateway.having("recorder");
    let is_told = async |gateway: &TestGateway, of: &[&str]| {
        wait::until(format!("the recorder to tell of {of:?}"), async || {
            let log = gateway.log(&recorder).ok()?;
            let mut lines = log.lines();
            lines
                .any(|line| of.iter().all(|word| line.contains(word)))
                .then_some(())
        })
        .await
    };
    is_told(&gateway, &["cannot be read", "poison"]).await?;
    // It is in the dead queue before the stop ends.
    gateway.stop(&recorder).await?;
    gateway.process(&recorder)?.restart().await?;
    is_told(
        &gateway,
        &["journal.unreadable", "messages=1", "journal.dead"],
    )
    .await?;
    let kept = gateway.dead_letters(Queue::JournalDead).await?;
    let kept: Vec<_> = kept.iter().map(|message| &message.body[..]).collect();
    assert_eq!(kept, [poison]);
    gateway.finish(&[]).await
}
