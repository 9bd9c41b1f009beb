//! `GET /sessions/{session_id}/events`: a session's answers, inbound messages and ended messages, as
//! server-sent events.
//!
//! Invariant: a client that continues with the id of its last event gets every later event, also one
//! that happened earlier and was stored late. It may get events again.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    mem,
    time::Duration,
};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::stream::unfold;
use roundtrip_model::{
    ChannelId, MessageId, SessionId, State as MessageState, journal::KeptAnswer,
};
use roundtrip_store::{AnswerRecord, EventCursor, QueryError, SessionEvent, SessionEventKind};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use super::{
    entry::data_if_kept,
    sessions::{ShownSessionAnswer, session},
};
use crate::{
    auth::Principal,
    ingress::Ingress,
    limits::{Place, Reserved},
    messages::prefer,
    parameters::{Parameters, PathId},
    problem::{Kind, Problem},
    waiters::READ_EVERY,
};

/// How many events are in memory for each client.
const EVENTS_A_READ: u16 = 16;

/// After a silence this long a comment shows that the connection is alive. Proxies close one that is
/// silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Tells nginx to pass each event on at once.
const NO_BUFFER: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventsParameters {
    /// For clients that cannot send the header, which has precedence.
    last_event_id: Option<EventCursor>,
    /// How many seconds to wait for further events.
    wait: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum ShownEvent {
    Answer(ShownSessionAnswer),
    Inbound {
        message_id: Option<MessageId>,
        channel_id: Option<ChannelId>,
        #[serde(with = "time::serde::rfc3339")]
        at: OffsetDateTime,
        #[serde(flatten, serialize_with = "data_if_kept")]
        data: Option<Box<KeptAnswer>>,
        #[serde(
            with = "time::serde::rfc3339::option",
            skip_serializing_if = "Option::is_none"
        )]
        contents_erased_at: Option<OffsetDateTime>,
    },
    Ended {
        message_id: Option<MessageId>,
        channel_id: Option<ChannelId>,
        #[serde(with = "time::serde::rfc3339")]
        at: OffsetDateTime,
        state: MessageState,
    },
}

impl From<SessionEvent> for ShownEvent {
    fn from(event: SessionEvent) -> Self {
        let SessionEvent {
            cursor: _,
            at,
            message_id,
            channel_id,
            kind,
            content,
            contents_erased_at,
        } = event;
        match kind {
            SessionEventKind::Answer(callback_id) => {
                let answer = AnswerRecord {
                    callback_id,
                    at,
                    content,
                    contents_erased_at,
                };
                Self::Answer(ShownSessionAnswer {
                    message_id,
                    channel_id,
                    answer: answer.into(),
                })
            }
            SessionEventKind::Inbound => Self::Inbound {
                message_id,
                channel_id,
                at,
                data: content.map(Box::new),
                contents_erased_at,
            },
            SessionEventKind::Ended(state) => Self::Ended {
                message_id,
                channel_id,
                at,
                state,
            },
        }
    }
}

impl ShownEvent {
    const fn name(&self) -> &'static str {
        match self {
            Self::Answer(_) => "answer",
            Self::Inbound { .. } => "inbound",
            Self::Ended { .. } => "ended",
        }
    }
}

/// `GET /sessions/{session_id}/events`. A session is whatever its messages name, so an unknown one has
/// no events yet.
pub(crate) async fn follow(
    State(ingress): State<Ingress>,
    principal: Principal,
    PathId(id): PathId,
    headers: HeaderMap,
    Parameters(parameters): Parameters<EventsParameters>,
) -> Result<Response, Problem> {
    let session = session(&id)?;
    let last = last_event_id(&headers)?.or(parameters.last_event_id);
    let until = Instant::now() + wait(&ingress, parameters.wait.as_deref())?;
    let channels = principal.visible_channels(None)?;
    let place = ingress.followers.take(&principal);
    let place = place.ok_or(Kind::TooManyFollowers)?;
    let under_way = ingress.queries.begin(&principal)?;
    let mut follower = Follower {
        ingress,
        principal,
        session,
        channels,
        last,
        sent: BTreeSet::new(),
        unsent: VecDeque::new(),
        reserved: None,
        until,
        _place: place,
    };
    // The response to an error of this read is a problem; later reads are repeated.
    if under_way.ask(follower.read()).await? == Found::NoMemory {
        return Err(Kind::Overloaded.into());
    }
    let events = unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([NO_BUFFER], events).into_response())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<EventCursor>, Problem> {
    let Some(id) = headers.get(LAST_EVENT_ID) else {
        return Ok(None);
    };
    let wrong = || {
        let problem = "must be the id of an event of this session";
        Problem::invalid_field("Last-Event-ID", problem)
    };
    let id = id.to_str().map_err(|_error| wrong())?;
    id.parse().map(Some).map_err(|_error| wrong())
}

/// How long the client follows the session, at most `max_follow`.
fn wait(ingress: &Ingress, parameter: Option<&str>) -> Result<Duration, Problem> {
    let most = ingress.limits.max_follow;
    let asked = parameter.map(prefer::wait_parameter).transpose()?;
    Ok(asked.map_or(most, |asked| asked.min(most)))
}

/// A client that follows a session.
struct Follower {
    ingress: Ingress,
    principal: Principal,
    session: SessionId,
    channels: Option<Vec<ChannelId>>,
    /// The furthest event that was read.
    last: Option<EventCursor>,
    /// The events that a read may find again.
    sent: BTreeSet<EventCursor>,
    unsent: VecDeque<SessionEvent>,
    /// The memory of the unsent events, in the byte budget of all responses.
    reserved: Option<Reserved>,
    /// After this time it ends as soon as all events were sent.
    until: Instant,
    _place: Place,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Events,
    None,
    /// There are events, and no memory for them now.
    NoMemory,
}

impl Follower {
    /// The next event, as soon as there is one. `None` is the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.unsent.pop_front() {
                return Some(shown(event));
            }
            self.reserved = None;
            let ingress = &self.ingress;
            if ingress.stopping.is_cancelled()
                || !ingress.authenticator.still_admits(&self.principal)
            {
                return None;
            }
            match self.read().await {
                Ok(Found::Events) => continue,
                // While the store is unavailable, the client only waits.
                Ok(Found::None) | Err(_) if Instant::now() >= self.until => return None,
                Ok(Found::None | Found::NoMemory) | Err(_) => {}
            }
            let stopping = &self.ingress.stopping;
            stopping.run_until_cancelled(sleep(READ_EVERY)).await?;
        }
    }

    /// Reads until it finds events that were not sent yet, or no more.
    async fn read(&mut self) -> Result<Found, QueryError> {
        let store = &self.ingress.store;
        let now = self.ingress.clock.now();
        let from = self.last.clone().map(|last| store.continued(last, now));
        if let Some(from) = &from {
            self.sent = self.sent.split_off(from);
        }
        let mut after = from;
        loop {
            let page = store.session_events(
                &self.session,
                self.channels.as_deref(),
                after.as_ref(),
                EVENTS_A_READ,
            );
            let page = page.await?;
            let is_last = page.len() < usize::from(EVENTS_A_READ);
            after = page.last().map(|event| event.cursor.clone());
            let unsent = page
                .into_iter()
                .filter(|event| !self.sent.contains(&event.cursor));
            let unsent: VecDeque<_> = unsent.collect();
            if !unsent.is_empty() {
                let bytes = unsent.iter().map(SessionEvent::bytes).sum();
                let Some(reserved) = self.ingress.response_budget.reserve(bytes) else {
                    return Ok(Found::NoMemory);
                };
                self.sent
                    .extend(unsent.iter().map(|event| event.cursor.clone()));
                let furthest = self.sent.last().cloned();
                self.last = mem::take(&mut self.last).max(furthest);
                self.unsent = unsent;
                self.reserved = Some(reserved);
                return Ok(Found::Events);
            }
            if is_last {
                return Ok(Found::None);
            }
        }
    }
}

fn shown(event: SessionEvent) -> Event {
    let id = event.cursor.to_string();
    let event = ShownEvent::from(event);
    // A line break between two tokens of a channel's JSON would end the field. In a JSON string it is
    // escaped.
    let data = serde_json::to_string(&event).unwrap_or_default();
    let data = data.replace(['\r', '\n'], " ");
    Event::default().event(event.name()).id(id).data(data)
}
