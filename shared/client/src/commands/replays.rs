//! `roundtrip replays`

use super::{list, watch};
use crate::{
    api::{Api, Call},
    arguments::ReplaysCommand,
    failure::Failure,
    filters::name,
    screen::Screen,
    table::Table,
    values,
};

pub(crate) async fn run(api: &Api, screen: Screen, command: ReplaysCommand) -> Result<(), Failure> {
    match command {
        ReplaysCommand::List { status, rows } => {
            let status = status.as_ref().and_then(name);
            let call = || {
                let call = Call::get(&["replays"]);
                match &status {
                    Some(status) => call.query("status", status),
                    None => call,
                }
            };
            let table = Table::new(&["ID", "STATUS", "MATCHED", "REPLAYED", "SKIPPED", "CREATED"]);
            list::print(api, screen, "replays", rows, call, table, |replay| {
                let progress = &replay["progress"];
                vec![
                    values::text(&replay["replay_id"]).into(),
                    values::state(&replay["status"]),
                    values::text(&replay["matched"]).into(),
                    values::text(&progress["replayed"]).into(),
                    values::text(&progress["skipped"]).into(),
                    values::time(&replay["created_at"]).into(),
                ]
            })
            .await
        }
        ReplaysCommand::Show {
            replay_id,
            watch: false,
        } => {
            let reply = api.call(Call::get(&["replays", &replay_id])).await?;
            watch::print(screen, &reply)
        }
        ReplaysCommand::Show {
            replay_id,
            watch: true,
        } => watch::watch(api, screen, &replay_id, watch::Interrupt::listen()).await,
        ReplaysCommand::Stop { replay_id } => {
            let reply = api
                .call(Call::post(&["replays", &replay_id, "cancel"]))
                .await?;
            watch::print(screen, &reply)
        }
    }
}
