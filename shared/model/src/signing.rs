//! Signatures of Standard Webhooks (<https://www.standardwebhooks.com>), version 1.0.0.
//!
//! `webhook-signature` holds one signature for each secret, separated by a space. Each is `v1,` and
//! the base64 of HMAC-SHA256 over `{id}.{timestamp}.{body}`. During a rotation the receiver may
//! know only the old secret or only the new one.
//!
//! Invariant: a signature covers exactly the bytes that are sent. Only [`SigningSecret::reveal`]
//! shows a secret. The duration of a verification reveals nothing about a valid signature.

use std::{fmt, fmt::Write, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use time::{Duration, OffsetDateTime};

pub(crate) const PREFIX: &str = "whsec_";
/// The shortest secret that the specification allows, in bytes.
pub const MIN_SECRET_BYTES: usize = 24;
/// The longest secret that the specification allows, in bytes.
pub const MAX_SECRET_BYTES: usize = 64;
/// The length of a secret that Roundtrip makes, in bytes.
pub const NEW_SECRET_BYTES: usize = 32;
/// The most secrets that sign one message. A further rotation is refused until the first of them
/// ends.
pub const MAX_SECRETS: usize = 3;

/// The most that a received timestamp may differ from now, as the specification recommends.
pub const TIMESTAMP_TOLERANCE: Duration = Duration::minutes(5);
/// The most signatures of a received request that are verified. Further ones are ignored.
pub const MAX_SIGNATURES: usize = 16;

const SIGNATURE_VERSION: &str = "v1,";
const SIGNATURE_BYTES: usize = 32;

/// The length of a signature, including its version and the space before it.
const SIGNATURE_CHARACTERS: usize = 48;

/// A secret shared with a receiver. Its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Vec<u8>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be '{PREFIX}' and the base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes")]
pub struct NoSecret;

impl SigningSecret {
    pub fn new(random: [u8; NEW_SECRET_BYTES]) -> Self {
        Self(random.into())
    }

    /// The secret made of decrypted bytes.
    ///
    /// # Errors
    ///
    /// [`NoSecret`] if there are too few or too many bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, NoSecret> {
        if (MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(NoSecret)
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", BASE64_STANDARD.encode(&self.0))
    }
}

impl FromStr for SigningSecret {
    type Err = NoSecret;

    fn from_str(text: &str) -> Result<Self, NoSecret> {
        let base64 = text.strip_prefix(PREFIX).ok_or(NoSecret)?;
        let bytes = BASE64_STANDARD.decode(base64).map_err(|_error| NoSecret)?;
        Self::from_bytes(bytes)
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

#[derive(Clone)]
pub struct Signer {
    newest: Hmac<Sha256>,
    /// The older secrets that still sign, each with the time when it stops.
    older: Vec<(Hmac<Sha256>, Option<OffsetDateTime>)>,
}

impl Signer {
    /// Signs with this secret, and with each older one until its time, if it has one.
    pub fn new(
        newest: &SigningSecret,
        older: impl IntoIterator<Item = (SigningSecret, Option<OffsetDateTime>)>,
    ) -> Self {
        Self {
            newest: keyed(newest),
            older: older
                .into_iter()
                .map(|(secret, until)| (keyed(&secret), until))
                .collect(),
        }
    }

    pub fn sign(&self, id: &str, now: OffsetDateTime, body: &[u8]) -> String {
        let timestamp = now.unix_timestamp().to_string();
        let mut header = String::with_capacity(SIGNATURE_CHARACTERS * (1 + self.older.len()));
        for mac in self.macs(id, &timestamp, body, now) {
            let signature = BASE64_STANDARD.encode(mac);
            let space = if header.is_empty() { "" } else { " " };
            // Writing to a `String` never fails.
            let _ = write!(header, "{space}{SIGNATURE_VERSION}{signature}");
        }
        header
    }

    /// Whether one of these signatures is by a secret that signs now. The caller has checked the
    /// timestamp.
    pub fn verifies(&self, signed: &Signed<'_>, body: &[u8], now: OffsetDateTime) -> bool {
        let expected: Vec<_> = self.macs(signed.id, signed.timestamp, body, now).collect();
        let mut is_valid = false;
        for signature in signed.signatures.split(' ').take(MAX_SIGNATURES) {
            let Some(signature) = decoded(signature) else {
                continue;
            };
            for mac in &expected {
                is_valid |= bool::from(mac[..].ct_eq(&signature));
            }
        }
        is_valid
    }

    /// One for each secret that signs now.
    fn macs(
        &self,
        id: &str,
        timestamp: &str,
        body: &[u8],
        now: OffsetDateTime,
    ) -> impl Iterator<Item = [u8; SIGNATURE_BYTES]> {
        let older = self
            .older
            .iter()
            .filter(move |(_, until)| until.is_none_or(|until| now < until))
            .map(|(key, _)| key);
        std::iter::once(&self.newest).chain(older).map(move |key| {
            let mut mac = key.clone();
            for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
                mac.update(part);
            }
            mac.finalize().into_bytes().into()
        })
    }
}

/// The headers of a received request.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// `webhook-id`.
    pub id: &'a str,
    /// `webhook-timestamp`, as it was received and signed.
    pub timestamp: &'a str,
    /// `webhook-signature`.
    pub signatures: &'a str,
}

impl Signed<'_> {
    /// Whether the timestamp is close to now. An older request may be a copy of one that somebody
    /// recorded.
    pub fn is_recent(&self, now: OffsetDateTime) -> bool {
        let timestamp = self.timestamp.parse().ok();
        timestamp
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .is_some_and(|at| (now - at).abs() <= TIMESTAMP_TOLERANCE)
    }
}

fn decoded(signature: &str) -> Option<[u8; SIGNATURE_BYTES]> {
    let base64 = signature.strip_prefix(SIGNATURE_VERSION)?;
    let bytes = BASE64_STANDARD.decode(base64).ok()?;
    bytes.try_into().ok()
}

fn keyed(secret: &SigningSecret) -> Hmac<Sha256> {
    let mut key = [0; MAX_SECRET_BYTES];
    // HMAC pads a short key with zeros to its block length.
    key[..secret.0.len()].copy_from_slice(&secret.0);
    Hmac::new(&key.into())
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} secrets)", 1 + self.older.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use time::macros::datetime;

    use super::*;

    /// From the specification's example.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn at() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_614_265_330).unwrap()
    }

    fn secret(byte: u8) -> SigningSecret {
        SigningSecret::new([byte; NEW_SECRET_BYTES])
    }

    fn alone(secret: &SigningSecret) -> String {
        Signer::new(secret, []).sign(ID, at(), BODY)
    }

    #[test]
    fn the_specifications_example_has_its_signature() {
        assert_eq!(alone(&SECRET.parse().unwrap()), SIGNATURE);
        assert_eq!(SIGNATURE.len() + 1, SIGNATURE_CHARACTERS);
    }

    #[test]
    fn during_a_rotation_each_secret_has_its_own_signature() {
        let older = [
            (secret(1), Some(at() + Duration::SECOND)),
            (secret(2), None),
        ];
        let header = Signer::new(&secret(0), older).sign(ID, at(), BODY);
        let expected = [0, 1, 2].map(|byte| alone(&secret(byte))).join(" ");
        assert_eq!(header, expected);
    }

    #[test]
    fn an_old_secret_stops_signing_after_the_overlap() {
        let signer = Signer::new(&secret(0), [(secret(1), Some(at()))]);
        assert_eq!(signer.sign(ID, at(), BODY), alone(&secret(0)));
        let before = at() - Duration::SECOND;
        assert!(signer.sign(ID, before, BODY).contains(' '));
    }

    /// Whether the specification's example is valid with this in place of its signature.
    fn verifies(signer: &Signer, signatures: &str) -> bool {
        let signed = Signed {
            id: ID,
            timestamp: "1614265330",
            signatures,
        };
        signer.verifies(&signed, BODY, at())
    }

    #[test]
    fn one_valid_signature_suffices() {
        let signer = Signer::new(&SECRET.parse().unwrap(), []);
        let other = alone(&secret(0));
        for (signatures, is_valid) in [
            (SIGNATURE.to_owned(), true),
            (format!("v1a,QUJD {other} {SIGNATURE}"), true),
            (other.clone(), false),
            (SIGNATURE.replace("v1,", "v2,"), false),
            (SIGNATURE.replace("v1,", ""), false),
            (SIGNATURE[..SIGNATURE.len() - 4].to_owned(), false),
            (String::new(), false),
            // One more than is looked at.
            (
                format!("{}{SIGNATURE}", "v1, ".repeat(MAX_SIGNATURES)),
                false,
            ),
        ] {
            assert_eq!(verifies(&signer, &signatures), is_valid, "{signatures}");
        }
    }

    #[test]
    fn an_old_secret_verifies_during_the_overlap() {
        let old = alone(&secret(1));
        for (until, is_valid) in [(at() + Duration::SECOND, true), (at(), false)] {
            let signer = Signer::new(&secret(0), [(secret(1), Some(until))]);
            assert_eq!(verifies(&signer, &old), is_valid, "{until}");
            assert!(verifies(&signer, &alone(&secret(0))));
        }
    }

    #[rstest]
    #[case::now("1614265330", true)]
    #[case::earliest("1614265030", true)]
    #[case::too_old("1614265029", false)]
    #[case::latest("1614265630", true)]
    #[case::in_the_future("1614265631", false)]
    #[case::out_of_range("99999999999999", false)]
    #[case::no_number("2026-11-23T12:00:00Z", false)]
    #[case::empty("", false)]
    fn a_timestamp_may_differ_by_the_tolerance(#[case] timestamp: &str, #[case] is_recent: bool) {
        let signed = Signed {
            id: ID,
            timestamp,
            signatures: "",
        };
        assert_eq!(signed.is_recent(at()), is_recent);
    }

    #[rstest]
    #[case::no_prefix("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    #[case::no_base64("whsec_!")]
    #[case::empty("whsec_")]
    #[case::too_short("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")]
    #[case::too_long(&format!("whsec_{}", BASE64_STANDARD.encode([0; MAX_SECRET_BYTES + 1])))]
    fn a_malformed_secret_is_refused(#[case] text: &str) {
        assert_eq!(text.parse::<SigningSecret>(), Err(NoSecret));
        assert!(!NoSecret.to_string().contains("AAAA"));
    }

    #[test]
    fn neither_a_secret_nor_a_signer_shows_itself() {
        let secret: SigningSecret = SECRET.parse().unwrap();
        let signer = Signer::new(&secret, []);
        assert_eq!(
            format!("{secret:?} {signer:?}"),
            "SigningSecret(…) Signer(1 secrets)"
        );
    }

    proptest! {
        #[test]
        fn any_headers_are_refused(timestamp: String, signatures: String) {
            let signed = Signed { id: ID, timestamp: &timestamp, signatures: &signatures };
            let signer = Signer::new(&secret(0), [(secret(1), None)]);
            prop_assert!(!signer.verifies(&signed, BODY, at()));
            signed.is_recent(at());
        }

        #[test]
        fn a_secret_reads_back(bytes in prop::collection::vec(any::<u8>(), MIN_SECRET_BYTES..=MAX_SECRET_BYTES)) {
            let secret = SigningSecret::from_bytes(bytes).unwrap();
            prop_assert_eq!(secret.reveal().parse(), Ok(secret));
        }

        /// Compares with the one-shot MAC over the concatenated text.
        #[test]
        fn a_signature_is_the_macs(byte: u8, id in "[a-z_0-9]{1,40}", body: Vec<u8>, seconds in 0_i64..4_000_000_000) {
            let secret = secret(byte);
            let now = OffsetDateTime::from_unix_timestamp(seconds).unwrap() + Duration::milliseconds(999);
            let mut text = format!("{id}.{seconds}.").into_bytes();
            text.extend(&body);
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.bytes()).unwrap();
            mac.update(&text);
            let expected = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
            prop_assert_eq!(Signer::new(&secret, []).sign(&id, now, &body), expected);
        }
    }

    #[test]
    fn the_timestamp_is_in_seconds() {
        let signer = Signer::new(&secret(0), []);
        let half = datetime!(2026-11-23 12:00:00.5 UTC);
        let whole = datetime!(2026-11-23 12:00:00 UTC);
        assert_eq!(signer.sign(ID, half, BODY), signer.sign(ID, whole, BODY));
    }
}
