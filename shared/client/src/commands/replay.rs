//! Starts a replay: counts, asks, starts and watches.

use serde_json::{Value, json};

use super::watch::{Interrupt, how_to, watch};
use crate::{
    api::{Api, Call},
    arguments::ReplayOptions,
    failure::Failure,
    filters::Filter,
    screen::{Screen, note, pairs},
    values,
};

/// What is replayed: the first segment of the call's path, and its name for people.
pub(crate) struct Source {
    pub(crate) path: &'static str,
    pub(crate) name: &'static str,
}

pub(crate) async fn start(
    api: &Api,
    screen: Screen,
    source: &Source,
    filter: &Filter,
    options: &ReplayOptions,
) -> Result<(), Failure> {
    let call = || Call::post(&[source.path, "replay"]);
    let mut body = filter.body();
    body.insert("dry_run".to_owned(), true.into());
    let counted = api.call(call().json(&json!(body))).await?;
    let count = counted.value()?;
    let matched = count["matched"].as_u64().unwrap_or_default();
    if options.dry_run || matched == 0 {
        return screen.show(&counted.body, || {
            Ok(pairs([
                ("matched", &count["matched"]),
                ("unknown_ids", &count["unknown_ids"]),
            ]))
        });
    }
    let question = format!("Replay {matched} {}?", source.name);
    screen.confirm(&question, options.confirmation)?;
    let interrupt = Interrupt::listen();
    body.remove("dry_run");
    if let Some(rate) = options.rate_per_second {
        body.insert("rate_per_second".to_owned(), rate.into());
    }
    let started = api.call(call().json(&json!(body))).await?;
    let replay: Value = started.value()?;
    let id = values::text(&replay["replay_id"]);
    if options.detach {
        screen.show(&started.body, || {
            Ok(pairs([
                ("replay_id", &replay["replay_id"]),
                ("matched", &replay["matched"]),
            ]))
        })?;
        note(&how_to(&id));
        return Ok(());
    }
    watch(api, screen, &id, interrupt).await
}
