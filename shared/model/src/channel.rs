//! A channel: a separately deployed web server that speaks one platform.
//!
//! Reading is lenient because another client of the database may have written the document: see
//! [`StoredChannel`]. A delivery checks the values it needs when it uses them. Writing through the
//! API is strict: see [`Channel::check`].

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::{ParseError, Url};

pub use crate::field_error::FieldError;
use crate::{ids::ChannelId, settings};

/// The problem with an integer that a double would round.
pub const INEXACT_INTEGER: &str =
    "is an integer outside of -9223372036854775808 to 9223372036854775807; send it as a string";

/// The key of `channel_metadata` that holds the URL for deliveries.
pub const ENDPOINT_URL: &str = "endpoint_url";

pub const MAX_NAME_CHARS: usize = 256;
pub const MAX_DESCRIPTION_CHARS: usize = 4096;
pub const MAX_URL_BYTES: usize = 2048;
pub const MAX_TAGS: usize = 64;
pub const MAX_TAG_CHARS: usize = 128;

/// The five fields of the client's `ChannelStoreObject`, and no other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Channel {
    pub channel_id: ChannelId,
    #[serde(default)]
    pub channel_name: String,
    #[serde(default)]
    pub channel_description: String,
    /// Holds `endpoint_url` and any other keys of the owner.
    #[serde(default)]
    pub channel_metadata: Map<String, Value>,
    #[serde(default)]
    pub channel_tags: Vec<String>,
}

/// A channel as it is stored and shown.
///
/// Another client of the database may have written it, so each field except the id is any JSON. A
/// missing field and a null are empty.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredChannel {
    pub channel_id: ChannelId,
    /// Text, unless another client wrote something else.
    pub channel_name: Value,
    /// Text, unless another client wrote something else.
    pub channel_description: Value,
    /// An object, unless another client wrote something else.
    pub channel_metadata: Value,
    /// A list of texts, unless another client wrote something else.
    pub channel_tags: Value,
}

impl From<Channel> for StoredChannel {
    fn from(channel: Channel) -> Self {
        Self {
            channel_id: channel.channel_id,
            channel_name: channel.channel_name.into(),
            channel_description: channel.channel_description.into(),
            channel_metadata: channel.channel_metadata.into(),
            channel_tags: channel.channel_tags.into(),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelPatch {
    /// An id never changes: the only valid value is the channel's own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_id: Option<ChannelId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_description: Option<String>,
    /// New metadata, which replaces the old. A pause is kept unless the new metadata names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_metadata: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_tags: Option<Vec<String>>,
}

impl Channel {
    pub fn check(&self) -> Vec<FieldError> {
        check(
            Some(&self.channel_name),
            Some(&self.channel_description),
            Some(&self.channel_metadata),
            Some(&self.channel_tags),
        )
    }
}

impl ChannelPatch {
    pub fn check(&self, id: &ChannelId) -> Vec<FieldError> {
        let mut errors = check(
            self.channel_name.as_ref(),
            self.channel_description.as_ref(),
            self.channel_metadata.as_ref(),
            self.channel_tags.as_ref(),
        );
        if self.channel_id.as_ref().is_some_and(|named| named != id) {
            errors.push(FieldError::new(
                "channel_id",
                "cannot be changed; create another channel instead",
            ));
        }
        errors
    }
}

/// Reads the URL for deliveries from a channel's metadata.
///
/// # Errors
///
/// Says what is wrong with `channel_metadata.endpoint_url`. It must be an absolute http(s) URL with
/// a host.
pub fn endpoint(metadata: &Map<String, Value>) -> Result<Url, FieldError> {
    let field = format!("channel_metadata.{ENDPOINT_URL}");
    let text = match metadata.get(ENDPOINT_URL) {
        None | Some(Value::Null) => return Err(FieldError::new(field, "is required")),
        Some(Value::String(text)) => text,
        Some(_) => return Err(FieldError::new(field, "must be a string")),
    };
    http_url(text).map_err(|problem| FieldError::new(field, problem))
}

pub fn http_url(text: &str) -> Result<Url, String> {
    if text.len() > MAX_URL_BYTES {
        return Err(format!("must be at most {MAX_URL_BYTES} bytes"));
    }
    // `Url` removes some control characters, but the text is passed on as it was sent.
    if text.contains(char::is_control) {
        return Err("must not contain control characters".to_owned());
    }
    let url = Url::parse(text).map_err(|error| url_problem(error).to_owned())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must be an http or https URL".to_owned());
    }
    Ok(url)
}

/// What is wrong with a text that is not a URL. The parser's own words name its rules only.
const fn url_problem(error: ParseError) -> &'static str {
    match error {
        ParseError::InvalidPort => "has an invalid port: it must be a number from 0 to 65535",
        ParseError::IdnaError
        | ParseError::InvalidDomainCharacter
        | ParseError::InvalidIpv4Address
        | ParseError::InvalidIpv6Address => "must have a valid host name or address",
        _ => "must be an absolute http or https URL such as https://host.example/path",
    }
}

fn check(
    name: Option<&String>,
    description: Option<&String>,
    metadata: Option<&Map<String, Value>>,
    tags: Option<&Vec<String>>,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut bound = |field: String, text: &str, most: usize| {
        // Counted in characters, as JSON Schema counts the bounds in the OpenAPI document.
        if text.chars().count() > most {
            errors.push(FieldError::new(
                field,
                format!("must be at most {most} characters"),
            ));
        }
    };
    if let Some(name) = name {
        bound("channel_name".to_owned(), name, MAX_NAME_CHARS);
    }
    if let Some(description) = description {
        bound(
            "channel_description".to_owned(),
            description,
            MAX_DESCRIPTION_CHARS,
        );
    }
    for (at, tag) in tags.into_iter().flatten().enumerate() {
        bound(format!("channel_tags[{at}]"), tag, MAX_TAG_CHARS);
    }
    if tags.is_some_and(|tags| tags.len() > MAX_TAGS) {
        errors.push(FieldError::new(
            "channel_tags",
            format!("must be at most {MAX_TAGS} tags"),
        ));
    }
    if let Some(metadata) = metadata {
        errors.extend(endpoint(metadata).err());
        errors.extend(settings::check(metadata));
    }
    errors
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn channel(document: Value) -> Channel {
        serde_json::from_value(document).expect("a channel")
    }

    #[test]
    fn the_seeds_document_is_a_channel() {
        let channel = channel(json!({
            "channel_id": "slack-sim",
            "channel_name": "Slack Simulated Channel",
            "channel_description": "Sends messages to Slack (simulated)",
            "channel_tags": ["slack", "test"],
            "channel_metadata": {"endpoint_url": "http://localhost:5001/incoming"}
        }));
        assert_eq!(channel.check(), []);
        assert_eq!(
            endpoint(&channel.channel_metadata).unwrap().as_str(),
            "http://localhost:5001/incoming"
        );
    }

    #[rstest]
    #[case::missing(json!({}), "is required")]
    #[case::null(json!({"endpoint_url": null}), "is required")]
    #[case::number(json!({"endpoint_url": 5}), "must be a string")]
    #[case::line_feed(json!({"endpoint_url": "http://h/\r\nX: y"}), "must not contain control characters")]
    #[case::relative(json!({"endpoint_url": "/incoming"}), "must be an absolute http or https URL such as https://host.example/path")]
    #[case::other_scheme(json!({"endpoint_url": "ftp://host/x"}), "must be an http or https URL")]
    #[case::no_host(json!({"endpoint_url": "http://"}), "must be an absolute http or https URL such as https://host.example/path")]
    #[case::port(json!({"endpoint_url": "http://h:99999/"}), "has an invalid port: it must be a number from 0 to 65535")]
    #[case::address(json!({"endpoint_url": "http://[::x]/"}), "must have a valid host name or address")]
    #[case::too_long(json!({"endpoint_url": format!("http://h/{}", "x".repeat(MAX_URL_BYTES))}), "must be at most 2048 bytes")]
    fn an_endpoint_that_cannot_be_posted_to_is_named(
        #[case] metadata: Value,
        #[case] problem: &str,
    ) {
        let channel = channel(json!({"channel_id": "c", "channel_metadata": metadata}));
        assert_eq!(
            channel.check(),
            [FieldError::new("channel_metadata.endpoint_url", problem)]
        );
    }

    #[test]
    fn a_patch_cannot_change_the_id() {
        let patch: ChannelPatch = serde_json::from_value(json!({"channel_id": "other"})).unwrap();
        let errors = patch.check(&"c".parse().unwrap());
        assert_eq!(errors[0].field, "channel_id");
    }
}
