//! Watches a replay to its end.
//!
//! Invariant: the replay runs on the server. Interrupting the watch does not end it, and the command
//! says how to watch it again and how to end it.

use std::{io, time::Duration};

use indicatif::ProgressBar;
use serde_json::Value;
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    api::{Api, Call, Reply},
    failure::Failure,
    screen::{Screen, document, pairs},
    table::Table,
    values,
};

/// The interval between two looks at a replay.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How many looks in a row may fail, so that a restart of the gateway ends no watch.
const MAX_FAILED_LOOKS: u32 = 60;

const BAR: &str = "{bar:30} {human_pos}/{human_len}, {msg}, {eta} left";

/// How to watch and end a replay, in one line.
pub(crate) fn how_to(id: &str) -> String {
    format!("watch it: roundtrip replays show {id} --watch; end it: roundtrip replays stop {id}")
}

/// Ctrl-C. Listening begins before the replay is started, so that the user always learns its id.
pub(crate) struct Interrupt(JoinHandle<io::Result<()>>);

impl Interrupt {
    pub(crate) fn listen() -> Self {
        Self(tokio::spawn(tokio::signal::ctrl_c()))
    }

    async fn come(self) {
        // Without a handler the process ends by the signal itself.
        if !matches!(self.0.await, Ok(Ok(()))) {
            std::future::pending::<()>().await;
        }
    }
}

/// Watches a replay, and prints it when it has ended.
pub(crate) async fn watch(
    api: &Api,
    screen: Screen,
    id: &str,
    interrupt: Interrupt,
) -> Result<(), Failure> {
    let bar = screen.bar(Some(0), BAR);
    let reply = tokio::select! {
        ended = until_ended(api, id, &bar) => ended?,
        () = interrupt.come() => {
            bar.finish_and_clear();
            let problem = format!("the replay {id} goes on on the server; {}", how_to(id));
            return Err(Failure::Interrupted(problem));
        }
    };
    bar.finish_and_clear();
    print(screen, &reply)?;
    if reply.value()?["status"] == "cancelled" {
        return Err(Failure::Failed(format!("the replay {id} was cancelled")));
    }
    Ok(())
}

async fn until_ended(api: &Api, id: &str, bar: &ProgressBar) -> Result<Reply, Failure> {
    let mut failed = 0;
    loop {
        match api.call(Call::get(&["replays", id])).await {
            Ok(reply) => {
                failed = 0;
                let replay = reply.value()?;
                let count = |pointer| replay.pointer(pointer).and_then(Value::as_u64);
                let done = [count("/progress/replayed"), count("/progress/skipped")];
                bar.set_length(count("/matched").unwrap_or_default());
                bar.set_position(done.into_iter().flatten().sum());
                bar.set_message(format!("{:.0}/s", bar.per_sec()));
                if replay["status"] != "running" {
                    return Ok(reply);
                }
            }
            Err(failure) if failure.is_temporary() && failed < MAX_FAILED_LOOKS => failed += 1,
            Err(failure) => return Err(failure),
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Prints a replay.
pub(crate) fn print(screen: Screen, reply: &Reply) -> Result<(), Failure> {
    if screen.is_json() {
        return document(&reply.body);
    }
    let replay = reply.value()?;
    let mut skips = Table::new(&["SKIPPED", "REASON"]);
    for skip in replay["progress"]["skips"].as_array().into_iter().flatten() {
        skips.row([values::text(&skip["id"]), values::text(&skip["reason"])]);
    }
    screen.tables(&[rows(&replay), skips])
}

fn rows(replay: &Value) -> Table {
    let progress = &replay["progress"];
    pairs([
        ("replay_id", &replay["replay_id"]),
        ("status", &replay["status"]),
        ("matched", &replay["matched"]),
        ("replayed", &progress["replayed"]),
        ("skipped", &progress["skipped"]),
        ("rate_per_second", &replay["rate_per_second"]),
        ("created_at", &replay["created_at"]),
        ("ended_at", &replay["ended_at"]),
    ])
}
