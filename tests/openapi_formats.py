"""Generators of valid values for the formats in the OpenAPI document.

Loaded by tests/openapi. A format is stricter than a pattern: without these generators, most data that
schemathesis considers valid would be refused.
"""

import base64
import datetime
import itertools
import json

import schemathesis
from hypothesis import strategies as st

# Reserved names, so that no connection can succeed.
hosts = st.sampled_from(["channel.example", "a.b.c.example", "Kanäle.example", "xn--kanle-hra.example"])
ports = st.sampled_from(["", ":80", ":443", ":8443", ":65535"])
paths = st.lists(st.text("abcXYZ019-._~%20ä ", max_size=8), max_size=4).map("/".join)
urls = st.builds("{}://{}{}/{}".format, st.sampled_from(["http", "https", "HTTP"]), hosts, ports, paths)
schemathesis.openapi.format("http-url", urls)

durations = st.one_of(
    st.integers(100, 60_000).map("{}ms".format),
    st.integers(1, 300).map("{}s".format),
    st.integers(1, 5).map("{}m".format),
    st.just("1m 30s"),
)
schemathesis.openapi.format("duration-text", durations)
# Of a setting that is a second at the least.
schemathesis.openapi.format("duration-text-from-1s", st.sampled_from(["1s", "1500ms", "1m 30s", "7days"]))

atoms = st.sampled_from(["a", "slack", ".", r"\d", r"\.", "[a-z]", "[^0-9_]", "(x|yz)", "(?:é)", "ä"])
counts = st.sampled_from(["", "", "*", "+?", "?", "{2}", "{1,3}"])
parts = st.lists(st.builds(str.__add__, atoms, counts), min_size=1, max_size=6).map("".join)
regexes = st.builds("{}{}{}".format, st.sampled_from(["", "^"]), parts, st.sampled_from(["", "$"]))
schemathesis.openapi.format("linear-regex", regexes)


@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    if not isinstance(value, list):
        return json.dumps(value).encode()
    return b"\n".join(json.dumps(line).encode() for line in value)


def cursor(sort):
    """A cursor of POST /channels, which is good for one order only."""
    order = [int(sort.endswith("name")), int(sort.startswith("-"))]
    text = json.dumps({"order": order, "value": "m", "channel_id": "m"})
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def without_lone_options(value):
    """A filter without any `$options` that has no `$regex` beside it."""
    if isinstance(value, list):
        return [without_lone_options(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: without_lone_options(one)
        for name, one in value.items()
        if name != "$options" or "$regex" in value
    }


def without_long_integers(value):
    """A channel or a filter without integers beyond 64 bits: to a schema they are doubles."""
    if isinstance(value, list):
        return [without_long_integers(one) for one in value]
    if isinstance(value, dict):
        return {name: without_long_integers(one) for name, one in value.items()}
    is_long = type(value) is int and not -(2**63) <= value < 2**63
    return 0 if is_long else value


def with_near_times(message):
    """A message that goes now and expires tomorrow, if it has times."""
    if isinstance(message, dict) and message.get("deliver_at"):
        # A past leap year, because the day may be 29 February.
        message["deliver_at"] = "2024" + message["deliver_at"][4:]
    if isinstance(message, dict) and message.get("expires_at"):
        tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
        message["expires_at"] = tomorrow.isoformat()


calls = itertools.count()


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """What no schema can say of good data: how one part of a request depends on another."""
    if not case.meta or not case.meta.generation.mode.is_positive:
        return
    if case.headers and "Idempotency-Key" in case.headers:
        # An idempotency key used again for another message would be refused.
        key = f"{next(calls)}-{case.headers['Idempotency-Key']}"
        case.headers["Idempotency-Key"] = key[:255].strip()
    if case.query and "cursor" in case.query and case.operation.path == "/channels":
        case.query["cursor"] = cursor(case.query.get("sort", "channel_id"))
    if case.operation.path == "/channels":
        case.body = without_lone_options(case.body)
    if case.operation.path in ("/channel", "/channel/{channel_id}", "/channels"):
        case.body = without_long_integers(case.body)
    if case.method == "PUT" and isinstance(case.body, dict) and case.body.get("channel_id"):
        case.body["channel_id"] = case.path_parameters["channel_id"]
    if case.operation.path == "/channel/message":
        with_near_times(case.body)
    if case.operation.path == "/channel/messages":
        for message in case.body if isinstance(case.body, list) else []:
            with_near_times(message)
    if case.operation.path == "/api-keys" and isinstance(case.body, dict) and case.body.get("expires_at"):
        # In the near future; a leap year, because the day may be 29 February.
        case.body["expires_at"] = "2096" + case.body["expires_at"][4:]
