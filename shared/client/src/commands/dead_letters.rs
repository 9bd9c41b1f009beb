//! `roundtrip dead-letters`

use roundtrip_model::{Clock, SystemClock};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use super::{
    list,
    replay::{Source, start},
};
use crate::{
    api::{Api, Call},
    arguments::{Confirmation, DeadLettersCommand},
    failure::Failure,
    filters::{DeadLetters, Filter},
    screen::{Screen, pairs},
    table::Table,
    values,
};

const DEAD_LETTERS: Source = Source {
    path: "dead-letters",
    name: "dead letters",
};

/// The most dead letters that one message or answer shows: one for each replay of it.
const MAX_OF_ONE: u32 = 100;

pub(crate) async fn run(
    api: &Api,
    screen: Screen,
    command: DeadLettersCommand,
) -> Result<(), Failure> {
    match command {
        DeadLettersCommand::List { filter, rows } => {
            let filter = filter.filter();
            let call = || Call::get(&["dead-letters"]).filter(&filter);
            let heads = &["ID", "DEAD", "CHANNEL", "SESSION", "ATTEMPTS", "REASON"];
            let table = Table::new(heads);
            list::print(api, screen, "dead_letters", rows, call, table, |letter| {
                vec![
                    values::text(&letter["dead_id"]).into(),
                    values::time(&letter["dead_at"]).into(),
                    values::text(&letter["channel_id"]).into(),
                    values::excerpt(&letter["session_id"]).into(),
                    values::text(&letter["attempts"]).into(),
                    reason(letter).into(),
                ]
            })
            .await
        }
        DeadLettersCommand::Show { id } => show(api, screen, id).await,
        DeadLettersCommand::Replay {
            filter,
            all,
            options,
        } => {
            let filter = narrowed(&filter, all)?;
            start(api, screen, &DEAD_LETTERS, &filter, &options).await
        }
        DeadLettersCommand::Purge {
            filter,
            all,
            confirmation,
        } => purge(api, screen, narrowed(&filter, all)?, confirmation).await,
    }
}

fn reason(letter: &Value) -> String {
    let reason = &letter["reason"];
    let detail = values::excerpt(&reason["detail"]);
    format!("{}: {detail}", values::text(&reason["kind"]))
}

/// The filter, which may select everything only if that is said.
fn narrowed(filter: &DeadLetters, all: bool) -> Result<Filter, Failure> {
    let filter = filter.filter();
    if filter.is_empty() && !all {
        let problem = "name a filter, or --all for every dead letter";
        return Err(Failure::Usage(problem.to_owned()));
    }
    Ok(filter)
}

async fn show(api: &Api, screen: Screen, id: String) -> Result<(), Failure> {
    let wanted = DeadLetters {
        ids: vec![id.clone()],
        ..DeadLetters::default()
    };
    let call = Call::get(&["dead-letters"]).filter(&wanted.filter());
    let page = list::page(api, call, "dead_letters", MAX_OF_ONE, None).await?;
    if page.items.is_empty() {
        let problem = format!(
            "there is no dead letter with the id '{id}'; a message that was replayed is none any \
             more: roundtrip messages show {id}"
        );
        return Err(Failure::NotFound(problem));
    }
    for item in &page.items {
        let letter = list::value(item)?;
        let reason = &letter["reason"];
        screen.show(item.get(), || {
            Ok(pairs([
                ("dead_id", &letter["dead_id"]),
                ("queue", &letter["queue"]),
                ("message_id", &letter["message_id"]),
                ("channel_id", &letter["channel_id"]),
                ("session_id", &letter["session_id"]),
                ("reason", &reason["kind"]),
                ("detail", &reason["detail"]),
                ("attempts", &letter["attempts"]),
                ("replay_count", &letter["replay_count"]),
                ("accepted_at", &letter["accepted_at"]),
                ("dead_at", &letter["dead_at"]),
                ("contents_erased_at", &letter["contents_erased_at"]),
            ]))
        })?;
    }
    Ok(())
}

/// Counts, asks and purges. What dies after the count stays.
async fn purge(
    api: &Api,
    screen: Screen,
    filter: Filter,
    confirmation: Confirmation,
) -> Result<(), Failure> {
    let filter = if filter.has("until") {
        filter
    } else {
        let now = SystemClock.now().format(&Rfc3339).unwrap_or_default();
        filter.and("until", now)
    };
    let mut body = filter.body();
    body.insert("dry_run".to_owned(), true.into());
    let count = Call::post(&["dead-letters", "replay"]).json(&json!(body));
    let count = api.call(count).await?.value()?;
    let matched = count["matched"].as_u64().unwrap_or_default();
    let question = format!("Remove {matched} dead letters for good?");
    if matched > 0 {
        screen.confirm(&question, confirmation)?;
    }
    let call = Call::delete(&["dead-letters"]).filter(&filter);
    let reply = api.call(call).await?;
    let purged = reply.value()?;
    screen.show(&reply.body, || Ok(pairs([("purged", &purged["purged"])])))
}
