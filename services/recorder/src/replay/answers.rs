//! What a replay of answers publishes.

use roundtrip_broker::Message;
use roundtrip_model::{Callback, Entry, Event, MessageKind, ReplayId, journal::KeptAnswer};
use roundtrip_store::{FIRST_ENTRIES, Journal, MAX_ENTRIES, SkipReason, StoredAnswer, Unavailable};
use time::OffsetDateTime;

use super::page::{Destination, Item, Subject, Work};

/// What became of an answer, as far as its entries are known.
#[derive(Default)]
pub(super) struct Fate {
    replay_count: u32,
    is_under_way: bool,
    /// The latest replay that put it back.
    replayed_by: Option<ReplayId>,
}

impl Fate {
    /// Reads what became of this answer: from its message's timeline or, if it has no message, from its
    /// own latest entry.
    pub(super) async fn read(
        store: &dyn Journal,
        answer: &StoredAnswer,
    ) -> Result<Self, Unavailable> {
        let Some(message_id) = &answer.message_id else {
            return Ok(Self::of(answer.latest.iter()).unwrap_or_else(Self::accepted));
        };
        let Some((message, timeline)) = store.message(message_id).await? else {
            return Ok(Self::default());
        };
        // The replay would end the wait for the answer to a newer delivery of the message.
        if message.state.is_under_way() || message.answer_by.is_some() {
            return Ok(Self::accepted());
        }
        let of_answer = |entry: &&Entry| entry.event.callback_id() == Some(answer.callback_id);
        // Of a timeline that leaves entries out, only those after the gap are certainly the latest.
        if timeline.len() >= MAX_ENTRIES {
            let latest = timeline[FIRST_ENTRIES..].iter().filter(of_answer);
            return Ok(Self::of(latest).unwrap_or(Self {
                replay_count: message.replay_count,
                ..Self::default()
            }));
        }
        let fate = Self::of(timeline.iter().filter(of_answer));
        Ok(fate.unwrap_or_else(Self::accepted))
    }

    /// That of an answer that cannot be put back now: its first attempt has not ended, or its message is
    /// delivered again.
    fn accepted() -> Self {
        Self {
            is_under_way: true,
            ..Self::default()
        }
    }

    /// What became of an answer by these entries, the earliest first.
    fn of<'a>(entries: impl Iterator<Item = &'a Entry> + Clone) -> Option<Self> {
        let latest = Entry::latest_of_answer(entries.clone())?;
        let replays = entries.filter_map(|entry| match entry.event {
            Event::Replayed { replay_id, .. } => Some(replay_id),
            _ => None,
        });
        Some(Self {
            replay_count: latest.replay_count,
            is_under_way: latest.event.leaves_an_answer_under_way(),
            replayed_by: replays.last(),
        })
    }
}

/// The answer under its own id, with a greater replay count. One that is under way is skipped,
/// because it would be forwarded twice.
pub(super) fn from_answer(
    answer: StoredAnswer,
    fate: &Fate,
    replay_id: ReplayId,
    now: OffsetDateTime,
) -> Item {
    let cursor = answer.cursor().to_string();
    let StoredAnswer {
        callback_id,
        content,
        message_id,
        channel_id,
        session_id,
        contents_erased_at,
        ..
    } = answer;
    let work = match content {
        _ if fate.replayed_by == Some(replay_id) => Work::Published,
        _ if fate.is_under_way => Work::Skip(SkipReason::UnderWay),
        _ if contents_erased_at.is_some() => Work::Skip(SkipReason::ContentsErased),
        None => Work::Skip(SkipReason::ContentUnknown),
        Some(KeptAnswer::TruncatedResponseData { .. }) => Work::Skip(SkipReason::ContentTruncated),
        Some(KeptAnswer::ResponseData(response_data)) => {
            let callback = Callback {
                callback_id: Some(callback_id),
                session_id: session_id.clone(),
                message_id,
                channel_id: channel_id.clone(),
                response_data,
            };
            serde_json::to_vec(&callback).map_or(Work::Skip(SkipReason::ContentUnknown), |body| {
                let message = Message {
                    replay_count: fate.replay_count + 1,
                    ..Message::new(callback_id.to_string(), now, body.into())
                };
                Work::Publish(Destination::Callbacks, message)
            })
        }
    };
    Item {
        id: callback_id.to_string(),
        cursor,
        work,
        subject: Some(Subject {
            message_id,
            channel_id,
            session_id,
            kind: MessageKind::Outbound,
            callback_id: Some(callback_id),
        }),
        dead_id: None,
    }
}
