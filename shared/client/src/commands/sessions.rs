//! `roundtrip sessions`

use super::{follow, list};
use crate::{
    api::{Api, Call},
    arguments::{Confirmation, Rows, SessionsCommand},
    failure::Failure,
    screen::{Screen, note, pairs},
    table::Table,
    values,
};

/// Before an erasure, at most this many messages and answers are counted for the question.
const MAX_COUNTED: usize = 10_000;
/// How many of them one call reads.
const PAGE: u32 = 500;

pub(crate) async fn run(
    api: &Api,
    screen: Screen,
    command: SessionsCommand,
) -> Result<(), Failure> {
    match command {
        SessionsCommand::Show { session_id, rows } => show(api, screen, &session_id, rows).await,
        SessionsCommand::Tail { session_id } => follow::follow(api, screen, &session_id).await,
        SessionsCommand::Erase {
            session_id,
            confirmation,
        } => erase(api, screen, &session_id, confirmation).await,
    }
}

async fn show(api: &Api, screen: Screen, id: &str, rows: Rows) -> Result<(), Failure> {
    let call = || Call::get(&["sessions", id]);
    let table = Table::new(&["AT", "TYPE", "ID", "STATE", "CONTENT"]);
    list::print(api, screen, "turns", rows, call, table, |turn| {
        let own = if turn["type"] == "answer" {
            &turn["callback_id"]
        } else {
            &turn["message_id"]
        };
        let state = turn.pointer("/forward/state").unwrap_or(&turn["state"]);
        vec![
            values::time(&turn["at"]).into(),
            values::text(&turn["type"]).into(),
            values::text(own).into(),
            values::state(state),
            values::excerpt(values::content(turn)).into(),
        ]
    })
    .await?;
    if screen.is_json() {
        return Ok(());
    }
    let session = api.call(call().query("limit", "1")).await?.value()?;
    let erasure = &session["erasure"];
    if !erasure.is_null() {
        let (status, at) = (&erasure["status"], &erasure["requested_at"]);
        let [status, at] = [values::text(status), values::time(at)];
        note(&format!("{status}: its erasure was requested at {at}"));
    }
    Ok(())
}

async fn erase(
    api: &Api,
    screen: Screen,
    id: &str,
    confirmation: Confirmation,
) -> Result<(), Failure> {
    if !confirmation.yes {
        let count = count(api, id).await?;
        let question = format!("Erase the contents of {count} messages and answers?");
        screen.confirm(&question, confirmation)?;
    }
    let reply = api.call(Call::delete(&["sessions", id])).await?;
    let erasing = reply.value()?;
    screen.show(&reply.body, || {
        Ok(pairs([
            ("session_id", &erasing["session_id"]),
            ("status", &erasing["erasure"]["status"]),
            ("requested_at", &erasing["erasure"]["requested_at"]),
        ]))
    })?;
    note(&format!(
        "roundtrip sessions show {id} says when they are erased"
    ));
    Ok(())
}

/// How many turns a session has, or that they are many.
async fn count(api: &Api, id: &str) -> Result<String, Failure> {
    let (mut count, mut cursor) = (0, None);
    loop {
        let call = Call::get(&["sessions", id]);
        let page = list::page(api, call, "turns", PAGE, cursor).await?;
        count += page.items.len();
        cursor = page.next;
        if cursor.is_none() {
            return Ok(count.to_string());
        }
        if count >= MAX_COUNTED {
            return Ok(format!("more than {count}"));
        }
    }
}
