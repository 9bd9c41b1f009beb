//! Reads a response's body, and keeps an excerpt.
//!
//! Invariant: at most [`MAX_BODY_BYTES`] of the body, plus the chunk that crosses this limit, are
//! read. At most [`EXCERPT_BYTES`] are kept.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use roundtrip_model::redacted;

/// Bytes kept of a response, for a log or a dead letter's reason.
pub(crate) const EXCERPT_BYTES: usize = 1024;

/// Bytes read of a body so that its connection can be reused; for longer ones a new
/// connection is cheaper.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;

/// A character of up to four bytes may cross the excerpt's end.
const LONGEST_CHARACTER: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct ResponseBody {
    kept: Vec<u8>,
    read: usize,
}

impl ResponseBody {
    /// Reads the body up to its end, an error or the limit. If the future is dropped, what was read
    /// so far is kept: a body that stalls does not change the status.
    pub(crate) async fn read(&mut self, body: &mut Incoming) {
        while self.read < MAX_BODY_BYTES {
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(piece) = frame.data_ref() {
                        self.take(piece);
                    }
                }
                // The status line was the response, so a truncated body changes nothing.
                None | Some(Err(_)) => return,
            }
        }
    }

    fn take(&mut self, piece: &[u8]) {
        let room = (EXCERPT_BYTES + LONGEST_CHARACTER).saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&piece[..piece.len().min(room)]);
        self.read += piece.len();
    }

    /// The excerpt as one line of text. An error page may quote the requested URL; the token in it
    /// is removed from logs and dead letters.
    pub(crate) fn excerpt(&self) -> String {
        one_line(&String::from_utf8_lossy(&self.kept), EXCERPT_BYTES)
    }
}

pub(crate) fn one_line(text: &str, most_bytes: usize) -> String {
    let mut line = String::new();
    for character in redacted(text).chars().map(harmless) {
        if line.len() + character.len_utf8() > most_bytes {
            break;
        }
        line.push(character);
    }
    line.truncate(line.trim_end().len());
    line
}

/// Replaces characters that break a line, control a terminal or change the text direction.
fn harmless(character: char) -> char {
    match character {
        '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            char::REPLACEMENT_CHARACTER
        }
        control if control.is_control() => char::REPLACEMENT_CHARACTER,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn excerpt(text: &[u8]) -> String {
        let mut body = ResponseBody::default();
        body.take(text);
        body.excerpt()
    }

    #[rstest]
    #[case::plain(b"no such channel", "no such channel")]
    #[case::lines(b"a\r\nb\n", "a  b")]
    #[case::terminal(b"\x1b[31mred", "\u{fffd}[31mred")]
    #[case::no_text(b"\xff\xfe", "\u{fffd}\u{fffd}")]
    #[case::token(
        b"401 for http://h/webhook-response?token=v2.AbCdEf-_.e30.MAC\"}",
        "401 for http://h/webhook-response?token=\u{2026}\"}"
    )]
    #[case::direction("a\u{202e}b".as_bytes(), "a\u{fffd}b")]
    fn an_excerpt_can_stand_in_a_log(#[case] body: &[u8], #[case] expected: &str) {
        assert_eq!(excerpt(body), expected);
    }

    #[test]
    fn an_excerpt_ends_with_a_whole_character() {
        let body = format!("x{}", "ä".repeat(EXCERPT_BYTES));
        assert_eq!(excerpt(body.as_bytes()), format!("x{}", "ä".repeat(511)));
    }

    proptest! {
        #[test]
        fn no_body_makes_it_longer_than_its_limit(pieces: Vec<Vec<u8>>) {
            let mut body = ResponseBody::default();
            for piece in pieces {
                body.take(&piece.repeat(50));
            }
            let excerpt = body.excerpt();
            prop_assert!(excerpt.len() <= EXCERPT_BYTES);
            prop_assert!(!excerpt.contains(char::is_control));
        }
    }
}
