//! `roundtrip answers`

use super::replay::{Source, start};
use crate::{api::Api, arguments::AnswersCommand, failure::Failure, screen::Screen};

const ANSWERS: Source = Source {
    path: "answers",
    name: "answers",
};

pub(crate) async fn run(api: &Api, screen: Screen, command: AnswersCommand) -> Result<(), Failure> {
    match command {
        AnswersCommand::Replay { filter, options } => {
            start(api, screen, &ANSWERS, &filter.filter(), &options).await
        }
    }
}
