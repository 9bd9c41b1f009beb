//! Removes from events what the receiver (a channel server or the sessions server) wrote: excerpts,
//! locations, and the texts of errors and reasons.

use roundtrip_model::{DeadReason, Event, journal::After};

use super::{ACCEPTED, RECEIVED};

/// What is stored in the place of an error or of a reason's detail.
pub(crate) const ERASED: &str = "erased";

/// The stored form of an event without what the receiver wrote. `None` if that changes nothing.
pub(crate) fn without_contents(stored: &str) -> serde_json::Result<Option<String>> {
    if [ACCEPTED, RECEIVED].contains(&stored) {
        return Ok(None);
    }
    let event: Event = serde_json::from_str(stored)?;
    erased_event(&event)
        .map(|event| serde_json::to_string(&event))
        .transpose()
}

/// The event without what the receiver wrote. `None` if that changes nothing.
pub(crate) fn erased_event(event: &Event) -> Option<Event> {
    has_contents(event).then(|| {
        let mut event = event.clone();
        erase(&mut event);
        event
    })
}

fn has_contents(event: &Event) -> bool {
    let is_kept = |reason: &DeadReason| reason.detail != ERASED;
    match event {
        Event::Attempted(attempt) | Event::ForwardAttempted { attempt, .. } => {
            !attempt.excerpt.is_empty()
                || attempt.location.is_some()
                || attempt.error.as_ref().is_some_and(|error| error != ERASED)
                || matches!(&attempt.next, After::Dead(reason) if is_kept(reason))
        }
        Event::Dead(reason) | Event::AnswerDead { reason, .. } => is_kept(reason),
        _ => false,
    }
}

fn erase(event: &mut Event) {
    match event {
        Event::Attempted(attempt) | Event::ForwardAttempted { attempt, .. } => {
            attempt.excerpt.clear();
            attempt.location = None;
            if let Some(error) = &mut attempt.error {
                ERASED.clone_into(error);
            }
            if let After::Dead(reason) = &mut attempt.next {
                ERASED.clone_into(&mut reason.detail);
            }
        }
        Event::Dead(reason) | Event::AnswerDead { reason, .. } => {
            ERASED.clone_into(&mut reason.detail);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::excerpt(
        r#"{"attempted":{"attempt":1,"status":400,"location":"http://h/SECRET","excerpt":"SECRET","duration_ms":5,"next":{"dead":{"kind":"refused","detail":"answered 400: SECRET"}}}}"#,
        r#"{"attempted":{"attempt":1,"status":400,"duration_ms":5,"next":{"dead":{"kind":"refused","detail":"erased"}}}}"#
    )]
    #[case::error(
        r#"{"attempted":{"attempt":1,"error":"SECRET","duration_ms":5,"next":{"retry":{"wait_ms":1}}}}"#,
        r#"{"attempted":{"attempt":1,"error":"erased","duration_ms":5,"next":{"retry":{"wait_ms":1}}}}"#
    )]
    #[case::dead(
        r#"{"dead":{"kind":"refused","detail":"SECRET"}}"#,
        r#"{"dead":{"kind":"refused","detail":"erased"}}"#
    )]
    fn what_the_other_side_wrote_is_erased_once(#[case] stored: &str, #[case] erased: &str) {
        let once = without_contents(stored).unwrap();
        assert_eq!(once.as_deref(), Some(erased));
        assert_eq!(without_contents(erased).unwrap(), None);
    }

    #[rstest]
    #[case(ACCEPTED)]
    #[case(RECEIVED)]
    #[case(r#"{"delivering":{"attempt":1}}"#)]
    #[case(r#"{"attempted":{"attempt":1,"status":200,"duration_ms":5,"next":"arrived"}}"#)]
    fn an_event_without_contents_stays(#[case] stored: &str) {
        assert_eq!(without_contents(stored).unwrap(), None);
    }
}
