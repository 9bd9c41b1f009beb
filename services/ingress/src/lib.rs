//! The HTTP API: channels, messages in, answers in.
