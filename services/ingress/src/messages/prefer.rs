//! `Prefer: wait=N` (RFC 7240): how long a producer waits for the answer to its message.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header::HeaderName};

use crate::problem::Problem;

pub(crate) const PREFER: HeaderName = HeaderName::from_static("prefer");
pub(crate) const APPLIED: HeaderName = HeaderName::from_static("preference-applied");

const WAIT: &str = "wait";

/// The time that the request prefers to wait, at most `longest`. `None` if it does not wait. Other
/// preferences are ignored, and of several times the first one counts.
pub(crate) fn wait(headers: &HeaderMap, longest: Duration) -> Result<Option<Duration>, Problem> {
    for field in headers.get_all(PREFER) {
        // A field that is not ASCII has no wait.
        for preference in field.to_str().unwrap_or_default().split(',') {
            if let Some(value) = value_of_wait(preference) {
                let seconds = seconds(value)
                    .ok_or_else(|| Problem::invalid_field(PREFER.as_str(), NO_SECONDS))?;
                let wait = Duration::from_secs(seconds).min(longest);
                return Ok(Some(wait).filter(|wait| !wait.is_zero()));
            }
        }
    }
    Ok(None)
}

/// `Preference-Applied: wait`
pub(crate) const fn applied() -> (HeaderName, HeaderValue) {
    (APPLIED, HeaderValue::from_static(WAIT))
}

pub(crate) const NO_SECONDS: &str = "wait must be a whole number of seconds, such as wait=10";

/// A whole number of seconds. One that does not fit is as long as possible.
fn seconds(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// The time that a query parameter `wait` asks for.
pub(crate) fn wait_parameter(text: &str) -> Result<Duration, Problem> {
    let seconds = seconds(text).ok_or_else(|| {
        Problem::invalid_field("wait", "must be a whole number of seconds, such as 10")
    })?;
    Ok(Duration::from_secs(seconds))
}

/// The value of the preference `wait`, empty if it has none. `None` for another preference.
fn value_of_wait(preference: &str) -> Option<&str> {
    // Parameters follow a semicolon, and `wait` has none.
    let preference = preference.split(';').next()?;
    let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
    let is_wait = name.trim().eq_ignore_ascii_case(WAIT);
    is_wait.then(|| {
        let value = value.trim();
        let unquoted = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'));
        unquoted.unwrap_or(value)
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const LONGEST: Duration = Duration::from_mins(1);

    fn preferred(fields: &[&str]) -> Result<Option<u64>, Problem> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(PREFER, field.parse().unwrap());
        }
        Ok(wait(&headers, LONGEST)?.map(|wait| wait.as_secs()))
    }

    #[rstest]
    #[case(&[], None)]
    #[case(&["respond-async, return=minimal"], None)]
    #[case(&["waiting=3"], None)]
    #[case(&["wait=0"], None)]
    #[case(&["wait=10"], Some(10))]
    #[case(&["respond-async,  WAIT = \"7\" ; foo=1"], Some(7))]
    #[case(&["return=minimal", "wait=3, wait=4", "wait=5"], Some(3))]
    #[case(&["wait=61"], Some(60))]
    #[case(&["wait=99999999999999999999999"], Some(60))]
    fn the_wait_is_read_as_rfc_7240_defines_it(
        #[case] fields: &[&str],
        #[case] seconds: Option<u64>,
    ) {
        assert_eq!(preferred(fields).ok(), Some(seconds));
    }

    #[rstest]
    #[case("wait")]
    #[case("wait=")]
    #[case("wait=-1")]
    #[case("wait=+1")]
    #[case("wait=1.5")]
    #[case("wait=1s")]
    fn a_wait_that_is_no_number_of_seconds_is_refused(#[case] field: &str) {
        let problem = preferred(&[field]).unwrap_err();
        assert_eq!(problem.status(), 422);
    }
}
