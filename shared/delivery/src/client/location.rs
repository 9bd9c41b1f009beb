//! The `Location` header of a redirect, for display.
//!
//! Invariant: the displayed text is one line of at most [`LOCATION_BYTES`]. It excludes password,
//! query and fragment, which may be secrets.

use hyper::header::HeaderValue;
use url::Url;

use super::response_body::one_line;

const LOCATION_BYTES: usize = 256;

pub(crate) fn read(value: &HeaderValue, base: &Url) -> Option<String> {
    let text = String::from_utf8_lossy(value.as_bytes());
    let target = base.join(&text).ok()?;
    let origin = target.origin();
    if !origin.is_tuple() {
        return None;
    }
    let shown = format!("{}{}", origin.ascii_serialization(), target.path());
    Some(one_line(&shown, LOCATION_BYTES))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn base() -> Url {
        "http://hooks.example.org:8080/in/a?key=1".parse().unwrap()
    }

    #[rstest]
    #[case::whole("https://hooks.example.org/in", Some("https://hooks.example.org/in"))]
    #[case::port("http://h.example:81/in", Some("http://h.example:81/in"))]
    #[case::path("/login", Some("http://hooks.example.org:8080/login"))]
    #[case::relative("b", Some("http://hooks.example.org:8080/in/b"))]
    #[case::no_scheme("//h.example/in", Some("http://h.example/in"))]
    #[case::secrets(
        "https://user:secret@h.example/in?t=secret#secret",
        Some("https://h.example/in")
    )]
    #[case::empty("", Some("http://hooks.example.org:8080/in/a"))]
    #[case::not_http("mailto:a@h.example", None)]
    #[case::damaged("http://[", None)]
    fn a_location_is_shown_without_its_secrets(
        #[case] value: &'static str,
        #[case] shown: Option<&str>,
    ) {
        let read = read(&HeaderValue::from_static(value), &base());
        assert_eq!(read.as_deref(), shown);
    }

    proptest! {
        #[test]
        fn no_value_makes_it_long_or_panic(bytes: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes.repeat(20)) {
                let shown = read(&value, &base()).unwrap_or_default();
                prop_assert!(shown.len() <= LOCATION_BYTES);
                prop_assert!(!shown.contains(char::is_control));
            }
        }
    }
}
