//! The header `Retry-After`, in both of its forms.

use std::time::{Duration, SystemTime};

use hyper::header::HeaderValue;
use time::OffsetDateTime;

/// The wait that the header requests, from `now` on. A past date requests none; a value that is
/// neither seconds nor an HTTP date is ignored.
pub(crate) fn read(value: &HeaderValue, now: OffsetDateTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let wait = date.duration_since(SystemTime::from(now));
    Some(wait.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(1994-11-06 08:49:00 UTC);

    #[rstest]
    #[case::seconds("120", Some(120))]
    #[case::none_at_all("0", Some(0))]
    #[case::spaces(" 7 ", Some(7))]
    #[case::date("Sun, 06 Nov 1994 08:49:37 GMT", Some(37))]
    #[case::obsolete_date("Sunday, 06-Nov-94 08:49:37 GMT", Some(37))]
    #[case::date_that_has_passed("Sun, 06 Nov 1994 08:48:37 GMT", Some(0))]
    #[case::empty("", None)]
    #[case::negative("-5", None)]
    #[case::fraction("1.5", None)]
    #[case::beyond_all_numbers("99999999999999999999", None)]
    #[case::words("soon", None)]
    fn each_form_is_read(#[case] text: &'static str, #[case] seconds: Option<u64>) {
        let read = read(&HeaderValue::from_static(text), NOW);
        assert_eq!(read, seconds.map(Duration::from_secs));
    }

    proptest! {
        #[test]
        fn no_value_causes_a_panic(bytes: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = read(&value, NOW);
            }
        }
    }
}
