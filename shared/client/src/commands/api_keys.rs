//! `roundtrip api-keys`

use serde_json::json;

use super::list;
use crate::{
    api::{Api, Call},
    arguments::ApiKeysCommand,
    failure::Failure,
    screen::{Screen, pairs},
    table::Table,
    values,
};

pub(crate) async fn run(api: &Api, screen: Screen, command: ApiKeysCommand) -> Result<(), Failure> {
    match command {
        ApiKeysCommand::List { rows } => {
            let table = Table::new(&["ID", "ROLE", "CREATED", "EXPIRES", "REVOKED", "NAME"]);
            let call = || Call::get(&["api-keys"]);
            list::print(api, screen, "api_keys", rows, call, table, |key| {
                vec![
                    values::text(&key["key_id"]).into(),
                    values::text(&key["role"]).into(),
                    values::time(&key["created_at"]).into(),
                    values::time(&key["expires_at"]).into(),
                    values::time(&key["revoked_at"]).into(),
                    values::text(&key["name"]).into(),
                ]
            })
            .await
        }
        ApiKeysCommand::Create {
            name,
            role,
            channels,
            rate_per_second,
            expires_at,
        } => {
            let mut wanted = json!({"name": name, "role": role});
            if !channels.is_empty() {
                wanted["channels"] = channels.into();
            }
            if let Some(rate) = rate_per_second {
                wanted["rate_per_second"] = rate.into();
            }
            if let Some(end) = expires_at {
                wanted["expires_at"] = end.into();
            }
            let reply = api.call(Call::post(&["api-keys"]).json(&wanted)).await?;
            let made = reply.value()?;
            screen.show(&reply.body, || {
                Ok(pairs([
                    ("key_id", &made["key_id"]),
                    ("role", &made["role"]),
                    ("expires_at", &made["expires_at"]),
                    ("key", &made["key"]),
                ]))
            })
        }
        ApiKeysCommand::Revoke {
            key_id,
            confirmation,
        } => {
            screen.confirm("Revoke 1 API key?", confirmation)?;
            let reply = api.call(Call::delete(&["api-keys", &key_id])).await?;
            let key = reply.value()?;
            screen.show(&reply.body, || {
                Ok(pairs([
                    ("key_id", &key["key_id"]),
                    ("name", &key["name"]),
                    ("revoked_at", &key["revoked_at"]),
                ]))
            })
        }
    }
}
