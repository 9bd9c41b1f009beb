//! Removes from events what the receiver (a channel server or the sessions server) wrote: excerpts,
//! locations, and the texts of errors and reasons.

use roundtrip_model::{
    DeadReason, Event,
    journal::{After, Attempt},
};

use super::{ACCEPTED, RECEIVED};

/// What is stored in the place of an error or of a reason's detail.
pub(crate) const ERASED: &str = "erased";

/// The stored form of an event without what the other side wrote. `None` if it is the same.
pub(crate) fn without_contents(stored: &str) -> serde_json::Result<Option<String>> {
    if [ACCEPTED, RECEIVED].contains(&stored) {
        return Ok(None);
    }
    let mut event: Event = serde_json::from_str(stored)?;
    erase_event(&mut event)
        .then(|| serde_json::to_string(&event))
        .transpose()
}

/// Removes what the other side wrote. `false` if there is nothing of it.
pub(super) fn erase_event(event: &mut Event) -> bool {
    match event {
        Event::Attempted(attempt) | Event::ForwardAttempted { attempt, .. } => {
            erase_attempt(attempt)
        }
        Event::Dead(reason) | Event::AnswerDead { reason, .. } => erase_reason(reason),
        _ => false,
    }
}

fn erase_attempt(attempt: &mut Attempt) -> bool {
    let before = attempt.clone();
    attempt.excerpt.clear();
    attempt.location = None;
    if let Some(error) = &mut attempt.error {
        ERASED.clone_into(error);
    }
    if let After::Dead(reason) = &mut attempt.next {
        erase_reason(reason);
    }
    *attempt != before
}

fn erase_reason(reason: &mut DeadReason) -> bool {
    let is_new = reason.detail != ERASED;
    ERASED.clone_into(&mut reason.detail);
    is_new
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
