//! A refused request: the problem document of the gateway (RFC 9457) in plain words.

use std::{fmt, time::Duration};

use serde::Deserialize;

use crate::safe_text::safe;

/// The end of the `type` of the one 503 that may have had an effect.
const UNCONFIRMED: &str = ":broker-unconfirmed";

#[derive(Debug, Deserialize)]
pub(crate) struct Problem {
    #[serde(rename = "type", default)]
    kind: String,
    title: String,
    pub(crate) status: u16,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    errors: Vec<FieldProblem>,
    #[serde(default)]
    request_id: Option<String>,
    #[serde(skip)]
    pub(crate) retry_after: Option<Duration>,
}

#[derive(Debug, Deserialize)]
struct FieldProblem {
    field: String,
    detail: String,
}

impl Problem {
    /// The problem of a response with this status. Another server on the way may have made it.
    pub(crate) fn of(status: u16, reason: &str, body: &str, request_id: Option<String>) -> Self {
        let mut problem = serde_json::from_str(body).unwrap_or_else(|_not_ours| Self {
            kind: String::new(),
            title: format!("The response is {status} {reason}"),
            status,
            detail: "it is not a problem document of Roundtrip; does the URL lead to its API?"
                .to_owned(),
            errors: Vec::new(),
            request_id: None,
            retry_after: None,
        });
        problem.status = status;
        problem.request_id = problem.request_id.or(request_id);
        problem
    }

    pub(crate) const fn is_temporary(&self) -> bool {
        matches!(self.status, 429 | 500..)
    }

    pub(crate) fn is_without_effect(&self) -> bool {
        match self.status {
            503 => self.kind.starts_with("urn:") && !self.kind.ends_with(UNCONFIRMED),
            status => status < 500,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&safe(&self.title))?;
        // With field errors the detail is their list.
        if self.errors.is_empty() && !self.detail.is_empty() {
            write!(f, ": {}", safe(&self.detail))?;
        }
        write!(f, " ({}", self.status)?;
        if let Some(id) = &self.request_id {
            write!(f, ", request {}", safe(id))?;
        }
        f.write_str(")")?;
        for error in &self.errors {
            write!(f, "\n  {}: {}", safe(&error.field), safe(&error.detail))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_with_its_fields_and_its_request() {
        let body = r#"{"type": "urn:roundtrip:problem:invalid-field", "title": "A field is invalid",
            "status": 422, "detail": "a: b", "request_id": "r1",
            "errors": [{"field": "channel_tags[0]", "detail": "must be at most 128 characters"}]}"#;
        let problem = Problem::of(422, "Unprocessable Entity", body, Some("other".to_owned()));
        assert_eq!(
            problem.to_string(),
            "A field is invalid (422, request r1)\n  channel_tags[0]: must be at most 128 characters"
        );
        assert!(problem.is_without_effect() && !problem.is_temporary());
    }

    #[test]
    fn another_servers_page_is_named_and_not_shown() {
        let page = "<html>\u{1b}[2J</html>";
        let problem = Problem::of(502, "Bad Gateway", page, None);
        let shown = problem.to_string();
        assert!(
            shown.starts_with("The response is 502 Bad Gateway: it is not"),
            "{shown}"
        );
        assert!(!shown.contains('\u{1b}') && problem.is_temporary());
        assert!(!problem.is_without_effect());
    }

    #[test]
    fn only_an_unconfirmed_503_may_have_had_an_effect() {
        for (kind, is_without) in [("broker-unavailable", true), ("broker-unconfirmed", false)] {
            let body = format!(
                r#"{{"type": "urn:roundtrip:problem:{kind}", "title": "t", "status": 503}}"#
            );
            let problem = Problem::of(503, "", &body, None);
            assert_eq!(problem.is_without_effect(), is_without, "{kind}");
        }
    }
}
