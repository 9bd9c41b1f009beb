//! Lookups at the test's own nameserver.

use std::net::Ipv4Addr;

use hickory_resolver::proto::{
    op::Message,
    rr::{RData, Record, RecordType, rdata::A},
};
use tokio::net::UdpSocket;

use super::*;
use crate::{Config, Loopback};

/// Longer than a question.
const MAX_QUESTION: usize = 1500;

/// The address of every name.
const THERE: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);

fn resolver(nameserver: SocketAddr) -> Resolver {
    let config = Config {
        nameservers: vec![nameserver],
        ..Config::default()
    };
    let egress = crate::Egress::new(&config, Loopback::Refused).unwrap();
    egress.resolver().clone()
}

/// Answers one question with this code, and with an address if the question asks for one.
async fn answer(socket: &UdpSocket, code: ResponseCode) {
    let mut bytes = [0; MAX_QUESTION];
    let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
    let question = Message::from_vec(&bytes[..length]).unwrap();
    let query = question.queries[0].clone();
    let mut answer = question.into_response();
    answer.metadata.response_code = code;
    if code == ResponseCode::NoError && query.query_type() == RecordType::A {
        // The TTL is zero, so that no later question is answered from the cache.
        let record = Record::from_rdata(query.name().clone(), 0, RData::A(A(THERE)));
        answer.add_answer(record);
    }
    socket
        .send_to(&answer.to_vec().unwrap(), from)
        .await
        .unwrap();
}

/// The test's runtime has one thread: all lookups start before the first is answered.
#[tokio::test]
async fn concurrent_lookups_of_one_name_share_a_query() {
    const LOOKUPS: usize = 50;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let resolver = resolver(socket.local_addr().unwrap());
    let lookups: Vec<_> = std::iter::repeat_with(|| {
        let resolver = resolver.clone();
        tokio::spawn(async move { resolver.resolve("hooks.example.org").await })
    })
    .take(LOOKUPS)
    .collect();
    // One for IPv4 addresses, one for IPv6 addresses; a third would wait forever.
    answer(&socket, ResponseCode::NoError).await;
    answer(&socket, ResponseCode::NoError).await;
    for lookup in lookups {
        assert_eq!(lookup.await.unwrap().unwrap(), [IpAddr::V4(THERE)]);
    }
}

#[tokio::test]
async fn the_error_of_a_lookup_names_no_server_and_no_other_name() {
    for (code, expected) in [
        (
            ResponseCode::NXDomain,
            "the host's name could not be resolved: Non-Existent Domain",
        ),
        (
            ResponseCode::ServFail,
            "the host's name could not be resolved: Server Failure",
        ),
    ] {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolver = resolver(socket.local_addr().unwrap());
        let answering = async {
            loop {
                answer(&socket, code).await;
            }
        };
        let failed = tokio::select! {
            found = resolver.resolve("hooks.example.org") => found.unwrap_err(),
            () = answering => unreachable!("it answers until it is dropped"),
        };
        assert_eq!(failed.to_string(), expected);
        assert!(std::error::Error::source(&failed).is_none());
    }
}
