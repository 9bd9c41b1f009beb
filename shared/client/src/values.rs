//! Values of responses as people read them.

use serde_json::Value;

use crate::table::{Cell, Colour};

/// The most characters of a content in a list.
const MAX_LISTED_CHARS: usize = 80;

/// A text as it is, nothing for null, and any other value as JSON.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The same for a list, where a long text is cut.
pub(crate) fn excerpt(value: &Value) -> String {
    let text = text(value);
    match text.char_indices().nth(MAX_LISTED_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A time of the API to the second: `2026-11-22 08:00:00`.
pub(crate) fn time(value: &Value) -> String {
    let text = text(value);
    match (text.get(..10), text.get(10..11), text.get(11..19)) {
        (Some(day), Some("T"), Some(time)) => format!("{day} {time}"),
        _ => text,
    }
}

/// The state of a message, a replay or a forward.
pub(crate) fn state(value: &Value) -> Cell {
    let name = text(value);
    let colour = match name.as_str() {
        "delivered" | "answered" | "forwarded" | "done" | "erased" => Some(Colour::Good),
        "dead" | "cancelled" => Some(Colour::Bad),
        "waiting" | "retrying" | "overdue" => Some(Colour::Waiting),
        _ => None,
    };
    Cell::coloured(&name, colour)
}

/// What was said in a turn, or when it was erased.
pub(crate) fn content(turn: &Value) -> &Value {
    let names = [
        "message",
        "data",
        "response_data",
        "truncated_data",
        "truncated_response_data",
        "contents_erased_at",
    ];
    let found = names.iter().find_map(|name| turn.get(name));
    found.unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_time_is_shown_to_the_second_and_another_text_as_it_is() {
        assert_eq!(
            time(&json!("2026-11-22T08:00:00.123Z")),
            "2026-11-22 08:00:00"
        );
        assert_eq!(
            time(&json!("tomorrow, perhaps, or later")),
            "tomorrow, perhaps, or later"
        );
        assert_eq!(time(&Value::Null), "");
    }

    #[test]
    fn a_long_content_is_cut_between_characters() {
        let long = excerpt(&json!("ä".repeat(100)));
        assert_eq!(long.chars().count(), MAX_LISTED_CHARS + 1);
        assert_eq!(excerpt(&json!({"a": 1})), r#"{"a":1}"#);
    }
}
