//! Makes texts that others wrote safe to print: names of channels, messages, errors of servers.
//!
//! Invariant: the result has no character that moves the cursor, changes colours, is invisible, or
//! reverses the direction of what follows. JSON stays the same JSON.

use std::{borrow::Cow, fmt::Write};

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Invisible, and no part of a word as the zero-width joiners are.
            '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}'
            // These change the direction of the text.
            | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
            // Line separators, annotations and tags.
            | '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text with `\n`, `\u{1b}` and the like in place of unsafe characters.
pub fn safe(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// A JSON text in one line: without white space between its parts, and with `\u001b` and the like in
/// place of unsafe characters. Numbers keep their digits. A text that is no JSON is safe too.
pub fn json(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let (mut in_string, mut is_escaped) = (false, false);
    for c in text.chars() {
        if !in_string && c.is_ascii_whitespace() {
            continue;
        }
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(line, "\\u{unit:04x}");
            }
        } else {
            line.push(c);
        }
        in_string = if in_string {
            is_escaped || c != '"'
        } else {
            c == '"'
        };
        is_escaped = in_string && c == '\\' && !is_escaped;
    }
    line
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::Value;

    use super::*;

    #[rstest]
    #[case::plain("Zoë's channel, 東京 👩‍👩‍👧", "Zoë's channel, 東京 👩‍👩‍👧")]
    #[case::colour("\u{1b}[31mred\u{1b}[0m", "\\u{1b}[31mred\\u{1b}[0m")]
    #[case::title("\u{1b}]0;owned\u{7}", "\\u{1b}]0;owned\\u{7}")]
    #[case::eight_bit("\u{9b}31m", "\\u{9b}31m")]
    #[case::lines("a\r\nb\tc", "a\\r\\nb\\tc")]
    #[case::direction("invoice\u{202e}fdp.exe", "invoice\\u{202e}fdp.exe")]
    #[case::isolate("\u{2066}a\u{2069}", "\\u{2066}a\\u{2069}")]
    #[case::invisible("a\u{200b}b\u{e0041}", "a\\u{200b}b\\u{e0041}")]
    fn what_a_terminal_would_obey_is_shown_instead(#[case] text: &str, #[case] shown: &str) {
        assert_eq!(safe(text), shown);
    }

    #[rstest]
    #[case(" \u{1b}[2J\"", "\\u001b[2J\"")]
    fn a_text_that_is_no_json_is_safe(#[case] text: &str, #[case] line: &str) {
        assert_eq!(json(text), line);
    }

    #[rstest]
    #[case(
        "{\n  \"a\": [1, 2.50],\n  \"b\": \"c d\"\n}",
        r#"{"a":[1,2.50],"b":"c d"}"#
    )]
    #[case(
        r#"{"n": 12345678901234567890.10}"#,
        r#"{"n":12345678901234567890.10}"#
    )]
    #[case(r#"["\"", "\\", "a \" b"]"#, r#"["\"","\\","a \" b"]"#)]
    #[case("\"\u{9b}\u{202e}\u{e0041}\"", r#""\u009b\u202e\udb40\udc41""#)]
    fn json_is_one_safe_line_of_the_same_json(#[case] text: &str, #[case] line: &str) {
        assert_eq!(json(text), line);
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(parsed(line), parsed(text));
    }
}
