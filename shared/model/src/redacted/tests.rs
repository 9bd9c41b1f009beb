use proptest::prelude::*;
use rstest::rstest;
use time::macros::datetime;

use super::*;
use crate::key::{KeyRole, NewKey, SECRET_BYTES};

/// A key's id, and the key.
fn key(secret: [u8; SECRET_BYTES]) -> (String, String) {
    let new = NewKey {
        name: "n".to_owned(),
        role: KeyRole::Viewer,
        channels: None,
        rate_per_second: None,
        expires_at: None,
    };
    let (key, issued) = new.make(secret, datetime!(2026-11-23 08:00 UTC)).unwrap();
    (key.key_id.to_string(), issued.expose().to_owned())
}

proptest! {
    #[test]
    fn only_the_id_of_a_key_is_left(secret: [u8; SECRET_BYTES], before in "[^_]{0,9}", after in "[ '.`/&<](\\PC{0,9})") {
        let (id, key) = key(secret);
        let text = format!("{before}{key}{after}");
        prop_assert_eq!(redacted(&text), format!("{before}rt_{id}…{after}"));
    }

    #[test]
    fn any_text_can_be_redacted(text: String) {
        let once = redacted(&text).into_owned();
        prop_assert_eq!(redacted(&once), once.as_str());
    }
}

#[rstest]
#[case::key_with_a_digit_too_few("rt_key_0123_SECRET", "rt_key_0123…")]
#[case::key_with_a_digit_too_many(
    "rt_key_0123456789abcdef0123456789abcdef0_SECRET",
    "rt_key_0123456789abcdef0123456789abcdef…"
)]
#[case::key_in_capitals("rt_key_XYZ", "rt_key_…")]
#[case::signing_secret("is 'whsec_MfKQ9r8GKYqrTw/+UPD8ILPZIo2LaLaSw=='", "is 'whsec_…'")]
#[case::token("?token=v2.abcdefgh.MORE.MAC&a=b", "?token=…&a=b")]
#[case::many("whsec_AA rt_key_a_A v2.abcdefgh.A", "whsec_… rt_key_a… …")]
fn a_secret_is_left_out(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(redacted(text), expected);
}

#[rstest]
#[case("")]
#[case("send one with the header 'Authorization: Bearer rt_…'")]
#[case("key_0123456789abcdef0123456789abcdef")]
#[case("must be 'rt_key_' or whsec_ and base64")]
#[case("v2.1 of v2.0.0")]
fn other_text_stays_unchanged(#[case] text: &str) {
    assert!(matches!(redacted(text), Cow::Borrowed(same) if same == text));
}
