//! Calls without a key, where none is required.

use super::*;

const OTHER_HOST: &[(&str, &str)] = &[("host", "evil.example:8000")];
const OTHER_ORIGIN: &[(&str, &str)] = &[("host", "localhost"), ("origin", "http://evil.example")];
const OTHER_SITE: &[(&str, &str)] = &[("host", "localhost"), ("sec-fetch-site", "cross-site")];

/// A web page's request without a preflight, or under a name that resolves to this machine.
#[rstest]
#[case(OTHER_HOST)]
#[case(OTHER_ORIGIN)]
#[case(OTHER_SITE)]
#[tokio::test]
async fn in_development_a_web_page_makes_no_call(#[case] headers: &[(&str, &str)]) {
    let bench = Bench::new().await;
    // The documents are the same for everybody and reveal nothing. A web page cannot sign.
    let mut paths: Vec<_> = calls()
        .into_iter()
        .filter(|(.., access)| !matches!(access, Access::SignedOr(_)))
        .filter(|(_, path, _)| !matches!(*path, "/docs" | "/docs/{file}" | "/openapi.json"))
        .map(|(method, path, _)| (method, filled(path)))
        .collect();
    paths.push((Method::GET, "/dev/beside".to_owned()));
    paths.push((Method::GET, "/nothing/here".to_owned()));
    for (method, path) in paths {
        let answer = bench.request(method.clone(), &path, headers, "{}").await;
        assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text);
        let kind = &answer.json()["type"];
        assert_eq!(kind, "urn:roundtrip:problem:not-this-machine");
    }
    assert_eq!(bench.broker.taken(), [""; 0]);
}

/// A web page has no key, so a call with a key passes. Where keys are required, only they count.
#[rstest]
#[case(OTHER_HOST)]
#[case(OTHER_ORIGIN)]
#[case(OTHER_SITE)]
#[tokio::test]
async fn with_a_key_a_request_may_come_from_any_site(#[case] headers: &[(&str, &str)]) {
    for bench in [Bench::new().await, Bench::in_production().await] {
        let (_, viewer) = keep(&bench, new_key(KeyRole::Viewer)).await;
        let headers = [headers, &[("authorization", &*viewer)]].concat();
        let answer = bench.request(Method::GET, "/channel/c", &headers, "").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    let production = Bench::in_production().await;
    let answer = r#"{"session_id":"s","response_data":1}"#;
    let taken = production.post("/webhook-response", headers, answer).await;
    assert_eq!(taken.status, 202, "{}", taken.text);
}

#[tokio::test]
async fn a_development_route_refuses_a_wrong_key() {
    let bench = Bench::new().await;
    assert_eq!(get(&bench, "/dev/beside", "Bearer wrong").await.status, 401);
    let plain = bench.request(Method::GET, "/dev/beside", &[], "").await;
    assert_eq!((plain.status, &*plain.text), (200, "beside"));
}
