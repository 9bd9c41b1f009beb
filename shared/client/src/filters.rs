//! The filters of lists, replays and purges, and the times in them.
//!
//! Invariant: a filter is stated once, and gives both forms: query parameters and a JSON body.

use clap::{Args, ValueEnum};
use roundtrip_model::{Clock, SystemClock};
use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

const WHEN: &str = "must be a time such as 2026-11-28T21:00:00Z, or a duration such as 2h";

/// A time, or how long ago it was.
pub(crate) fn past(text: &str) -> Result<String, &'static str> {
    moment(text, SystemClock.now(), OffsetDateTime::checked_sub)
}

/// A time, or how long from now it is.
pub(crate) fn future(text: &str) -> Result<String, &'static str> {
    moment(text, SystemClock.now(), OffsetDateTime::checked_add)
}

fn moment(
    text: &str,
    now: OffsetDateTime,
    away: impl Fn(OffsetDateTime, time::Duration) -> Option<OffsetDateTime>,
) -> Result<String, &'static str> {
    if OffsetDateTime::parse(text, &Rfc3339).is_ok() {
        return Ok(text.to_owned());
    }
    let span = humantime::parse_duration(text).map_err(|_error| WHEN)?;
    let span = time::Duration::try_from(span).ok();
    let at = span.and_then(|span| away(now, span)).ok_or(WHEN)?;
    at.format(&Rfc3339).map_err(|_error| WHEN)
}

/// A part of a filter: its name as a query parameter, its name in a body, and its value.
type Part = (&'static str, &'static str, Value);

#[derive(Debug, Clone, Default)]
pub(crate) struct Filter(Vec<Part>);

impl Filter {
    fn new(parts: impl IntoIterator<Item = (&'static str, Option<String>)>) -> Self {
        let parts = parts.into_iter();
        let set = parts.filter_map(|(name, value)| Some((name, name, value?.into())));
        Self(set.collect())
    }

    fn ids(mut self, ids: &[String]) -> Self {
        if !ids.is_empty() {
            self.0.push(("id", "ids", ids.into()));
        }
        self
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(query, ..)| *query == name)
    }

    pub(crate) fn and(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.0.push((name, name, value.into()));
        self
    }

    pub(crate) fn body(&self) -> Map<String, Value> {
        let parts = self.0.iter();
        parts
            .map(|(_, name, value)| ((*name).to_owned(), value.clone()))
            .collect()
    }

    pub(crate) fn query(&self) -> Vec<(&'static str, String)> {
        let parts = self.0.iter().map(|(name, _, value)| {
            let text = match value {
                Value::Array(ids) => {
                    let ids: Vec<_> = ids.iter().filter_map(Value::as_str).collect();
                    ids.join(",")
                }
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            (*name, text)
        });
        parts.collect()
    }
}

/// The filters that all lists share.
#[derive(Debug, Clone, Default, Args)]
pub struct Common {
    /// Only of this channel
    #[arg(long = "channel", value_name = "CHANNEL_ID")]
    pub channel: Option<String>,
    /// Only of this session
    #[arg(long = "session", value_name = "SESSION_ID")]
    pub session: Option<String>,
    /// Only from this time on: a time, or how long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = past)]
    pub since: Option<String>,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = past)]
    pub until: Option<String>,
}

impl Common {
    fn parts(&self) -> [(&'static str, Option<String>); 4] {
        [
            ("channel_id", self.channel.clone()),
            ("session_id", self.session.clone()),
            ("since", self.since.clone()),
            ("until", self.until.clone()),
        ]
    }
}

#[derive(Debug, Clone, Default, Args)]
pub struct Messages {
    #[command(flatten)]
    pub common: Common,
    /// Only in this state; taken: accepted by its channel, whatever happened to the answer
    #[arg(long, value_enum)]
    pub state: Option<State>,
}

impl Messages {
    pub(crate) fn filter(&self) -> Filter {
        let state = self.state.as_ref().and_then(name);
        Filter::new(self.common.parts().into_iter().chain([("state", state)]))
    }

    pub(crate) fn of_ids(&self, ids: &[String]) -> Filter {
        self.filter().ids(ids)
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum State {
    Queued,
    Delivering,
    Retrying,
    Waiting,
    Cancelled,
    Delivered,
    Overdue,
    Answered,
    Forwarded,
    Dead,
    Replayed,
    Taken,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Kind {
    /// From a producer
    Outbound,
    /// From a user of the channel's platform
    Inbound,
}

#[derive(Debug, Clone, Default, Args)]
pub struct Answers {
    /// Only this answer (cb_…); may be repeated
    #[arg(long = "id", value_name = "CALLBACK_ID")]
    pub ids: Vec<String>,
    #[command(flatten)]
    pub common: Common,
}

impl Answers {
    pub(crate) fn filter(&self) -> Filter {
        Filter::new(self.common.parts()).ids(&self.ids)
    }
}

#[derive(Debug, Clone, Default, Args)]
pub struct DeadLetters {
    /// Only this one, by its id or by that of its message or answer; may be repeated
    #[arg(long = "id", value_name = "ID")]
    pub ids: Vec<String>,
    #[command(flatten)]
    pub common: Common,
    /// Only of this queue
    #[arg(long, value_enum)]
    pub queue: Option<Queue>,
    /// Only with this reason, such as attempts_exhausted
    #[arg(long)]
    pub reason: Option<String>,
}

impl DeadLetters {
    pub(crate) fn filter(&self) -> Filter {
        let own = [
            ("queue", self.queue.as_ref().and_then(name)),
            ("reason", self.reason.clone()),
        ];
        Filter::new(self.common.parts().into_iter().chain(own)).ids(&self.ids)
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Queue {
    /// Messages to channels
    Outbound,
    /// Answers, and inbound messages
    Callbacks,
    /// Notices to the operator
    Notices,
}

/// The name of a value as the API has it.
pub(crate) fn name(value: &impl ValueEnum) -> Option<String> {
    let value = value.to_possible_value()?;
    Some(value.get_name().to_owned())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    #[rstest]
    #[case("2026-11-28T23:00:00+02:00", Some("2026-11-28T23:00:00+02:00"))]
    #[case("90m", Some("2026-11-28T10:30:00Z"))]
    #[case("1day 1h", Some("2026-11-27T11:00:00Z"))]
    #[case("yesterday", None)]
    #[case("2026-11-28", None)]
    #[case("99999999999years", None)]
    fn a_time_is_one_or_how_long_ago(#[case] text: &str, #[case] expected: Option<&str>) {
        let now = datetime!(2026-11-28 12:00 UTC);
        let read = moment(text, now, OffsetDateTime::checked_sub);
        assert_eq!(read.ok().as_deref(), expected);
    }

    #[test]
    fn a_filter_is_the_same_in_a_query_and_in_a_body() {
        let wanted = DeadLetters {
            ids: vec!["a".to_owned(), "b".to_owned()],
            queue: Some(Queue::Callbacks),
            ..DeadLetters::default()
        };
        let filter = wanted.filter();
        let body = json!({"queue": "callbacks", "ids": ["a", "b"]});
        assert_eq!(Value::from(filter.body()), body);
        let query = [("queue", "callbacks"), ("id", "a,b")];
        assert_eq!(
            filter.query(),
            query.map(|(name, value)| (name, value.to_owned()))
        );
        assert!(DeadLetters::default().filter().is_empty());
    }
}
