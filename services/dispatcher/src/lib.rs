//! Takes outbound messages and posts them to their channel's endpoint.
