//! `roundtrip channels`

use reqwest::header::IF_MATCH;
use serde_json::{Map, Value, json};

use super::list;
use crate::{
    api::{Api, Call, Reply},
    arguments::{ChannelFields, ChannelsCommand, Confirmation},
    failure::Failure,
    input,
    screen::{Screen, note, pairs},
    table::Table,
    values,
};

pub(crate) async fn run(
    api: &Api,
    screen: Screen,
    command: ChannelsCommand,
) -> Result<(), Failure> {
    match command {
        ChannelsCommand::List { filter, sort, rows } => {
            let filter = json!(filter.unwrap_or_default());
            let call = || {
                let call = Call::post(&["channels"]).json(&filter);
                match &sort {
                    Some(sort) => call.query("sort", sort),
                    None => call,
                }
            };
            let table = Table::new(&["ID", "NAME", "PAUSED", "TAGS", "ENDPOINT"]);
            list::print(api, screen, "channels", rows, call, table, |channel| {
                let metadata = &channel["channel_metadata"];
                let is_paused = metadata["delivery"]["paused"] == true;
                vec![
                    values::text(&channel["channel_id"]).into(),
                    values::excerpt(&channel["channel_name"]).into(),
                    if is_paused { "paused" } else { "" }.into(),
                    tags(channel).into(),
                    values::excerpt(&metadata["endpoint_url"]).into(),
                ]
            })
            .await
        }
        ChannelsCommand::Get { channel_id } => {
            let reply = api.call(Call::get(&["channel", &channel_id])).await?;
            print(screen, &reply)
        }
        ChannelsCommand::Create { channel_id, fields } => {
            let channel = channel(channel_id.as_deref(), &fields)?;
            let call = Call::post(&["channel"]).json(&channel);
            print(screen, &api.call(call).await?)
        }
        ChannelsCommand::Update { channel_id, fields } => {
            print(screen, &update(api, &channel_id, &fields).await?)
        }
        ChannelsCommand::Delete {
            channel_id,
            confirmation,
        } => delete(api, screen, &channel_id, confirmation).await,
        ChannelsCommand::Pause { channel_id } => {
            let call = Call::post(&["channel", &channel_id, "pause"]);
            print(screen, &api.call(call).await?)
        }
        ChannelsCommand::Resume { channel_id } => {
            let call = Call::post(&["channel", &channel_id, "resume"]);
            print(screen, &api.call(call).await?)
        }
        ChannelsCommand::Waiting { channel_id } => {
            let call = Call::get(&["channel", &channel_id, "waiting"]);
            let reply = api.call(call).await?;
            let summary = reply.value()?;
            screen.show(&reply.body, || {
                let oldest = &summary["oldest_accepted_at"];
                let more = Some(&summary["has_more"]).filter(|more| **more == true);
                Ok(pairs([
                    ("count", &summary["count"]),
                    ("has_more", more.unwrap_or(&Value::Null)),
                    ("reasons", &summary["reasons"]),
                    ("oldest_accepted_at", oldest),
                    ("next_due_at", &summary["next_due_at"]),
                ]))
            })
        }
        ChannelsCommand::Retry { channel_id } => {
            let call = Call::post(&["channel", &channel_id, "retry"]);
            let reply = api.call(call).await?;
            let retried = reply.value()?;
            screen.show(&reply.body, || {
                Ok(pairs([("retried", &retried["retried"])]))
            })
        }
        ChannelsCommand::RotateSecret {
            channel_id,
            overlap,
        } => {
            let mut call = Call::post(&["channel", &channel_id, "secret", "rotate"]);
            if let Some(overlap) = overlap {
                call = call.json(&json!({"overlap": overlap}));
            }
            let reply = api.call(call).await?;
            let rotated = reply.value()?;
            screen.show(&reply.body, || {
                let until = &rotated["old_secrets_sign_until"];
                Ok(pairs([
                    ("channel_id", &rotated["channel_id"]),
                    ("signing_secret", &rotated["signing_secret"]),
                    ("old_secrets_sign_until", until),
                ]))
            })
        }
    }
}

fn tags(channel: &Value) -> String {
    match channel["channel_tags"].as_array() {
        Some(tags) => tags.iter().map(values::text).collect::<Vec<_>>().join(","),
        None => values::text(&channel["channel_tags"]),
    }
}

fn print(screen: Screen, reply: &Reply) -> Result<(), Failure> {
    let channel = reply.value()?;
    let tags = tags(&channel).into();
    screen.show(&reply.body, || {
        Ok(pairs([
            ("channel_id", &channel["channel_id"]),
            ("channel_name", &channel["channel_name"]),
            ("channel_description", &channel["channel_description"]),
            ("channel_tags", &tags),
            ("channel_metadata", &channel["channel_metadata"]),
            ("signing_secret", &channel["signing_secret"]),
        ]))
    })
}

/// The fields that are named, over those of the file.
fn channel(id: Option<&str>, fields: &ChannelFields) -> Result<Value, Failure> {
    let mut channel = match &fields.file {
        Some(file) => {
            let text = input::read(file)?;
            let read = serde_json::from_str::<Map<String, Value>>(&text);
            read.map_err(|error| {
                Failure::Failed(format!("{} is no JSON object: {error}", file.display()))
            })?
        }
        None => Map::new(),
    };
    for (name, value) in [
        ("channel_id", id),
        ("channel_name", fields.name.as_deref()),
        ("channel_description", fields.description.as_deref()),
    ] {
        if let Some(value) = value {
            channel.insert(name.to_owned(), value.into());
        }
    }
    if !fields.tags.is_empty() {
        channel.insert("channel_tags".to_owned(), fields.tags.clone().into());
    }
    let mut channel = Value::Object(channel);
    if let Some(patch) = metadata(fields) {
        merge(&mut channel["channel_metadata"], &patch);
    }
    Ok(channel)
}

/// What the options change in the metadata.
fn metadata(fields: &ChannelFields) -> Option<Value> {
    let mut metadata = fields.metadata.clone().unwrap_or_default();
    if let Some(url) = &fields.endpoint_url {
        metadata.insert("endpoint_url".to_owned(), url.as_str().into());
    }
    (!metadata.is_empty()).then_some(Value::Object(metadata))
}

/// Changes a document as RFC 7396 (JSON Merge Patch) says.
fn merge(document: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        document.clone_from(patch);
        return;
    };
    if !document.is_object() {
        *document = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            document.as_object_mut().map(|object| object.remove(name));
        } else {
            merge(&mut document[name.as_str()], value);
        }
    }
}

/// Changes what is named. The API replaces the metadata as a whole, so what is not named is read
/// first, and the change applies only to what was read.
async fn update(api: &Api, id: &str, fields: &ChannelFields) -> Result<Reply, Failure> {
    let mut patch = channel(None, fields)?;
    if patch == json!({}) {
        return Err(Failure::Usage("name what to change".to_owned()));
    }
    let mut call = Call::put(&["channel", id]);
    // A file has the whole metadata.
    if let Some(change) = metadata(fields).filter(|_| fields.file.is_none()) {
        let known = api.call(Call::get(&["channel", id])).await?;
        let mut metadata = known.value()?["channel_metadata"].take();
        merge(&mut metadata, &change);
        patch["channel_metadata"] = metadata;
        if let Some(version) = known.etag {
            call = call.header(IF_MATCH, version);
        }
    }
    api.call(call.json(&patch)).await
}

async fn delete(
    api: &Api,
    screen: Screen,
    id: &str,
    confirmation: Confirmation,
) -> Result<(), Failure> {
    if !confirmation.yes {
        let waiting = Call::get(&["channel", id, "waiting"]);
        let waiting = api.call(waiting).await?.value()?;
        let more = if waiting["has_more"] == true {
            "more than "
        } else {
            ""
        };
        let question = format!(
            "Delete 1 channel? {more}{} messages wait for it and become dead letters.",
            values::text(&waiting["count"])
        );
        screen.confirm(&question, confirmation)?;
    }
    api.call(Call::delete(&["channel", id])).await?;
    note(&format!("{id} is deleted"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(json!({"a": 1, "b": 2}), json!({"b": null, "c": 3}), json!({"a": 1, "c": 3}))]
    #[case(json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 5}}), json!({"a": {"b": 5, "c": 2}}))]
    #[case(json!("text"), json!({"a": 1}), json!({"a": 1}))]
    #[case(json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]}))]
    fn metadata_is_merged_key_by_key(
        #[case] mut document: Value,
        #[case] patch: Value,
        #[case] merged: Value,
    ) {
        merge(&mut document, &patch);
        assert_eq!(document, merged);
    }

    #[test]
    fn options_take_precedence_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("channel.json");
        let stored = json!({
            "channel_id": "c", "channel_name": "n",
            "channel_metadata": {"endpoint_url": "http://a", "own": 1}
        });
        std::fs::write(&file, stored.to_string()).unwrap();
        let fields = ChannelFields {
            file: Some(file),
            endpoint_url: Some("http://b".to_owned()),
            tags: vec!["t".to_owned()],
            ..ChannelFields::default()
        };
        let read = channel(Some("d"), &fields).unwrap();
        let expected = json!({
            "channel_id": "d", "channel_name": "n", "channel_tags": ["t"],
            "channel_metadata": {"endpoint_url": "http://b", "own": 1}
        });
        assert_eq!(read, expected);
    }
}
