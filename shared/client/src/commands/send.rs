//! `roundtrip send`

use std::{path::Path, time::Duration};

use reqwest::header::HeaderName;
use serde::Serialize;
use serde_json::{Value, value::RawValue};

use super::batch::{self, IDEMPOTENCY_KEY};
use crate::{
    api::{Api, Call},
    arguments::SendArguments,
    failure::Failure,
    input,
    screen::{Screen, pairs},
};

const PREFER: HeaderName = HeaderName::from_static("prefer");

const JSON: &str = "application/json";
const ACCEPTED: u16 = 202;

#[derive(Serialize)]
struct Body<'a> {
    channel_id: &'a str,
    session_id: &'a str,
    message: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_within: Option<String>,
}

pub(crate) async fn run(
    api: &Api,
    screen: Screen,
    arguments: SendArguments,
) -> Result<(), Failure> {
    if let Some(file) = &arguments.batch {
        let key = arguments.idempotency_key.as_deref();
        return batch::send(api, screen, file, key).await;
    }
    let text = arguments.message.unwrap_or_default();
    let text = if text == input::STDIN {
        input::read(Path::new(input::STDIN))?
    } else {
        text
    };
    let body = Body {
        channel_id: &arguments.channel_id.unwrap_or_default(),
        session_id: &arguments.session.unwrap_or_default(),
        message: message(text, arguments.json)?,
        response_url: arguments.response_url,
        deliver_at: arguments.deliver_at,
        expires_at: arguments.expires_at,
        answer_within: arguments.answer_within,
    };
    let body = serde_json::to_string(&body).map_err(|error| Failure::Failed(error.to_string()))?;
    let mut call = Call::post(&["channel", "message"]).body(JSON, body);
    if let Some(key) = arguments.idempotency_key {
        call = call.header(IDEMPOTENCY_KEY, key);
    }
    if let Some(seconds) = arguments.wait {
        let wait = Duration::from_secs(seconds.into());
        call = call.header(PREFER, format!("wait={seconds}")).waits(wait);
    }
    let reply = api.call(call).await?;
    let sent = reply.value()?;
    let answer = &sent["answer"];
    let truncated = answer.get("truncated_response_data");
    let answer = answer.get("response_data").or(truncated);
    screen.show(&reply.body, || {
        Ok(pairs([
            ("message_id", &sent["message_id"]),
            ("status", &sent["status"]),
            ("answer", answer.unwrap_or(&Value::Null)),
        ]))
    })?;
    match arguments.wait {
        Some(seconds) if reply.status == ACCEPTED => Err(Failure::Unanswered(format!(
            "no answer came within {seconds} s; the message is on its way"
        ))),
        _ => Ok(()),
    }
}

/// The message as JSON: a text in quotes, or the JSON as it is.
fn message(text: String, is_json: bool) -> Result<Box<RawValue>, Failure> {
    if is_json {
        return RawValue::from_string(text)
            .map_err(|error| Failure::Usage(format!("the message is no JSON: {error}")));
    }
    serde_json::value::to_raw_value(&text).map_err(|error| Failure::Failed(error.to_string()))
}
