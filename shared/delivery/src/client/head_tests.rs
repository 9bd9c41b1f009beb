//! Answers' heads from proxies, firewalls and hostile servers. The status line is the answer, and
//! everything before and after it is bounded.

use rstest::rstest;

use super::{
    tests::{ENOUGH, LIMIT, SHORT, Server, Then, answered, assert_broken, post, webhook},
    *,
};

fn lines(count: usize) -> Vec<u8> {
    let lines: Vec<String> = (0..count).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let lines = lines.concat();
    format!("HTTP/1.1 200 OK\r\n{lines}content-length: 2\r\n\r\nok").into_bytes()
}

fn with(line: &[u8]) -> Vec<u8> {
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n".as_slice(),
        line,
        b"\r\n\r\nok",
    ]
    .concat()
}

/// The whole answer is read, as curl and browsers do.
#[rstest]
#[case::many_lines(lines(150))]
#[case::a_folded_policy(with(b"content-security-policy: default-src 'self';\r\n  img-src *"))]
#[case::a_line_folded_with_a_tab(with(b"x: a\r\n\tb"))]
#[case::a_blank_before_the_colon(with(b"x-cache : HIT"))]
#[case::a_control_byte(with(b"x-trace: a\x01b"))]
#[case::latin_1(with(b"x-server: caf\xe9"))]
#[case::no_colon(with(b"this is no header"))]
#[case::no_name(with(b": nothing"))]
#[case::a_name_with_a_blank(with(b"x forwarded: 1"))]
#[case::a_name_beyond_ascii(with("x-gr\u{fc}n: 1".as_bytes()))]
#[case::a_long_line(with(format!("set-cookie: {}", "c".repeat(100_000)).as_bytes()))]
#[case::bare_line_feeds(b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok".to_vec())]
#[case::an_empty_line_first(b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec())]
#[case::no_reason(b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok".to_vec())]
#[case::a_reason_in_utf_8("HTTP/1.1 200 \u{dc}bernommen\r\ncontent-length: 2\r\n\r\nok".into())]
#[case::http_1_0(b"HTTP/1.0 200 OK\r\n\r\nok".to_vec())]
#[case::interim_first(
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        .to_vec()
)]
#[tokio::test]
async fn a_head_that_browsers_accept_is_read_whole(#[case] answer: Vec<u8>) {
    let server = Server::start(Then::Last(answer)).await;
    assert_eq!(
        post(&webhook(ENOUGH), &server.url).await,
        answered(200, "ok")
    );
}

/// Only the status is read.
#[rstest]
#[case::very_many_lines(lines(5_000))]
#[case::more_bytes_than_a_head_may_have(lines(40_000))]
#[case::a_nul(with(b"x-trace: a\0b"))]
#[case::a_length_that_is_no_number(with(b"content-length: many"))]
#[case::a_negative_length(with(b"content-length: -1"))]
#[case::two_lengths(with(b"content-length: 3"))]
#[case::an_unknown_transfer_coding(b"HTTP/1.1 200 OK\r\ntransfer-encoding: x\r\n\r\nok".to_vec())]
#[case::blanks_in_the_status_line(b"HTTP/1.1   200  OK\r\ncontent-length: 2\r\n\r\nok".to_vec())]
#[case::lower_case(b"http/1.1 200 ok\r\ncontent-length: 2\r\n\r\nok".to_vec())]
#[case::another_version(b"HTTP/2 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec())]
#[case::a_control_byte_in_the_reason(b"HTTP/1.1 200 O\x01K\r\ncontent-length: 2\r\n\r\nok".to_vec())]
#[case::cut_after_the_status_line(b"HTTP/1.1 200 OK\r\n".to_vec())]
#[case::cut_within_a_header(b"HTTP/1.1 200 OK\r\ncontent-le".to_vec())]
#[tokio::test]
async fn a_status_line_is_the_answer_whatever_follows(#[case] answer: Vec<u8>) {
    let server = Server::start(Then::Last(answer)).await;
    let outcome = post(&webhook(ENOUGH), &server.url).await;
    assert!(
        matches!(outcome, Outcome::Responded { status: 200, .. }),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_head_that_stalls_leaves_the_status_as_the_answer() {
    let server = Server::start(Then::Stall(b"HTTP/1.1 503 Busy\r\nx: ".to_vec())).await;
    assert_eq!(post(&webhook(SHORT), &server.url).await, answered(503, ""));
}

#[rstest]
#[case::nothing(b"")]
#[case::not_http(b"220 mail.example.org ESMTP\r\n")]
#[case::no_status(b"HTTP/1.1 OK\r\n\r\n")]
#[case::half_a_status(b"HTTP/1.1 20")]
#[case::interim_alone(b"HTTP/1.1 100 Continue\r\n\r\n")]
#[tokio::test]
async fn what_has_no_final_status_is_no_answer(#[case] answer: &'static [u8]) {
    let server = Server::start(Then::Last(answer.to_vec())).await;
    let outcome = post(&webhook(ENOUGH), &server.url).await;
    assert_broken(&outcome);
}

/// An exchange's status never answers the next exchange on its connection.
#[tokio::test]
async fn a_kept_connection_that_answers_garbage_is_not_answered_by_what_came_before() {
    let first = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let server = Server::start(Then::AnswerOnce(
        first.to_vec(),
        b"garbage\r\n\r\n".to_vec(),
    ))
    .await;
    let webhook = webhook(ENOUGH);
    assert_eq!(post(&webhook, &server.url).await, answered(200, ""));
    let outcome = post(&webhook, &server.url).await;
    assert_broken(&outcome);
}

#[tokio::test]
async fn retry_after_is_read_from_a_head_with_damaged_lines() {
    let answer = "HTTP/1.1 503 Busy\r\nx : 1\r\nno header\r\ny: a\r\n b\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n";
    let server = Server::answering(answer).await;
    let Outcome::Responded { retry_after, .. } = post(&webhook(ENOUGH), &server.url).await else {
        panic!("answered")
    };
    assert_eq!(retry_after, Some(Duration::from_secs(7)));
}

/// What a server may have written before it notices that its connection ended: the buffers of both
/// sockets.
const BUFFERS: usize = 16 * 1024 * 1024;

#[rstest]
#[case::without_headers(b"HTTP/1.1 100 Continue\r\n\r\n")]
#[case::with_headers(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n")]
#[case::processing(b"HTTP/1.1 102 Processing\r\n\r\n")]
#[tokio::test]
async fn interim_responses_without_an_end_are_a_failed_exchange(#[case] interim: &'static [u8]) {
    let server = Server::start(Then::Endless(Vec::new(), interim.to_vec())).await;
    let outcome = post(&webhook(LIMIT), &server.url).await;
    let Outcome::Failed(Failure::Connection(problem)) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(problem.contains("interim responses"), "{problem}");
    assert!(server.written() < BUFFERS);
}

#[tokio::test]
async fn an_answer_after_too_many_interim_responses_is_no_answer() {
    let mut answer = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
    answer.extend(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let server = Server::start(Then::Last(answer)).await;
    let outcome = post(&webhook(ENOUGH), &server.url).await;
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
}

#[rstest]
#[case::of_an_answer(b"HTTP/1.1 200 OK\r\n", Some(200))]
#[case::of_an_interim_response(b"HTTP/1.1 103 Early Hints\r\n", None)]
#[tokio::test]
async fn a_head_without_an_end_is_cut(#[case] begin: &[u8], #[case] status: Option<u16>) {
    let server = Server::start(Then::Endless(begin.to_vec(), b"x: yyyyyyyy\r\n".to_vec())).await;
    let outcome = post(&webhook(LIMIT), &server.url).await;
    match status {
        Some(status) => assert_eq!(outcome, answered(status, "")),
        None => assert_broken(&outcome),
    }
    assert!(server.written() < BUFFERS);
}
