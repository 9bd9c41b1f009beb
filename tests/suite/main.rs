//! The suite.

#[macro_use]
mod setups;

mod answer_replays;
mod answers;
mod awaited;
mod bad_input;
mod broker_contract;
mod callbacks;
mod cluster;
mod command_line;
#[path = "../contract/suites.rs"]
mod contract;
mod created_again;
mod documents;
mod egress;
mod erasure;
mod faults;
mod flask_channel;
mod foreign_types;
mod history;
mod inbound;
mod isolation;
mod keys;
mod limits;
mod metrics;
mod mongodb_srv;
mod names;
mod notices;
mod observability;
mod odd_servers;
mod outages;
mod overdue;
mod peers;
mod policies;
mod processes;
mod producers;
mod rabbitmq;
mod rabbitmq_channels;
mod rabbitmq_hosts;
mod rabbitmq_queues;
mod replay_crash;
mod replays;
mod restarts;
mod retries;
mod round_trip;
mod schedule;
mod secrets;
mod seed;
mod session_events;
mod signatures;
mod store_contract;
mod structure;
mod tls;
mod tls_outward;
mod waiting;
