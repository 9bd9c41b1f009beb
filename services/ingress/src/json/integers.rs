//! Refuses integers that would be rounded.
//!
//! The parser silently turns an integer beyond 64 bits into a double. So the text is searched for
//! such integers before anything is kept.

use roundtrip_model::channel::FieldError;
use serde_json::Value;

use super::{BODY, MAX_SHOWN_BYTES};

/// An integer with this many bytes always fits.
const SAFE_BYTES: usize = 18;

/// Refuses JSON with an integer beyond 64 signed bits.
///
/// # Errors
/// Names the field.
pub(super) fn check(json: &str) -> Result<(), FieldError> {
    let Some(integer) = first_too_long(json.as_bytes()) else {
        return Ok(());
    };
    let parsed: Value = serde_json::from_str(json).unwrap_or_default();
    let path = path_of(&parsed, integer).unwrap_or_default();
    let shown = Some(path.trim_start_matches('.'))
        .filter(|path| (1..=MAX_SHOWN_BYTES).contains(&path.len()));
    Err(FieldError::new(
        shown.unwrap_or(BODY),
        "is an integer beyond 64 bits with a sign, which would be rounded; write it as a text",
    ))
}

/// The first integer that does not fit, as a double.
fn first_too_long(json: &[u8]) -> Option<f64> {
    let mut rest = json;
    loop {
        let start = rest
            .iter()
            .position(|byte| matches!(byte, b'"' | b'-' | b'0'..=b'9'))?;
        rest = &rest[start..];
        let length = if rest.first() == Some(&b'"') {
            string_length(rest)
        } else {
            number_length(rest)
        };
        let (token, after) = rest.split_at(length);
        if token.len() > SAFE_BYTES
            && let Ok(text) = std::str::from_utf8(token)
            && text.bytes().all(|byte| matches!(byte, b'-' | b'0'..=b'9'))
            && text.parse::<i64>().is_err()
        {
            // The same parser, as another may round to the adjacent double.
            return serde_json::from_str(text).ok();
        }
        rest = after;
    }
}

/// The length of the string that starts here, with both quotes.
fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            // The escape and the byte after it.
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

fn number_length(text: &[u8]) -> usize {
    text.iter()
        .position(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
        .unwrap_or(text.len())
}

/// The path of a number with this value that is not a 64-bit signed integer.
fn path_of(json: &Value, wanted: f64) -> Option<String> {
    match json {
        Value::Number(number) => {
            let is_it = !number.is_i64() && number.as_f64() == Some(wanted);
            is_it.then(String::new)
        }
        Value::Array(values) => values
            .iter()
            .enumerate()
            .find_map(|(at, value)| Some(format!("[{at}]{}", path_of(value, wanted)?))),
        Value::Object(fields) => fields
            .iter()
            .find_map(|(name, value)| Some(format!(".{name}{}", path_of(value, wanted)?))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use rstest::rstest;

    use super::*;
    use crate::testing::Bench;

    #[rstest]
    #[case::greatest(r#"{"a":[9223372036854775807,-9223372036854775808]}"#)]
    #[case::doubles(r#"{"a":[1e300,12345678901234567890.5,1.2345678901234567890e19]}"#)]
    #[case::text(r#"{"a":"12345678901234567890 \" 12345678901234567890","b\\":1}"#)]
    #[case::name(r#"{"12345678901234567890":1}"#)]
    fn an_integer_that_stays_exact_is_accepted(#[case] json: &str) {
        assert_eq!(check(json), Ok(()));
    }

    #[rstest]
    #[case::unsigned(r#"{"a":{"b":[1,12345678901234567890]}}"#, "a.b[1]")]
    #[case::negative(r#"{"a":-9223372036854775809}"#, "a")]
    #[case::beyond_all(r#"{"x":1e300,"a":123456789012345678901234567890}"#, "a")]
    #[case::behind_a_text(r#"{"t":"\\\"","a":9223372036854775808}"#, "a")]
    fn an_integer_that_would_be_rounded_is_refused_by_its_path(
        #[case] json: &str,
        #[case] path: &str,
    ) {
        assert_eq!(check(json).unwrap_err().field, path);
    }

    #[tokio::test]
    async fn an_integer_that_would_be_rounded_is_refused_by_every_call() {
        let bench = Bench::new().await;
        for integer in ["12345678901234567890", "-123456789012345678901234567890"] {
            let metadata = format!(r#"{{"endpoint_url":"http://h/","account":{integer}}}"#);
            let new = format!(r#"{{"channel_id":"d","channel_metadata":{metadata}}}"#);
            let patch = format!(r#"{{"channel_metadata":{metadata}}}"#);
            let filter = format!(r#"{{"channel_metadata.account":{{"$gt":{integer}}}}}"#);
            for (method, path, body, field) in [
                (Method::POST, "/channel", new, "channel_metadata.account"),
                (Method::PUT, "/channel/c", patch, "channel_metadata.account"),
                (
                    Method::POST,
                    "/channels",
                    filter,
                    "channel_metadata.account.$gt",
                ),
            ] {
                let answer = bench.request(method, path, &[], body).await;
                assert_eq!(answer.status, 422, "{path}: {}", answer.text);
                assert_eq!(answer.json()["errors"][0]["field"], field);
            }
        }
    }
}
