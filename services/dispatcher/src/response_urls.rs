//! The `response_url` of each delivery.
//!
//! Invariant: a token is only ever appended to the gateway's own URL.

use std::{borrow::Cow, time::Duration};

use roundtrip_model::{
    OutboundMessage, TokenKeys,
    response_url::is_own,
    token::{Claims, QUERY},
};
use time::OffsetDateTime;
use url::Url;

/// Builds response URLs: the gateway's own `/webhook-response`, and the keys of the tokens that it
/// accepts.
#[derive(Debug, Clone)]
pub struct ResponseUrls {
    own: Url,
    keys: TokenKeys,
    time_to_live: Duration,
}

/// Where a channel posts its answer to a delivery.
#[derive(Debug)]
pub(crate) struct ResponseUrl<'a> {
    pub(crate) url: Cow<'a, str>,
    /// The end of its token. `None` if the answers do not come to the gateway.
    pub(crate) until: Option<OffsetDateTime>,
}

impl ResponseUrls {
    /// Tokens are made with `keys` and expire `time_to_live` after the message was accepted or
    /// replayed, or after its later `deliver_at`.
    pub const fn new(own: Url, keys: TokenKeys, time_to_live: Duration) -> Self {
        Self {
            own,
            keys,
            time_to_live,
        }
    }

    /// The message's own `response_url`. If it is the gateway's, a token is appended, even if the
    /// producer set the URL. The token's life counts from `from`. The token depends only on the
    /// message and its replay, so every attempt has the same body.
    pub(crate) fn url<'a>(
        &self,
        message: &'a OutboundMessage,
        replay_count: u32,
        from: OffsetDateTime,
    ) -> ResponseUrl<'a> {
        match Url::parse(&message.response_url) {
            Ok(mut url) if is_own(&self.own, &url) => {
                let claims = Claims {
                    message_id: message.message_id,
                    channel_id: message.channel_id.clone(),
                    replay_count,
                };
                let until = from + self.time_to_live;
                let uid = message.channel_uid.as_ref();
                let token = self.keys.sign(&claims, &message.session_id, uid, until);
                url.query_pairs_mut().append_pair(QUERY, &token);
                ResponseUrl {
                    url: Cow::Owned(url.into()),
                    until: Some(until),
                }
            }
            _ => ResponseUrl {
                url: Cow::Borrowed(&message.response_url),
                until: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use roundtrip_model::{SessionId, token::MIN_SECRET_BYTES};
    use rstest::rstest;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
    const HOUR: Duration = Duration::from_hours(1);

    fn message(response_url: &str) -> OutboundMessage {
        let message = serde_json::json!({
            "message_id": "msg_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f", "channel_id": "c",
            "session_id": "abc123", "message": "hi", "response_url": response_url,
        });
        serde_json::from_str(&message.to_string()).unwrap()
    }

    fn response_urls(own: &str) -> ResponseUrls {
        let keys = TokenKeys::new([&[7; MIN_SECRET_BYTES][..]]).unwrap();
        ResponseUrls::new(own.parse().unwrap(), keys, HOUR)
    }

    #[rstest]
    #[case(
        "https://gw.example/webhook-response",
        "https://gw.example/webhook-response"
    )]
    #[case(
        "https://gw.example/webhook-response",
        "https://gw.example:443/webhook-response?a=1#b"
    )]
    #[case(
        "http://127.0.0.1:8000/webhook-response",
        "http://localhost:8000/webhook-response"
    )]
    fn the_gateways_own_url_brings_the_message_back(#[case] own: &str, #[case] named: &str) {
        let urls = response_urls(own);
        let message = message(named);
        let response_url = urls.url(&message, 2, NOW);
        assert_eq!(response_url.until, Some(NOW + HOUR));
        let url = Url::parse(&response_url.url).unwrap();
        let token = url.query_pairs().find(|(name, _)| name == QUERY);
        let (_, token) = token.expect("a token");
        let session: SessionId = "abc123".parse().unwrap();
        let last = NOW + HOUR - Duration::from_secs(1);
        let proven = urls.keys.check(&token, last).expect("its own");
        assert!(urls.keys.check(&token, NOW + HOUR).is_err());
        let claims = proven.claims(&session).expect("its session's");
        assert_eq!(
            (claims.message_id, claims.replay_count),
            (message.message_id, 2)
        );
        assert!(
            url.as_str()
                .starts_with(own.trim_start_matches("http://127.0.0.1"))
                || named.contains("localhost")
        );
    }

    #[rstest]
    #[case("http://gw.example/webhook-response")]
    #[case("https://gw.example/webhook-response/")]
    #[case("https://gw.example:8443/webhook-response")]
    #[case("https://gw.example.evil/webhook-response")]
    #[case("https://evil.example/webhook-response")]
    #[case("http://localhost/webhook-response")]
    #[case("no url")]
    fn another_url_gets_no_token(#[case] named: &str) {
        let message = message(named);
        let urls = response_urls("https://gw.example/webhook-response");
        let response_url = urls.url(&message, 0, NOW);
        assert_eq!(response_url.url, named);
        assert_eq!(response_url.until, None);
    }
}
