use proptest::prelude::*;
use rstest::rstest;
use time::macros::datetime;

use super::*;

const NOW: OffsetDateTime = datetime!(2026-11-23 08:00 UTC);

fn new_key() -> NewKey {
    NewKey {
        name: "n".to_owned(),
        role: KeyRole::Producer,
        channels: None,
        rate_per_second: None,
        expires_at: None,
    }
}

fn made(secret: [u8; SECRET_BYTES]) -> (ApiKey, IssuedKey) {
    new_key().make(secret, NOW).unwrap()
}

proptest! {
    #[test]
    fn a_generated_key_matches_its_hash(secret: [u8; SECRET_BYTES]) {
        let (key, issued) = made(secret);
        let presented: PresentedKey = issued.expose().parse().unwrap();
        prop_assert_eq!(presented.key_id, key.key_id);
        prop_assert_eq!(presented.hash, key.hash);
    }

    #[test]
    fn any_changed_byte_gives_another_key(at: prop::sample::Index, byte in 0_u8..128) {
        let (key, issued) = made([7; SECRET_BYTES]);
        let mut bytes = issued.expose().as_bytes().to_vec();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assert!(KeyHash::of(&changed) != key.hash, "{changed}");
    }

    #[test]
    fn no_text_is_read_with_a_panic(text in "(rt_)?(key_)?[0-9a-f]{0,33}_?.{0,50}") {
        let _ = text.parse::<PresentedKey>();
    }
}

#[test]
fn nothing_of_the_secret_is_shown() {
    let (key, issued) = made([0xA5; SECRET_BYTES]);
    let secret = issued.expose().rsplit_once('_').unwrap().1;
    let presented: PresentedKey = issued.expose().parse().unwrap();
    let json = serde_json::to_string(&key).unwrap();
    for shown in [
        format!("{key:?}"),
        format!("{issued:?}"),
        format!("{presented:?}"),
        json,
    ] {
        assert!(!shown.contains(&secret[..6]), "{shown}");
        assert!(!shown.contains("165, 165"), "{shown}");
    }
}

#[rstest]
#[case::empty("")]
#[case::no_prefix(
    "key_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)]
#[case::no_secret("rt_key_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f")]
#[case::no_separator(
    "rt_key_0192f0c1a2b37c4d8e9f0a1b2c3d4e5fAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)]
#[case::short("rt_key_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f_AAAA")]
#[case::padded(
    "rt_key_0192f0c1a2b37c4d8e9f0a1b2c3d4e5f_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
)]
#[case::within_a_character("rt_key_0192f0c1a2b37c4d8e9f0a1b2c3d4ä_A")]
fn a_malformed_key_is_refused(#[case] text: &str) {
    assert_eq!(text.parse::<PresentedKey>().unwrap_err(), NoKey);
}

#[rstest]
#[case::no_name(NewKey { name: String::new(), ..new_key() }, "name")]
#[case::long_name(NewKey { name: "x".repeat(MAX_NAME_CHARS + 1), ..new_key() }, "name")]
#[case::control(NewKey { name: "a\nb".to_owned(), ..new_key() }, "name")]
#[case::no_channel(NewKey { channels: Some(BTreeSet::new()), ..new_key() }, "channels")]
#[case::no_rate(NewKey { rate_per_second: Some(0), ..new_key() }, "rate_per_second")]
#[case::past(NewKey { expires_at: Some(NOW), ..new_key() }, "expires_at")]
#[case::far(NewKey { expires_at: Some(datetime!(9999-12-31 23:00 -23)), ..new_key() }, "expires_at")]
fn an_invalid_new_key_names_its_field(#[case] new: NewKey, #[case] field: &str) {
    let errors = new.make([0; SECRET_BYTES], NOW).unwrap_err();
    assert_eq!(errors[0].field, field);
    assert_eq!(errors.len(), 1);
}

#[test]
fn a_key_ends_when_it_is_revoked_or_expires() {
    let (key, _) = made([0; SECRET_BYTES]);
    let hour = Duration::HOUR;
    let revoked = ApiKey {
        revoked_at: Some(NOW + hour),
        ..key.clone()
    };
    let expired = ApiKey {
        expires_at: Some(NOW + hour),
        ..key.clone()
    };
    let both = ApiKey {
        expires_at: Some(NOW + 2 * hour),
        ..revoked.clone()
    };
    for key in [revoked, expired, both] {
        assert!(key.is_active(NOW));
        assert!(!key.is_active(NOW + hour), "{key:?}");
    }
    assert!(key.is_active(NOW + 1000 * hour));
}

#[test]
fn a_roles_name_parses_to_the_role() {
    for role in KeyRole::ALL {
        assert_eq!(role.to_string().parse(), Ok(role));
        assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
    }
    assert_eq!("admin".parse::<KeyRole>(), Err(UnknownRole));
}
