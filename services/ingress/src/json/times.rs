//! Parses times and durations of clients. A parse error shows an example.

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Deserializer, de::Error};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub(crate) fn rfc3339<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<OffsetDateTime>, D::Error> {
    let Some(text) = Option::<Cow<'_, str>>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let read = |text: &str| OffsetDateTime::parse(text, &Rfc3339);
    read(&text).map(Some).map_err(|_error| {
        // A query string decodes '+' as a space, so an offset of +02:00 arrives with a space.
        let hint = if read(&text.replace(' ', "+")).is_ok() {
            "; a '+' in a query string is written %2B"
        } else {
            ""
        };
        D::Error::custom(format_args!(
            "must be a time such as 2026-11-28T21:00:00Z or 2026-11-28T23:00:00+02:00{hint}"
        ))
    })
}

pub(crate) fn duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    let Some(text) = Option::<Cow<'_, str>>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let read = humantime::parse_duration(&text);
    read.map(Some).map_err(|_error| {
        D::Error::custom("must be a duration with its unit, such as \"60s\", \"15m\" or \"1day\"")
    })
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use rstest::rstest;

    use crate::tests::Bench;

    const FORM: &str = "must be a time such as 2026-11-28T21:00:00Z or 2026-11-28T23:00:00+02:00";

    #[rstest]
    #[case::plus(
        "2026-11-28T23:00:00+02:00",
        "; a '+' in a query string is written %2B"
    )]
    #[case::day("2026-11-28", "")]
    #[case::no_offset("2026-11-28T23:00:00", "")]
    #[case::nothing("", "")]
    #[tokio::test]
    async fn a_time_that_cannot_be_read_is_refused_with_an_example(
        #[case] since: &str,
        #[case] hint: &str,
    ) {
        let bench = Bench::new().await;
        for path in ["/messages", "/dead-letters"] {
            for name in ["since", "until"] {
                let call = format!("{path}?{name}={since}");
                let refused = bench.request(Method::GET, &call, &[], "").await;
                assert_eq!(refused.status, 422, "{}", refused.text);
                let error = refused.json()["errors"][0].clone();
                assert_eq!(error["field"], *name);
                assert_eq!(error["detail"], format!("{FORM}{hint}"));
            }
        }
        let encoded = "/messages?since=2026-11-28T23:00:00%2B02:00";
        assert_eq!(
            bench.request(Method::GET, encoded, &[], "").await.status,
            200
        );
    }

    #[tokio::test]
    async fn a_time_in_a_body_is_refused_with_an_example() {
        let bench = Bench::new().await;
        let key = r#"{"name":"k","role":"viewer","expires_at":"tomorrow"}"#;
        let replay = r#"{"channel_id":"c","since":"tomorrow"}"#;
        for (path, body) in [
            ("/api-keys", key),
            ("/messages/replay", replay),
            ("/dead-letters/replay", replay),
        ] {
            let refused = bench.post(path, &[], body).await;
            assert_eq!(refused.json()["errors"][0]["detail"], FORM, "{path}");
        }
    }

    #[tokio::test]
    async fn a_duration_without_its_unit_is_refused_with_an_example() {
        let bench = Bench::new().await;
        let path = "/channel/c/secret/rotate";
        let refused = bench.post(path, &[], r#"{"overlap":"60"}"#).await;
        assert_eq!(
            refused.json()["errors"][0],
            serde_json::json!({
                "field": "overlap",
                "detail": "must be a duration with its unit, such as \"60s\", \"15m\" or \"1day\"",
            })
        );
    }
}
