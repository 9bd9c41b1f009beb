//! Logs: one line an event, as text or as JSON.
//!
//! Invariant: a line of text can be parsed in one way only. A value with a space, a quotation mark,
//! `=`, a brace or a non-printable character is quoted and escaped, whatever its source.

use std::{
    fmt::{self, Write},
    io::{IsTerminal, stdout},
};

use roundtrip_model::{Check, WrongSetting, section};
use serde::{Deserialize, Serialize};
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt,
    filter::LevelFilter,
    fmt::{
        FormatFields,
        format::{Writer, debug_fn},
    },
};

section! {
    #[derive(Debug, Eq)]
    pub(crate) struct Config {
        /// A level, or filter directives of `tracing`.
        level: String = "info".to_owned();
        format: Format = Format::Text;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For machines: one object a line.
    Json,
}

/// lapin logs a returned message with its body, and each attempt to connect; the broker crate logs
/// what matters of both. `lapin=…` in `log.level` overrides this.
const QUIET: &str = "lapin=off";

impl Config {
    pub(crate) fn check(&self, check: &mut Check) {
        self.check_bounds(check);
        // A misspelt level would be read as a module's name and silence the log.
        let named_alone = !self.level.contains(['=', ',', '[']);
        if named_alone && self.level.parse::<LevelFilter>().is_err() {
            let problem = "must be error, warn, info, debug, trace or off";
            check.add(WrongSetting::new("level", problem));
        } else if EnvFilter::try_new(&self.level).is_err() {
            let problem =
                "must be a level, or filter directives such as info,roundtrip_ingress=debug";
            check.add(WrongSetting::new("level", problem));
        }
    }
}

pub(crate) fn start(config: &Config) {
    let logs = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{QUIET},{}", config.level)))
        .with_ansi(stdout().is_terminal());
    match config.format {
        Format::Text => logs.fmt_fields(text_fields()).init(),
        // There is one span, the request: a list would repeat it.
        Format::Json => {
            let logs = logs.json().flatten_event(true);
            logs.with_span_list(false).init();
        }
    }
}

fn text_fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    debug_fn(
        |writer: &mut Writer<'_>, field: &tracing::field::Field, value| {
            let text = format!("{value:?}");
            match field.name() {
                "message" => text.chars().try_for_each(|character| {
                    if is_printable(character) {
                        writer.write_char(character)
                    } else {
                        write!(writer, "{}", character.escape_debug())
                    }
                }),
                // Source locations of another crate's `log` records.
                name if name.starts_with("log.") => Ok(()),
                name => write_field(writer, name.trim_start_matches("r#"), &text),
            }
        },
    )
    .delimited(" ")
}

fn write_field(writer: &mut impl Write, name: &str, text: &str) -> fmt::Result {
    if is_word(text) || is_quoted(text) {
        write!(writer, "{name}={text}")
    } else {
        write!(writer, "{name}={text:?}")
    }
}

/// Whether a text is one word and needs no quotation marks.
fn is_word(text: &str) -> bool {
    // A brace would end the fields of a request.
    let is_plain = |character| {
        is_printable(character) && !matches!(character, ' ' | '"' | '=' | '\\' | '{' | '}')
    };
    !text.is_empty() && text.chars().all(is_plain)
}

fn is_quoted(text: &str) -> bool {
    let Some(inner) = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
    else {
        return false;
    };
    let mut is_escaped = false;
    let is_inner = inner.chars().all(|character| {
        let is_end = character == '"' && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
        is_printable(character) && !is_end
    });
    is_inner && !is_escaped
}

/// Whether a character can be shown: no control character, no line separator (U+2028), no change of
/// text direction (U+202E).
fn is_printable(character: char) -> bool {
    matches!(character, '"' | '\'' | '\\') || character.escape_debug().eq([character])
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Log {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn logged(event: impl FnOnce()) -> String {
        let log = Log::default();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(text_fields())
            .with_writer(log.clone())
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, event);
        let bytes = log.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn external_text_of_several_words_is_quoted() {
        for (value, shown) in [
            ("abc-123", "abc-123"),
            ("kanal-ä", "kanal-ä"),
            ("[::1]:8000", "[::1]:8000"),
            (
                "a attempt=9 decision=\"done\"",
                r#""a attempt=9 decision=\"done\"""#,
            ),
            ("a=b", "\"a=b\""),
            ("a\u{2028}b", r#""a\u{2028}b""#),
            ("a\u{202e}b", r#""a\u{202e}b""#),
            ("a\u{1b}[2Jb", r#""a\u{1b}[2Jb""#),
            ("a\nb", r#""a\nb""#),
            ("\"a\" b=\"c\"", r#""\"a\" b=\"c\"""#),
            ("\"a\u{2028}\"", r#""\"a\u{2028}\"""#),
            ("a\\", r#""a\\""#),
            ("a}:b", "\"a}:b\""),
            ("", "\"\""),
        ] {
            let line = logged(|| tracing::info!(session_id = %value, attempt = 1, "attempted"));
            assert_eq!(
                line,
                format!(" INFO attempted session_id={shown} attempt=1\n")
            );
        }
    }

    #[test]
    fn a_line_names_its_request() {
        let line = logged(|| {
            let request = tracing::info_span!("request", request_id = %"a}:b");
            request.in_scope(|| tracing::info!(attempt = 1, "attempted"));
        });
        assert_eq!(
            line,
            " INFO request{request_id=\"a}:b\"}: attempted attempt=1\n"
        );
    }

    #[test]
    fn a_text_is_quoted_once() {
        let line = logged(|| {
            tracing::info!(decision = "done", reason = "no \"answer\"", wait = ?Some(5), "settled");
        });
        let fields = r#"decision="done" reason="no \"answer\"" wait=Some(5)"#;
        assert_eq!(line, format!(" INFO settled {fields}\n"));
    }

    #[test]
    fn a_message_of_the_log_stays_on_its_line() {
        let line = logged(|| tracing::warn!("it says {}", "a\nb \u{202e}\"c\""));
        assert_eq!(line, " WARN it says a\\nb \\u{202e}\"c\"\n");
    }
}
