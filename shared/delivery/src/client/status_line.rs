//! The status line of an HTTP/1 response, parsed as leniently as browsers and curl do.
//!
//! Invariant: it keeps a bounded part of one line, and skips a bounded number of interim responses.

/// Maximum number of interim responses (1xx) before a final one.
pub(crate) const MAX_INTERIM_RESPONSES: usize = 64;

/// Bytes kept of a line: enough for a version and a status.
const LINE_BYTES: usize = 64;

const SWITCHING_PROTOCOLS: u16 = 101;

/// Reads up to the final status, past interim responses, and no further.
#[derive(Debug, Default)]
pub(crate) struct StatusLine {
    line: Vec<u8>,
    awaited: Awaited,
    interim: usize,
}

#[derive(Debug, Default, Clone, Copy)]
enum Awaited {
    #[default]
    StatusLine,
    EndOfInterim,
    /// The final status was read, or a line that is no status line.
    Nothing(Option<u16>),
}

#[derive(Debug, thiserror::Error)]
#[error("more than {MAX_INTERIM_RESPONSES} interim responses came before an answer")]
pub(crate) struct TooManyInterimResponses;

impl StatusLine {
    pub(crate) fn read(&self) -> Option<u16> {
        match self.awaited {
            Awaited::Nothing(status) => status,
            Awaited::StatusLine | Awaited::EndOfInterim => None,
        }
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), TooManyInterimResponses> {
        for &byte in bytes {
            if matches!(self.awaited, Awaited::Nothing(_)) {
                return Ok(());
            }
            if byte == b'\n' {
                self.end_line()?;
            } else if self.line.len() < LINE_BYTES {
                self.line.push(byte);
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), TooManyInterimResponses> {
        let line = self.line.trim_ascii();
        self.awaited = match (self.awaited, line.is_empty()) {
            // Some servers send an empty line after the previous response's body.
            (Awaited::StatusLine | Awaited::EndOfInterim, true) => Awaited::StatusLine,
            (Awaited::StatusLine, false) => match status(line) {
                Some(interim @ 100..200) if interim != SWITCHING_PROTOCOLS => {
                    self.interim += 1;
                    Awaited::EndOfInterim
                }
                other => Awaited::Nothing(other),
            },
            (awaited, _) => awaited,
        };
        self.line.clear();
        if self.interim > MAX_INTERIM_RESPONSES {
            return Err(TooManyInterimResponses);
        }
        Ok(())
    }
}

/// The status in `HTTP/1.1 200 OK`, for any version and any number of blanks.
fn status(line: &[u8]) -> Option<u16> {
    let (protocol, rest) = line.split_at_checked(b"HTTP/".len())?;
    if !protocol.eq_ignore_ascii_case(b"HTTP/") {
        return None;
    }
    let version = rest.iter().position(u8::is_ascii_whitespace)?;
    let rest = rest[version..].trim_ascii_start();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let status = str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    (100..1000).contains(&status).then_some(status)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("HTTP/1.1 200 OK\r\n", Some(200))]
    #[case::no_reason("HTTP/1.1 204\r\n", Some(204))]
    #[case::bare_line_feed("HTTP/1.0 503 Busy\n", Some(503))]
    #[case::blanks("HTTP/1.1   200\t OK\r\n", Some(200))]
    #[case::lower_case("http/1.1 200 ok\r\n", Some(200))]
    #[case::another_version("HTTP/2 200\r\n", Some(200))]
    #[case::an_empty_line_first("\r\nHTTP/1.1 200 OK\r\n", Some(200))]
    #[case::interim("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", Some(200))]
    #[case::interim_with_headers(
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 201 X\r\n",
        Some(201)
    )]
    #[case::switching("HTTP/1.1 101 Switching Protocols\r\n", Some(101))]
    #[case::what_follows("HTTP/1.1 500 X\r\n\r\nHTTP/1.1 200 OK\r\n", Some(500))]
    #[case::not_whole("HTTP/1.1 200 OK", None)]
    #[case::only_interim("HTTP/1.1 100 Continue\r\n\r\n", None)]
    #[case::not_http("SSH-2.0-x\r\nHTTP/1.1 200 OK\r\n", None)]
    #[case::no_status("HTTP/1.1 OK\r\n", None)]
    #[case::too_small("HTTP/1.1 099 X\r\n", None)]
    #[case::too_large("HTTP/1.1 2000 X\r\n", None)]
    fn a_status_is_read_as_browsers_read_it(#[case] text: &str, #[case] status: Option<u16>) {
        let mut line = StatusLine::default();
        line.take(text.as_bytes()).unwrap();
        assert_eq!(line.read(), status);
    }

    #[test]
    fn interim_responses_are_bounded() {
        let mut line = StatusLine::default();
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
        line.take(&interim.repeat(MAX_INTERIM_RESPONSES)).unwrap();
        line.take(interim).unwrap_err();
    }

    proptest! {
        #[test]
        fn the_pieces_it_comes_in_change_nothing(
            bytes in "(HTTP/1.1 (100|200|[a-z0-9]{1,3})|[\\x00-\\x7f]{0,80})(\r\n[a-z:]{0,5}){0,4}\r\n",
            size in 1_usize..20,
        ) {
            let (mut whole, mut pieces) = (StatusLine::default(), StatusLine::default());
            whole.take(bytes.as_bytes()).unwrap();
            for piece in bytes.as_bytes().chunks(size) {
                pieces.take(piece).unwrap();
            }
            prop_assert_eq!(whole.read(), pieces.read());
            prop_assert!(pieces.line.len() <= LINE_BYTES);
        }
    }
}
