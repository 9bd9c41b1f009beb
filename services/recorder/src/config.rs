//! The recorder's section of the configuration.

roundtrip_model::section! {
    #[derive(Debug, Eq)]
    pub struct Config {
        /// The most batches of journal entries held at once, to be written together. Each holds 1 to
        /// 500 entries.
        batches_at_once: u16 = 64, in 1..;
        /// The most dead letters of each queue that are written at once.
        dead_letters_at_once: u16 = 32, in 1..;
        /// The most waiting messages that are held at once, to be written together.
        waiting_messages_at_once: u16 = 1000, in 1..;
        /// More ready messages in a queue than this are logged, and noticed if notices are on.
        high_backlog: u64 = 100_000, in 1..;
    }
}
