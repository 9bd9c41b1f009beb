//! The table of the problems: status, `type`, title, and the detail where it is always the same.
//!
//! Invariant: the OpenAPI document lists exactly these types. A test beside it checks this.

macro_rules! kinds {
    ($($kind:ident: $status:literal, $name:literal, $title:literal $(, $detail:literal)?;)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Kind {
            $($kind,)+
        }

        impl Kind {
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$kind,)+];

            const fn row(self) -> (u16, &'static str, &'static str, &'static str) {
                match self {
                    $(Self::$kind => ($status, $name, $title, concat!("" $(, $detail)?)),)+
                }
            }
        }
    };
}

kinds! {
    MalformedJson: 400, "malformed-json", "The body is not JSON";
    BadRequest: 400, "bad-request", "The request cannot be read";
    NoValidKey: 401, "no-valid-key", "A valid API key is needed",
        "send one with the header 'Authorization: Bearer rt_…'";
    AnswerRefused: 401, "answer-refused", "The answer is not accepted",
        "post it to the 'response_url' of the delivery, with the delivery's session_id, before its token \
         expires";
    InboundRefused: 401, "inbound-refused", "The inbound message is not accepted",
        "sign it with the channel's secret as Standard Webhooks describes, with a 'webhook-timestamp' of the last \
         5 minutes, or send an API key with the role channel";
    NotThisMachine: 403, "not-this-machine", "Without an API key only programs on this machine may call this",
        "in development a request without an API key needs a 'Host' that is localhost, a loopback address \
         or the host of 'public_url'; an 'Origin' must be one too, and 'Sec-Fetch-Site' must not be \
         cross-site; send an API key, or set 'public_url'";
    RoleNotAllowed: 403, "role-not-allowed", "The key's role does not allow this";
    ChannelNotAllowed: 403, "channel-not-allowed", "The key is limited to other channels";
    WiderKey: 403, "wider-key", "A key cannot create a key with more rights";
    UnknownPath: 404, "unknown-path", "Not found", "the gateway has no such path";
    UnknownKey: 404, "unknown-key", "The API key does not exist";
    UnknownChannel: 404, "unknown-channel", "The channel does not exist";
    UnknownMessage: 404, "unknown-message", "The message does not exist";
    UnknownReplay: 404, "unknown-replay", "The replay does not exist";
    UnknownIds: 404, "unknown-ids", "None of the ids exists",
        "nothing with one of the 'ids' matches the other fields; a new message or dead letter is listed \
         after a moment";
    MethodNotAllowed: 405, "method-not-allowed", "The method is not allowed",
        "the 'Allow' header lists the methods of this path";
    BodyTimeout: 408, "body-timeout", "The body did not arrive in time",
        "send the whole body without pausing";
    ChannelExists: 409, "channel-exists", "The channel exists";
    IdempotencyKeyInUse: 409, "idempotency-key-in-use", "A request with this idempotency key is under way",
        "the first request has not ended, or its result is unknown; try again in a moment; the message \
         keeps its id";
    WebhookIdReused: 409, "webhook-id-reused", "The webhook-id was used before";
    NotWaiting: 409, "not-waiting", "The message does not wait in the store";
    TooManyAnswers: 409, "too-many-answers", "The delivery has the maximum number of answers";
    TooManyKeys: 409, "too-many-keys", "There are too many API keys",
        "the maximum number of keys is active; revoke some";
    TooManyKeysMade: 409, "too-many-keys-made", "Too many API keys were created under this key";
    TooManySecrets: 409, "too-many-secrets", "The maximum number of secrets is active";
    ContentsErased: 410, "contents-erased", "The contents were erased",
        "nothing with the 'ids' can be replayed: the contents of each were erased, with its session or \
         because of its age";
    ChannelChanged: 412, "channel-changed", "The channel has changed";
    BodyTooLarge: 413, "body-too-large", "The body is too large";
    MessageTooLarge: 413, "message-too-large", "The message is too large for the broker",
        "nothing was enqueued; the broker accepts no message of this size";
    UriTooLong: 414, "uri-too-long", "The URL is too long";
    UnsupportedMediaType: 415, "unsupported-media-type", "The body's media type is not supported",
        "send JSON, with the header 'Content-Type: application/json'";
    InvalidField: 422, "invalid-field", "A field is missing or invalid";
    IdempotencyKeyReused: 422, "idempotency-key-reused", "The idempotency key was used before";
    QueryTooCostly: 422, "query-too-costly", "The query needs too much work",
        "it was cancelled; use a narrower filter";
    RateLimited: 429, "rate-limited", "Too many requests with this key",
        "the header 'Retry-After' says when to try again";
    AnswersRateLimited: 429, "answers-rate-limited", "Too many answers from this channel",
        "the header 'Retry-After' says when to post it again";
    TooManyReplays: 429, "too-many-replays", "Too many replays of this key are running";
    TooManyQueries: 429, "too-many-queries", "Too many queries with this key are running",
        "read their responses, then try again";
    HeadersTooLarge: 431, "headers-too-large", "The headers are too large";
    Internal: 500, "internal", "The gateway failed",
        "this is a defect of the gateway; its log has the cause";
    UnreadableChannel: 500, "unreadable-channel", "The stored channel cannot be read";
    BrokerUnavailable: 503, "broker-unavailable", "The broker is unavailable", "nothing was enqueued";
    BrokerRefuses: 503, "broker-refuses", "The broker refuses messages at the moment",
        "nothing was enqueued";
    BrokerUnconfirmed: 503, "broker-unconfirmed", "The broker did not confirm in time",
        "the message may have been enqueued; sending it again may duplicate it";
    StoreUnavailable: 503, "store-unavailable", "The store is unavailable", "try again in a moment";
    Overloaded: 503, "overloaded", "The gateway is overloaded",
        "too many requests, or too many bytes of them, at once";
    TooManyWaiters: 503, "too-many-waiters", "Too many requests wait for an answer",
        "nothing was enqueued; send the request without 'Prefer: wait' or '?wait', or try again in a moment";
    TooManyFollowers: 503, "too-many-followers", "Too many clients follow sessions",
        "try again in a moment, or read the events that are stored with '?wait=0'";
    SecretsChanging: 503, "secrets-changing", "The channel's secrets are being changed",
        "another request is rotating them; try again";
    QueriesOverloaded: 503, "queries-overloaded", "Too many queries of all keys are running",
        "try again in a moment";
}

impl Kind {
    pub(crate) const fn status(self) -> u16 {
        self.row().0
    }

    pub(crate) fn urn(self) -> String {
        format!("urn:roundtrip:problem:{}", self.row().1)
    }

    pub(super) const fn title(self) -> &'static str {
        self.row().2
    }

    pub(super) const fn detail(self) -> &'static str {
        self.row().3
    }
}
