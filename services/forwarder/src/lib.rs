//! Takes callbacks and relays them to the SESSIONS_SERVER.
