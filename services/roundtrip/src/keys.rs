//! `roundtrip keys`: API keys directly in the store, so that the first one needs none.
//!
//! Invariant: standard output holds only what was requested, so that a script can read the key from
//! it.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use roundtrip_client::Exit;
use roundtrip_model::{ApiKey, ApiKeyId, ChannelId, Clock, KeyBounds, NewKey, SystemClock};
use roundtrip_store::{Config, MAX_PAGE, Store};
use time::OffsetDateTime;

use crate::{
    cli::{CreateKey, KeysCommand, RevokeKeys},
    runtime, serve,
};

pub(crate) fn run(config: Config, command: KeysCommand) -> ExitCode {
    runtime::run(async move {
        let store = serve::open_store(&config).await?;
        let done = match command {
            KeysCommand::Create(wanted) => create(&*store, wanted, &config.shown_url()).await,
            KeysCommand::List => list(&*store).await,
            KeysCommand::Revoke(which) => revoke(&*store, which).await,
        };
        store.close().await;
        done
    })
}

async fn create(store: &dyn Store, wanted: CreateKey, url: &str) -> anyhow::Result<ExitCode> {
    let now = SystemClock.now();
    let expires_at = wanted.expires_in.map(|duration| {
        let duration = time::Duration::try_from(duration).ok();
        duration.and_then(|duration| now.checked_add(duration))
    });
    let new = NewKey {
        name: wanted.name,
        role: wanted.role,
        channels: (!wanted.channels.is_empty()).then(|| wanted.channels.into_iter().collect()),
        rate_per_second: wanted.rate_per_second,
        expires_at: match expires_at {
            Some(None) => return Ok(misused("--expires-in is too long")),
            Some(end) => end,
            None => None,
        },
    };
    let (key, issued) = match new.make(rand::random(), now) {
        Ok(made) => made,
        Err(errors) => {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Ok(misused(&errors.join("; ")));
        }
    };
    store.create_key(&key).await?;
    print(issued.expose())?;
    // Print the store: with a relative path, the wrong folder means a store that no ingress reads.
    note(&format!(
        "{} is its id, in {url}. The key itself is shown this once.",
        key.key_id
    ));
    Ok(ExitCode::SUCCESS)
}

fn misused(problem: &str) -> ExitCode {
    eprintln!("roundtrip: keys create: {problem}");
    ExitCode::from(Exit::Usage as u8)
}

async fn list(store: &dyn Store) -> anyhow::Result<ExitCode> {
    let now = SystemClock.now();
    print(&format!(
        "{:36}  {:8}  {:16}  {:16}  {:20}  {}",
        "ID", "ROLE", "CREATED", "ENDS", "CHANNELS", "NAME"
    ))?;
    let (within, mut after) = (KeyBounds::default(), None);
    while let Some(page) = next_page(store, &within, &mut after).await? {
        for key in &page {
            print(&row(key, now))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn next_page(
    store: &dyn Store,
    within: &KeyBounds,
    after: &mut Option<ApiKeyId>,
) -> anyhow::Result<Option<Vec<ApiKey>>> {
    let page = store.keys(within, after.as_ref(), MAX_PAGE).await?;
    *after = page.last().map(|last| last.key_id);
    Ok(after.is_some().then_some(page))
}

fn row(key: &ApiKey, now: OffsetDateTime) -> String {
    let ends = match (key.revoked_at, key.expires_at) {
        (Some(_), _) => "revoked".to_owned(),
        (None, Some(_)) if !key.is_active(now) => "expired".to_owned(),
        (None, Some(end)) => minute(end),
        (None, None) => "never".to_owned(),
    };
    let channels = key.channels.as_ref().map_or_else(
        || "all".to_owned(),
        |channels| {
            let ids: Vec<&str> = channels.iter().map(ChannelId::as_str).collect();
            ids.join(",")
        },
    );
    format!(
        "{}  {:8}  {:16}  {ends:16}  {channels:20}  {}",
        key.key_id,
        key.role,
        minute(key.created_at),
        key.name
    )
}

fn minute(at: OffsetDateTime) -> String {
    format!("{} {:02}:{:02}", at.date(), at.hour(), at.minute())
}

async fn revoke(store: &dyn Store, which: RevokeKeys) -> anyhow::Result<ExitCode> {
    let RevokeKeys { id, channels } = which;
    let Some(id) = id else {
        return revoke_all(store, channels.into_iter().collect()).await;
    };
    let revoked = store.revoke_key(&id, SystemClock.now()).await;
    let Some(key) = revoked? else {
        bail!("there is no key {id}");
    };
    note(&format!(
        "{id} ('{}') is revoked; every ingress refuses it within store.cache_ttl.",
        key.name
    ));
    Ok(ExitCode::SUCCESS)
}

/// Revokes the keys that an operator of these channels may have made, and every other key limited
/// to them. Prints their ids.
async fn revoke_all(store: &dyn Store, channels: BTreeSet<ChannelId>) -> anyhow::Result<ExitCode> {
    let within = KeyBounds {
        channels: Some(channels),
        ..KeyBounds::default()
    };
    let (mut after, mut revoked) = (None, 0_u64);
    while let Some(page) = next_page(store, &within, &mut after).await? {
        let now = SystemClock.now();
        for key in page.iter().filter(|key| key.is_active(now)) {
            store.revoke_key(&key.key_id, now).await?;
            print(&key.key_id.to_string())?;
            revoked += 1;
        }
    }
    note(&format!(
        "{revoked} revoked; every ingress refuses them within store.cache_ttl."
    ));
    Ok(ExitCode::SUCCESS)
}

/// Reports success on standard error. A failed write is ignored, because the work is done.
fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn print(line: &str) -> anyhow::Result<()> {
    // `println!` panics if the reader closes the pipe.
    writeln!(io::stdout(), "{line}").context("writing")
}
