//! The awaited run: how long after the 202 of an answer the producer that waits for it has it.
//!
//! Invariant: the answers go in turn to the ingress process that the producer waits at, and to another
//! one, one after the other.

use std::time::Duration;

use anyhow::ensure;
use futures::future::try_join;
use harness::{
    counting::CountingServer,
    http::plain_client,
    scripted::{Reply, ScriptedServer},
    stack::{Engines, Plan, Role, Stack},
};
use hyper::{StatusCode, header::CONTENT_TYPE};
use tokio::time::{Instant, timeout};

use crate::{options::Awaited, plan, results::percentile};

const MESSAGE: &str = r#"{"channel_id":"channel-0","session_id":"s","message":"Hello"}"#;
const ANSWER: &str = r#"{"session_id":"s","response_data":{"text":"Message received"}}"#;

/// Answers that are not counted: they open connections and fill caches.
const WARM_UP: usize = 10;

/// How long one message may take.
const LIMIT: Duration = Duration::from_mins(1);

/// How long until the producer had the answers; zero after a response that came later.
#[derive(Default)]
struct Times {
    after_response: Vec<Duration>,
    after_post: Vec<Duration>,
}

/// Runs it on these engines and prints a table for each.
pub(crate) async fn run(
    options: &Awaited,
    engines: &[(&str, &str, Engines)],
) -> anyhow::Result<()> {
    for (title, key, engine) in engines {
        println!("== {title} ==");
        one(options, engine, &format!("awaited-{key}")).await?;
    }
    Ok(())
}

async fn one(options: &Awaited, engines: &Engines, name: &str) -> anyhow::Result<()> {
    let sessions = CountingServer::unused().await?;
    let channel = ScriptedServer::start(|_| Reply::ok()).await?;
    let plan = |folder: &str| -> anyhow::Result<Plan> {
        let plan = plan(&options.common, engines.clone(), folder)?;
        Ok(Plan {
            name: name.to_owned(),
            ..plan.sessions_server(sessions.url())
        })
    };
    let mut stack = Stack::new(plan(name)?)?;
    stack.start_all().await?;
    stack.register(1, &[channel.url()]).await?;
    let mut second = Stack::new(plan(&format!("{name}-second"))?)?;
    let mut accepting = vec![("the same process", stack.url(""))];
    if matches!(engines, Engines::Servers { .. }) {
        second.start(Role::Ingress).await?;
        accepting.push(("another process", second.url("")));
    }
    let mut times: Vec<Times> = accepting.iter().map(|_| Times::default()).collect();
    let client = plain_client()?;
    for number in 0..WARM_UP + options.messages {
        for ((_, url), times) in accepting.iter().zip(&mut times) {
            let answering = answered(&client, &stack, &channel, url);
            let [posted, accepted, arrived] = timeout(LIMIT, answering).await??;
            if number >= WARM_UP {
                times
                    .after_response
                    .push(arrived.saturating_duration_since(accepted));
                times
                    .after_post
                    .push(arrived.saturating_duration_since(posted));
            }
        }
    }
    for ((process, _), times) in accepting.iter().zip(times) {
        println!(
            "accepted by {process:<17} after the answer's 202 {}, after its post {}",
            shown(times.after_response),
            shown(times.after_post)
        );
    }
    second.stop_all().await?;
    stack.stop_all().await?;
    stack.remove().await
}

/// Sends a message and answers it at this URL. Returns when the answer was posted and when it was
/// accepted, and when the producer had it.
async fn answered(
    client: &reqwest::Client,
    stack: &Stack,
    channel: &ScriptedServer,
    accepting: &str,
) -> anyhow::Result<[Instant; 3]> {
    let post = async |url: String, body: &'static str| {
        let post = client.post(url).header(CONTENT_TYPE, "application/json");
        // The answer ignores it.
        let status = post
            .header("prefer", "wait=60")
            .body(body)
            .send()
            .await?
            .status();
        anyhow::Ok((status, Instant::now()))
    };
    let deliveries = channel.taken().len() + 1;
    let answering = async {
        let taken = channel.taken_at_least(deliveries).await?;
        let path = taken[deliveries - 1].response_path()?;
        let posted = Instant::now();
        let (status, accepted) = post(format!("{accepting}{path}"), ANSWER).await?;
        ensure!(
            status == StatusCode::ACCEPTED,
            "the answer was met with {status}"
        );
        Ok([posted, accepted])
    };
    let waiting = post(stack.url("/channel/message"), MESSAGE);
    let ((status, arrived), [posted, accepted]) = try_join(waiting, answering).await?;
    ensure!(
        status == StatusCode::OK,
        "the message was met with {status}"
    );
    Ok([posted, accepted, arrived])
}

fn shown(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let of = |percent| percentile(&times, percent).unwrap_or(f64::NAN);
    format!("p50 {:.1} ms, p99 {:.1} ms", of(50), of(99))
}
