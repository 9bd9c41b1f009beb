use proptest::prelude::*;
use time::{Duration, macros::datetime};

use super::*;
use crate::redacted;

const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
const LATER: OffsetDateTime = datetime!(2026-11-30 12:00 UTC);

fn keys(secrets: &str) -> TokenKeys {
    let secrets: Vec<_> = secrets
        .chars()
        .map(|secret| secret.to_string().repeat(MIN_SECRET_BYTES))
        .collect();
    TokenKeys::new(secrets.iter().map(String::as_bytes)).unwrap()
}

fn session(id: &str) -> SessionId {
    id.parse().unwrap()
}

fn claims(channel: &str, replay_count: u32) -> Claims {
    Claims {
        message_id: MessageId::generate(),
        channel_id: channel.parse().unwrap(),
        replay_count,
    }
}

/// A token for the session `s`, and its claims.
fn made(keys: &TokenKeys) -> (String, Claims) {
    let claims = claims("c", 0);
    (keys.sign(&claims, &session("s"), None, LATER), claims)
}

fn verify(keys: &TokenKeys, token: &str, session: &SessionId) -> Result<Claims, Refusal> {
    keys.check(token, NOW)?.claims(session).cloned()
}

proptest! {
    #[test]
    fn a_token_contains_its_claims(channel in "[A-Za-z0-9_~-][A-Za-z0-9._~-]{7,127}", replay_count: u32, id in "[^\\pC]{1,60}") {
        let (keys, claims, session) = (keys("k"), claims(&channel, replay_count), session(&id));
        let token = keys.sign(&claims, &session, None, LATER);
        prop_assert_eq!(verify(&keys, &token, &session), Ok(claims));
    }

    #[test]
    fn a_token_needs_no_escaping_in_a_url(channel in "[A-Za-z0-9_~-]{1,128}", replay_count: u32) {
        let uid = ChannelUid::from(channel.clone());
        let token = keys("k").sign(&claims(&channel, replay_count), &session("s"), Some(&uid), LATER);
        prop_assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{token}");
        prop_assert!(token.len() <= MAX_TOKEN_BYTES);
    }

    #[test]
    fn a_token_with_a_changed_byte_is_refused(at: prop::sample::Index, byte in 0_u8..128) {
        let keys = keys("kl");
        let (token, _) = made(&keys);
        let mut bytes = token.into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assert!(keys.check(&changed, NOW).is_err(), "{}", changed);
    }

    #[test]
    fn a_part_or_more_than_the_whole_is_worthless(at: prop::sample::Index, more in "[A-Za-z0-9._-]{1,9}") {
        let keys = keys("k");
        let (token, _) = made(&keys);
        prop_assert!(keys.check(&token[..at.index(token.len())], NOW).is_err());
        let longer = format!("{token}{more}");
        prop_assert!(keys.check(&longer, NOW).is_err());
        prop_assert!(keys.check(&more, NOW).is_err());
    }

    #[test]
    fn no_other_text_is_accepted_as_a_token(text in "\\PC{0,500}") {
        prop_assert!(keys("k").check(&text, NOW).is_err());
        let begun = format!("{VERSION}{text}");
        prop_assert!(keys("k").check(&begun, NOW).is_err());
    }

    #[test]
    fn a_token_is_refused_for_another_session(one in "[a-z.]{1,20}", other in "[a-z.]{1,20}") {
        prop_assume!(one != other);
        let keys = keys("k");
        let token = keys.sign(&claims("c", 0), &session(&one), None, LATER);
        prop_assert_eq!(verify(&keys, &token, &session(&other)), Err(Refusal::OtherSession));
    }

    #[test]
    fn parts_of_two_tokens_are_worthless_together(one in 0_u32..4, other in 4_u32..8) {
        let keys = keys("k");
        let [one, other] = [one, other].map(|replay_count| keys.sign(&claims("c", replay_count), &session("s"), None, LATER));
        let (what, _) = one.rsplit_once('.').unwrap();
        let (_, mac) = other.rsplit_once('.').unwrap();
        let mixed = format!("{what}.{mac}");
        prop_assert_eq!(verify(&keys, &mixed, &session("s")), Err(Refusal::Forged));
    }

    #[test]
    fn a_token_ends_at_its_time(before in 1_i64..10_000_000, after in 0_i64..10_000_000) {
        let keys = keys("k");
        let (token, _) = made(&keys);
        prop_assert!(keys.check(&token, LATER - Duration::seconds(before)).is_ok());
        prop_assert_eq!(keys.check(&token, LATER + Duration::seconds(after)).err(), Some(Refusal::Expired));
    }

    #[test]
    fn a_repeated_answer_has_the_id_of_the_first_and_another_has_its_own(one in "\\PC{0,40}", other in "\\PC{0,40}") {
        prop_assume!(one != other);
        let keys = keys("k");
        let (token, claims) = made(&keys);
        let id = |token: &str, data: &str| keys.check(token, NOW).unwrap().callback_id(data);
        prop_assert_eq!(id(&token, &one), id(&token, &one));
        prop_assert_ne!(id(&token, &one), id(&token, &other));
        // The token of another attempt, and of the message's next replay.
        let next_attempt = keys.sign(&claims, &session("s"), None, LATER + Duration::DAY);
        prop_assert_eq!(id(&next_attempt, &one), id(&token, &one));
        let next_replay = keys.sign(&Claims { replay_count: 1, ..claims }, &session("s"), None, LATER);
        prop_assert_ne!(id(&next_replay, &one), id(&token, &one));
    }

    #[test]
    fn no_token_is_left_in_a_text(before in "[^v]{0,20}", after in "[ /\"&<][^v]{0,20}", at: prop::sample::Index) {
        let (token, _) = made(&keys("k"));
        let text = format!("{before}{token}{after}");
        let expected = format!("{before}…{after}");
        prop_assert_eq!(redacted(&text), expected);
        // Wherever an excerpt is cut, no part of the MAC remains.
        let cut = &token[..at.index(token.len())];
        prop_assert!(redacted(cut).len() <= VERSION.len() + NAME_CHARACTERS);
    }
}

#[test]
fn secrets_can_be_rotated() {
    let (old, both, new) = (keys("o"), keys("no"), keys("n"));
    let (session, (by_old, old_claims)) = (session("s"), made(&old));
    assert_eq!(verify(&both, &by_old, &session), Ok(old_claims));
    assert_eq!(verify(&new, &by_old, &session), Err(Refusal::UnknownKey));
    let (by_both, claims) = made(&both);
    assert_eq!(verify(&new, &by_both, &session), Ok(claims));
    assert_eq!(verify(&old, &by_both, &session), Err(Refusal::UnknownKey));
}

#[test]
fn a_token_under_another_secrets_name_is_forged() {
    let (token, _) = made(&keys("l"));
    let (own, _) = made(&keys("k"));
    let name = |token: &str| token.split('.').nth(1).unwrap().to_owned();
    let forged = token.replacen(&name(&token), &name(&own), 1);
    assert_eq!(keys("k").check(&forged, NOW).err(), Some(Refusal::Forged));
}

#[test]
fn neither_the_session_nor_the_secret_can_be_read_off() {
    let keys = keys("k");
    let token = keys.sign(&claims("c", 0), &session("a-secret-session"), None, LATER);
    for part in token.split('.').skip(1) {
        let part = BASE64_URL_SAFE_NO_PAD.decode(part).unwrap();
        assert!(!String::from_utf8_lossy(&part).contains("secret"));
        assert!(!String::from_utf8_lossy(&part).contains("kkkk"));
    }
    let proven = keys.check(&token, NOW).unwrap();
    assert_eq!(format!("{keys:?}"), "TokenKeys(1)");
    assert!(!format!("{proven:?}").contains("session"));
}

#[test]
fn secrets_that_cannot_be_are_refused() {
    let new = |secrets: &[&[u8]]| TokenKeys::new(secrets.iter().copied()).map(drop);
    let good = [7; MIN_SECRET_BYTES];
    assert_eq!(new(&[]), Err(SecretError::None));
    assert_eq!(new(&[&good[1..]]), Err(SecretError::Short));
    assert_eq!(new(&[&good, &[8; 31]]), Err(SecretError::Short));
    assert_eq!(new(&[&good, &good]), Err(SecretError::Twice));
}

#[test]
fn a_token_is_for_one_channel_of_those_that_used_its_id() {
    let [own, other] = ["own", "other"].map(|uid| ChannelUid::from(uid.to_owned()));
    let (keys, claims, session) = (keys("k"), claims("c", 0), session("s"));
    let token = keys.sign(&claims, &session, Some(&own), LATER);
    let proven = keys.check(&token, NOW).unwrap();
    assert!(proven.is_for(&own));
    assert!(!proven.is_for(&other));
    assert_eq!(proven.claims(&session), Ok(&claims));

    let of_an_earlier_version = keys.sign(&claims, &session, None, LATER);
    assert!(
        keys.check(&of_an_earlier_version, NOW)
            .unwrap()
            .is_for(&other)
    );
}
