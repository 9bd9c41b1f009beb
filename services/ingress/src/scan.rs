//! What a body's JSON must be besides JSON: not nested too deep, and readable by whom it is for.
//!
//! `message` and `response_data` are carried as they are written, so what no parser of ours has
//! looked into reaches somebody else's. Refused is what strict parsers refuse, some with a crash:
//! deep nesting, half of a surrogate pair (`"\ud800"`), a number that no double can hold (`1e400`).
//! Long and precise numbers pass, and stay as they are written.
//!
//! Invariant: one pass over the text, no recursion, no allocation. Whether the text is JSON is
//! found elsewhere; of one that is none, this may say anything.

use std::ops::Range;

use roundtrip_model::channel::FieldError;

/// What a problem names where the field has no name that could be shown.
const BODY: &str = "body";

/// The longest name of a field that a problem shows.
const MAX_SHOWN_BYTES: usize = 64;

/// Any number of no more digits than this, and without an exponent, is in a double's range.
const SAFE_DIGITS: usize = 300;

/// The bytes of `\uXXXX`.
const ESCAPE_BYTES: usize = 6;

/// Looks over a text.
///
/// # Errors
/// The first thing that is wrong, and the field at the top of the body that it is in.
pub(crate) fn check(json: &[u8], max_depth: usize) -> Result<(), FieldError> {
    let mut scan = Scan {
        json,
        at: 0,
        depth: 0,
        string: 0..0,
        field: 0..0,
    };
    scan.run(max_depth)
        .map_err(|problem| FieldError::new(scan.field(), problem))
}

struct Scan<'a> {
    json: &'a [u8],
    at: usize,
    depth: usize,
    /// The last string at the top: a field's name, once its colon comes.
    string: Range<usize>,
    field: Range<usize>,
}

impl Scan<'_> {
    fn run(&mut self, max_depth: usize) -> Result<(), String> {
        while let Some(byte) = self.json.get(self.at) {
            match byte {
                b'"' => self.string()?,
                b'-' | b'0'..=b'9' => self.number()?,
                b'{' | b'[' => {
                    self.depth += 1;
                    self.at += 1;
                    if self.depth > max_depth {
                        return Err(format!(
                            "must not nest deeper than {max_depth} levels, the body's own included"
                        ));
                    }
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.at += 1;
                }
                b':' => {
                    if self.depth == 1 {
                        self.field = self.string.clone();
                    }
                    self.at += 1;
                }
                _ => self.at += 1,
            }
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), String> {
        let start = self.at + 1;
        self.at = start;
        while let Some(byte) = self.json.get(self.at) {
            match byte {
                b'"' => {
                    if self.depth == 1 {
                        self.string = start..self.at;
                    }
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => self.escape()?,
                _ => self.at += 1,
            }
        }
        Ok(())
    }

    fn escape(&mut self) -> Result<(), String> {
        let lone = || "must not have half of a surrogate pair in a text (\\ud800)".to_owned();
        match self.unit(self.at) {
            Some(0xD800..=0xDBFF) => match self.unit(self.at + ESCAPE_BYTES) {
                Some(0xDC00..=0xDFFF) => self.at += 2 * ESCAPE_BYTES,
                _ => return Err(lone()),
            },
            Some(0xDC00..=0xDFFF) => return Err(lone()),
            Some(_) => self.at += ESCAPE_BYTES,
            // The backslash and what it escapes.
            None => self.at += 2,
        }
        Ok(())
    }

    /// The code unit of the `\uXXXX` that begins there.
    fn unit(&self, at: usize) -> Option<u16> {
        let escape = self.json.get(at..at + ESCAPE_BYTES)?;
        let digits = escape.strip_prefix(br"\u")?;
        let digits = std::str::from_utf8(digits).ok()?;
        u16::from_str_radix(digits, 16).ok()
    }

    fn number(&mut self) -> Result<(), String> {
        let rest = &self.json[self.at..];
        let length = rest
            .iter()
            .position(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
            .unwrap_or(rest.len());
        let (number, _) = rest.split_at(length);
        self.at += length;
        let is_large =
            length > SAFE_DIGITS || number.iter().any(|byte| matches!(byte, b'e' | b'E'));
        let is_infinite = || {
            std::str::from_utf8(number)
                .ok()
                .and_then(|number| number.parse::<f64>().ok())
                .is_some_and(f64::is_infinite)
        };
        if is_large && is_infinite() {
            return Err("must not have a number beyond the range of a double (1e400)".to_owned());
        }
        Ok(())
    }

    fn field(&self) -> &str {
        self.json
            .get(self.field.clone())
            .and_then(|name| std::str::from_utf8(name).ok())
            .filter(|name| (1..=MAX_SHOWN_BYTES).contains(&name.len()) && !name.contains('\\'))
            .unwrap_or(BODY)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::Value;

    use super::*;

    const DEPTH: usize = 4;

    #[rstest]
    #[case::plain(r#"{"message": {"n": [1, -2.5e3, true, null, "x"]}}"#)]
    #[case::as_deep_as_may_be(r#"{"m": [[[1]]]}"#)]
    #[case::wide_and_not_deep(r#"[[[[]]], [[[]]], {"a": {}}]"#)]
    #[case::brackets_in_a_text(r#"{"m": "[[[[[[{{{{{{"}"#)]
    #[case::quote_in_a_text(r#"{"m": "\"[[[[[[\\"}"#)]
    #[case::pair(r#"{"m": "\ud83d\ude00"}"#)]
    #[case::escaped_backslash_before_a_u(r#"{"m": "\\ud800"}"#)]
    #[case::greatest_double(r#"{"m": 1.7976931348623157e308}"#)]
    #[case::more_precise_than_a_double(r#"{"m": 12345678901234567890.10}"#)]
    #[case::nearly_nothing(r#"{"m": 1e-400}"#)]
    fn what_others_can_read_passes(#[case] json: &str) {
        assert!(serde_json::from_str::<Value>(json).is_ok(), "{json}");
        assert_eq!(check(json.as_bytes(), DEPTH), Ok(()));
    }

    #[rstest]
    #[case::too_deep(r#"{"message": [[[[1]]]]}"#, "message")]
    #[case::deep_objects(r#"{"a": 1, "message": {"a": {"b": {"c": {}}}}}"#, "message")]
    #[case::not_within_a_field("[[[[[]]]]]", "body")]
    #[case::first_half(r#"{"a": "b", "m": {"t": "\ud800"}}"#, "m")]
    #[case::first_half_and_text(r#"{"m": "\ud800x"}"#, "m")]
    #[case::two_first_halves(r#"{"m": "\uD800\uD800"}"#, "m")]
    #[case::second_half(r#"{"m": "\udc00"}"#, "m")]
    #[case::in_a_name(r#"{"m": {"\udc00": 1}}"#, "m")]
    #[case::beyond_a_double(r#"{"m": [1e400]}"#, "m")]
    #[case::beyond_below(r#"{"m": -1E+400}"#, "m")]
    #[case::long(&format!(r#"{{"m": {}}}"#, "9".repeat(400)), "m")]
    #[case::name_that_cannot_be_shown(r#"{"\u006d": 1e400}"#, "body")]
    fn what_others_cannot_read_is_refused_by_its_field(#[case] json: &str, #[case] field: &str) {
        let error = check(json.as_bytes(), DEPTH).unwrap_err();
        assert_eq!(error.field, field, "{error}");
    }

    #[test]
    fn what_is_no_json_does_no_harm() {
        for text in [
            "",
            "\"",
            "\"\\",
            "\"\\u",
            "\"\\ud800",
            "}}}]",
            "-",
            "\"\\ud800\\u",
            ":::",
        ] {
            let _ = check(text.as_bytes(), DEPTH);
        }
    }
}
