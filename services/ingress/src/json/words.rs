//! Says what a value must be, in the words of the API.
//!
//! Invariant: a problem never repeats a parser's own wording for a value of the wrong type. serde
//! reports what it expected only as text, so the text is translated here.

use serde_json::{Error, error::Category};

fn without_position(error: &Error) -> String {
    let message = error.to_string();
    message
        .rsplit_once(" at line ")
        .map_or(message.as_str(), |(text, _)| text)
        .to_owned()
}

/// What is wrong with a value of JSON that was already found to be well-formed.
pub(crate) fn of_value(error: &Error) -> String {
    match error.classify() {
        Category::Data => of_message(&without_position(error)),
        // Only an enum reports another JSON type as a syntax error, and its JSON type is a string.
        Category::Syntax | Category::Eof | Category::Io => "must be a string".to_owned(),
    }
}

/// What serde's message says about a value, without a position. A message of our own is returned
/// as it is.
pub(crate) fn of_message(message: &str) -> String {
    let is_serdes = ["invalid type: ", "invalid value: ", "invalid length "]
        .iter()
        .any(|prefix| message.starts_with(prefix));
    let is_variant = message.starts_with("unknown variant `");
    // The last one: a client's text may stand before it.
    match message.rsplit_once(", expected ") {
        Some((_, expected)) if is_serdes => format!("must be {}", type_name(expected)),
        Some((_, names)) if is_variant => format!("must be {}", names.replace('`', "")),
        _ if message == "provided string was not `true` or `false`" => {
            "must be true or false".to_owned()
        }
        _ => message.to_owned(),
    }
}

fn type_name(expected: &str) -> &str {
    match expected {
        "a sequence" => "a list",
        "a map" => "an object",
        "a boolean" => "true or false",
        "a borrowed string" | "string" | "unit" => "a string",
        name if name.starts_with("struct ") => "an object",
        other => other,
    }
}

/// What is wrong with a text that is not JSON, and where.
pub(crate) fn of_malformed(bytes: &[u8], error: &Error) -> String {
    if bytes.trim_ascii().is_empty() {
        return "the body is empty; it must be JSON".to_owned();
    }
    let (line, column) = (error.line(), error.column());
    if error.is_eof() {
        return format!("the JSON is incomplete: it ends at line {line}, column {column}");
    }
    let message = without_position(error);
    let problem = match message.as_str() {
        "trailing characters" => "nothing may follow the JSON".to_owned(),
        "expected value" => "a value is expected".to_owned(),
        "expected ident" => "true, false or null is expected".to_owned(),
        other => match other.strip_prefix("expected ") {
            Some(expected) => format!("{expected} is expected"),
            None => message,
        },
    };
    format!("not JSON at line {line}, column {column}: {problem}")
}

pub(crate) fn of_unportable(error: &Error) -> String {
    let message = without_position(error);
    let problem = match message.as_str() {
        "number out of range" => "the number is greater than a double",
        "lone leading surrogate in hex escape" | "unexpected end of hex escape" => {
            "an escape such as \\ud800 is half of a character"
        }
        other => other,
    };
    format!("not every JSON parser can read it: {problem}")
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use rstest::rstest;
    use serde_json::{Value, json};

    use crate::tests::Bench;

    /// Parts of the messages of serde, of its data formats and of `std`.
    const PARSERS_WORDS: [&str; 13] = [
        "invalid type",
        "invalid value",
        "invalid digit",
        "invalid length",
        "expected",
        "sequence",
        "struct",
        "variant",
        "parse",
        "deserialize",
        "f64",
        "u16",
        "EOF",
    ];

    #[track_caller]
    fn is_in_own_words(detail: &str) {
        let found = PARSERS_WORDS.iter().find(|words| detail.contains(**words));
        assert_eq!(found, None, "{detail}");
    }

    #[tokio::test]
    async fn a_value_of_the_wrong_type_is_refused_with_what_it_must_be() {
        let bench = Bench::new().await;
        let message = json!({
            "channel_id": "c", "session_id": "s", "message": 1, "response_url": "http://h/"
        });
        let channel = json!({
            "channel_id": "d", "channel_name": "n", "channel_description": "d",
            "channel_metadata": {
                "endpoint_url": "http://h/",
                "delivery": {"timeout": "1s", "max_in_flight": 1, "rate_per_second": 1}
            },
            "channel_tags": ["t"]
        });
        let key = json!({
            "name": "k", "role": "viewer", "channels": ["c"], "rate_per_second": 1,
            "expires_at": "2100-01-01T00:00:00Z"
        });
        let letters = json!({
            "dry_run": true, "rate_per_second": 1, "ids": ["a"], "queue": "outbound",
            "channel_id": "c", "session_id": "s", "reason": "refused",
            "since": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"
        });
        let messages = json!({
            "dry_run": true, "rate_per_second": 1,
            "ids": ["msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f"], "channel_id": "c",
            "session_id": "s", "state": "dead", "since": "2026-01-01T00:00:00Z",
            "until": "2026-01-01T00:00:00Z"
        });
        let answers = json!({
            "dry_run": true, "rate_per_second": 1,
            "ids": ["cb_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f"], "channel_id": "c",
            "session_id": "s", "since": "2026-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"
        });
        let wrong = [
            json!(5),
            json!(-1.5),
            json!(true),
            json!("x, expected y"),
            json!([]),
            json!([5]),
            json!({}),
            json!({"a": 1}),
            json!({"outbound": 1}),
        ];
        let mut refused = 0;
        for (method, path, body) in [
            (Method::POST, "/channel/message", &message),
            (Method::POST, "/channel", &channel),
            (Method::PUT, "/channel/d", &channel),
            (
                Method::POST,
                "/channel/c/secret/rotate",
                &json!({"overlap": "1s"}),
            ),
            (Method::POST, "/api-keys", &key),
            (Method::POST, "/dead-letters/replay", &letters),
            (Method::POST, "/messages/replay", &messages),
            (Method::POST, "/answers/replay", &answers),
            (
                Method::POST,
                "/webhook-response",
                &json!({"session_id": "s", "response_data": 1}),
            ),
        ] {
            for field in body.as_object().unwrap().keys() {
                for wrong in &wrong {
                    let mut body = body.clone();
                    body[field] = wrong.clone();
                    let response = bench
                        .request(method.clone(), path, &[], body.to_string())
                        .await;
                    if response.status != 422 {
                        continue;
                    }
                    refused += 1;
                    for error in response.json()["errors"].as_array().unwrap() {
                        is_in_own_words(error["detail"].as_str().unwrap());
                        let named = error["field"].as_str().unwrap();
                        assert!(named.starts_with(field.as_str()), "{path}: {body}: {error}");
                    }
                }
            }
        }
        assert!(refused > 200, "{refused}");
    }

    #[rstest]
    #[case("/channel", json!({"channel_id": 5}), "channel_id", "must be a string")]
    #[case("/channel", json!({"channel_id": "d", "channel_tags": "t"}), "channel_tags", "must be a list")]
    #[case(
        "/channel",
        json!({"channel_id": "d", "channel_metadata": "m"}),
        "channel_metadata",
        "must be an object"
    )]
    #[case(
        "/channel",
        json!({"channel_id": "d", "channel_metadata": {"a": 12_345_678_901_234_567_890_u64}}),
        "channel_metadata.a",
        "is an integer outside of -9223372036854775808 to 9223372036854775807; send it as a string"
    )]
    #[case(
        "/channel/message",
        json!({"channel_id": "c", "session_id": "s", "message": 1, "response_url": "/answer"}),
        "response_url",
        "must be an absolute http or https URL such as https://host.example/path"
    )]
    #[case("/messages/replay", json!({"dry_run": 1}), "dry_run", "must be true or false")]
    #[case(
        "/messages/replay",
        json!({"state": "x"}),
        "state",
        "must be one of queued, delivering, retrying, waiting, cancelled, delivered, overdue, \
         answered, forwarded, dead, replayed, taken"
    )]
    #[case("/dead-letters/replay", json!({"queue": 5}), "queue", "must be a string")]
    #[case("/dead-letters/replay", json!({"queue": "x"}), "queue", "must be one of outbound, callbacks, notices")]
    #[case(
        "/dead-letters/replay",
        json!({"rate_per_second": "fast"}),
        "rate_per_second",
        "must be a whole number from 1 to 10000"
    )]
    #[case(
        "/dead-letters/replay",
        json!({"rate_per_second": 0.5}),
        "rate_per_second",
        "must be a whole number from 1 to 10000"
    )]
    #[case(
        "/api-keys",
        json!({"name": "k", "role": "viewer", "rate_per_second": 1_000_001}),
        "rate_per_second",
        "must be a whole number from 1 to 1000000"
    )]
    #[case("/channel/messages", json!({"a": 1}), "body", "must be a JSON array of messages")]
    #[tokio::test]
    async fn a_body_is_refused_with_what_is_valid(
        #[case] path: &str,
        #[case] body: Value,
        #[case] field: &str,
        #[case] detail: &str,
    ) {
        let bench = Bench::new().await;
        let response = bench.post(path, &[], body.to_string()).await;
        let expected = json!([{"field": field, "detail": detail}]);
        assert_eq!(response.json()["errors"], expected, "{}", response.text);
    }

    #[rstest]
    #[case("limit=many", "limit", "must be a whole number from 1 to 1000")]
    #[case("limit=", "limit", "must be a whole number from 1 to 1000")]
    #[case("limit=0", "limit", "must be a whole number from 1 to 1000")]
    #[case("limit=99999", "limit", "must be a whole number from 1 to 1000")]
    #[case("colour=red", "colour", "is not a parameter of this call")]
    #[case("limit=5&limit=6", "limit", "appears twice")]
    #[tokio::test]
    async fn a_lists_parameter_is_refused_with_what_is_valid(
        #[case] query: &str,
        #[case] field: &str,
        #[case] detail: &str,
    ) {
        let bench = Bench::new().await;
        for (method, path) in [
            (Method::GET, "/messages"),
            (Method::GET, "/dead-letters"),
            (Method::GET, "/replays"),
            (Method::GET, "/api-keys"),
            (Method::POST, "/channels"),
        ] {
            let path = format!("{path}?{query}");
            let response = bench.request(method, &path, &[], "{}").await;
            let expected = json!([{"field": field, "detail": detail}]);
            assert_eq!(response.json()["errors"], expected, "{}", response.text);
        }
    }

    #[rstest]
    #[case(
        "/dead-letters?queue=x",
        "queue",
        "must be one of outbound, callbacks, notices"
    )]
    #[case("/dead-letters?all=maybe", "all", "must be true or false")]
    #[case(
        "/replays?status=x",
        "status",
        "must be one of running, done, cancelled"
    )]
    #[case(
        "/replays?cursor=x",
        "cursor",
        "must be 'rpl_' and a UUID of 32 hexadecimal digits"
    )]
    #[tokio::test]
    async fn a_parameter_is_refused_with_what_is_valid(
        #[case] path: &str,
        #[case] field: &str,
        #[case] detail: &str,
    ) {
        let bench = Bench::new().await;
        let response = bench.request(Method::GET, path, &[], "").await;
        let expected = json!([{"field": field, "detail": detail}]);
        assert_eq!(response.json()["errors"], expected, "{}", response.text);
    }

    #[rstest]
    #[case("{", "the JSON is incomplete: it ends at line 1, column 1")]
    #[case("{\"a\":\n1,}", "not JSON at line 2, column 3: key must be a string")]
    #[case("a", "not JSON at line 1, column 1: a value is expected")]
    #[case("{} x", "not JSON at line 1, column 4: nothing may follow the JSON")]
    #[case("{\"a\" 1}", "not JSON at line 1, column 6: `:` is expected")]
    #[case(
        "{\"a\": trve}",
        "not JSON at line 1, column 9: true, false or null is expected"
    )]
    #[tokio::test]
    async fn a_body_that_is_not_json_is_refused_by_its_place(
        #[case] body: &'static str,
        #[case] detail: &str,
    ) {
        let bench = Bench::new().await;
        for path in ["/channel/message", "/messages/replay", "/channels"] {
            let response = bench.post(path, &[], body).await;
            assert_eq!(response.status, 400);
            assert_eq!(response.json()["detail"], detail, "{path}");
        }
    }

    #[rstest]
    #[case("/channel", "the body is empty; it must be JSON")]
    #[case("/channel/messages", "the body is empty; it must be JSON")]
    #[case(
        "/channels",
        "the body is empty; send the filter as a JSON object: {} finds every channel"
    )]
    #[case(
        "/dead-letters/replay",
        "the body is empty; send the filter as a JSON object: {} selects every dead letter"
    )]
    #[case(
        "/messages/replay",
        "the body is empty; send the filter as a JSON object: name at least one field"
    )]
    #[tokio::test]
    async fn an_empty_body_is_refused_with_what_is_missing(
        #[case] path: &str,
        #[case] detail: &str,
    ) {
        let bench = Bench::new().await;
        let response = bench.post(path, &[], "").await;
        assert_eq!(response.status, 400, "{path}: {}", response.text);
        assert_eq!(response.json()["detail"], detail, "{path}");
    }
}
