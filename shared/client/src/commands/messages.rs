//! `roundtrip messages`

use std::time::Duration;

use serde_json::Value;

use super::{
    list,
    replay::{Source, start},
    tail,
};
use crate::{
    api::{Api, Call},
    arguments::MessagesCommand,
    failure::Failure,
    filters::{Filter, Kind, name},
    screen::{Screen, document, pairs},
    table::Table,
    values,
};

const MESSAGES: Source = Source {
    path: "messages",
    name: "messages",
};

pub(crate) async fn run(
    api: &Api,
    screen: Screen,
    command: MessagesCommand,
) -> Result<(), Failure> {
    match command {
        MessagesCommand::List { filter, kind, rows } => {
            let filter = of_kind(filter.filter(), kind);
            let call = || Call::get(&["messages"]).filter(&filter);
            let table = Table::new(&tail::HEADS);
            list::print(api, screen, "messages", rows, call, table, tail::row).await
        }
        MessagesCommand::Show { message_id, wait } => {
            let mut call = Call::get(&["channel", "message", &message_id]);
            if let Some(seconds) = wait {
                let wait = Duration::from_secs(seconds.into());
                call = call.query("wait", seconds.to_string()).waits(wait);
            }
            let reply = api.call(call).await?;
            if screen.is_json() {
                return document(&reply.body);
            }
            show(screen, &reply.value()?)
        }
        MessagesCommand::Tail { filter, kind } => {
            tail::follow(api, screen, &of_kind(filter.filter(), kind)).await
        }
        MessagesCommand::Retry { message_id } => {
            let call = Call::post(&["channel", "message", &message_id, "retry"]);
            let reply = api.call(call).await?;
            let retried = reply.value()?;
            screen.show(&reply.body, || {
                Ok(pairs([("retried", &retried["retried"])]))
            })
        }
        MessagesCommand::Cancel {
            message_id,
            confirmation,
        } => {
            screen.confirm("Cancel 1 message?", confirmation)?;
            let call = Call::post(&["channel", "message", &message_id, "cancel"]);
            let reply = api.call(call).await?;
            let cancelled = reply.value()?;
            screen.show(&reply.body, || {
                Ok(pairs([
                    ("message_id", &cancelled["message_id"]),
                    ("state", &cancelled["state"]),
                ]))
            })
        }
        MessagesCommand::Replay {
            ids,
            filter,
            options,
        } => start(api, screen, &MESSAGES, &filter.of_ids(&ids), &options).await,
    }
}

fn of_kind(filter: Filter, kind: Option<Kind>) -> Filter {
    match kind.as_ref().and_then(name) {
        Some(kind) => filter.and("kind", kind),
        None => filter,
    }
}

fn show(screen: Screen, message: &Value) -> Result<(), Failure> {
    let waiting = &message["waiting"];
    let outline = pairs([
        ("message_id", &message["message_id"]),
        ("channel_id", &message["channel_id"]),
        ("session_id", &message["session_id"]),
        ("kind", &message["kind"]),
        ("state", &message["state"]),
        ("waits", &waiting["detail"]),
        ("until", &waiting["until"]),
        ("accepted_at", &message["accepted_at"]),
        ("updated_at", &message["updated_at"]),
        ("answer_by", &message["answer_by"]),
        ("replay_count", &message["replay_count"]),
        ("contents_erased_at", &message["contents_erased_at"]),
    ]);
    let mut timeline = Table::new(&["AT", "EVENT", "DETAILS"]);
    for entry in message["timeline"].as_array().into_iter().flatten() {
        timeline.add([
            values::time(&entry["at"]).into(),
            values::text(&entry["type"]).into(),
            details(entry).into(),
        ]);
    }
    let mut answers = Table::new(&["ANSWER", "AT", "STATE", "CONTENT"]);
    for answer in message["answers"].as_array().into_iter().flatten() {
        let truncated = answer.get("truncated_response_data");
        let content = answer.get("response_data").or(truncated);
        answers.add([
            values::text(&answer["callback_id"]).into(),
            values::time(&answer["at"]).into(),
            values::state(&answer["forward"]["state"]),
            values::text(content.unwrap_or(&answer["contents_erased_at"])).into(),
        ]);
    }
    screen.tables(&[outline, timeline, answers])
}

/// What an entry of a timeline says beside its type.
fn details(entry: &Value) -> String {
    let reason = entry.get("reason").or(entry.pointer("/next/reason"));
    let reason = reason.unwrap_or(&Value::Null);
    let parts = [
        ("attempt", &entry["attempt"]),
        ("status", &entry["status"]),
        ("ms", &entry["duration_ms"]),
        ("error", &entry["error"]),
        ("next", &entry["next"]["type"]),
        ("wait_ms", &entry["next"]["wait_ms"]),
        ("reason", reason.get("kind").unwrap_or(reason)),
        ("detail", &reason["detail"]),
        ("until", &entry["until"]),
        ("excerpt", &entry["excerpt"]),
        ("message", &entry["message"]),
        ("data", &entry["data"]),
        ("replay", &entry["replay_id"]),
        ("late", &entry["late"]),
    ];
    let shown = parts.into_iter().filter(|(_, value)| !value.is_null());
    let shown = shown.map(|(name, value)| format!("{name}={}", values::text(value)));
    shown.collect::<Vec<_>>().join(" ")
}
