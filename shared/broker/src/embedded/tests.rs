//! What the contract cannot see: the file, the disk, the clock.
