//! One POST to somebody else's server, every byte of it under one time limit.
