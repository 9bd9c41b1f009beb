//! Calls without a key, where none is required: only this machine may make them.
//!
//! Listening on loopback keeps other machines out, but not pages in a browser on this one. A page
//! can send any POST that needs no preflight, and its author can make the page's name resolve to
//! this machine (DNS rebinding). Such a request still shows its target in `Host` and its source in
//! `Origin`. A browser omits `Origin` from a plain GET and sends `Sec-Fetch-Site: cross-site`
//! instead.
//!
//! Invariant: a request passes if it names only this machine or the host under which channels reach
//! the gateway. A header that cannot be parsed is refused.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, HeaderValue, Uri, header, uri::Authority},
    middleware::{Next, from_fn},
    response::IntoResponse,
};
use url::{Host, Url};

use crate::problem::{Kind, Problem};

/// How a browser states a request's source, beside or instead of its `Origin`.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Restricts a router to this machine, as the API does where no key is required. It is for ports
/// beside the API's. `own_url` is the gateway's URL as others reach it.
pub fn for_this_machine(router: Router, own_url: &str) -> Router {
    let near = Arc::new(LoopbackOnly::new(own_url));
    router.layer(from_fn(move |request: Request, next: Next| {
        let allowed = near.allow(request.uri(), request.headers());
        async move {
            match allowed {
                Ok(()) => next.run(request).await,
                Err(problem) => problem.into_response(),
            }
        }
    }))
}

#[derive(Debug)]
pub(crate) struct LoopbackOnly {
    /// The host under which channels reach the gateway.
    own: Option<Host>,
}

impl LoopbackOnly {
    /// `own` is the gateway's URL as others reach it.
    pub(crate) fn new(own: &str) -> Self {
        Self {
            own: host_of_url(own),
        }
    }

    /// Allows a request that names only this machine.
    pub(crate) fn allow(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        // HTTP/2 names the host in the URI, HTTP/1.1 in the header. If both do, both are checked.
        let named = uri.authority().map(host_of);
        let hosts = headers.get_all(header::HOST).iter().map(authority);
        let hosts = hosts.map(|authority| host_of(&authority?));
        let origins = headers.get_all(header::ORIGIN).iter();
        let origins = origins.map(|origin| host_of_url(origin.to_str().ok()?));
        let is_foreign = !headers.contains_key(header::ORIGIN)
            && headers
                .get_all(SEC_FETCH_SITE)
                .iter()
                .any(|site| site == "cross-site");
        let is_addressed = named.is_some() || headers.contains_key(header::HOST);
        let mut hosts = named.into_iter().chain(hosts).chain(origins);
        if is_addressed && !is_foreign && hosts.all(|host| host.is_some_and(|host| self.has(&host)))
        {
            Ok(())
        } else {
            Err(Problem::from(Kind::NotThisMachine))
        }
    }

    fn has(&self, host: &Host) -> bool {
        self.own.as_ref() == Some(host)
            || match host {
                Host::Ipv4(address) => address.is_loopback(),
                Host::Ipv6(address) => address.is_loopback(),
                Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
            }
    }
}

pub(crate) fn authority(value: &HeaderValue) -> Option<Authority> {
    let authority: Authority = value.to_str().ok()?.parse().ok()?;
    // It holds no user name (RFC 9110, 4.2.4).
    (!authority.as_str().contains('@')).then_some(authority)
}

fn host_of(authority: &Authority) -> Option<Host> {
    Host::parse(authority.host()).ok().map(without_last_dot)
}

fn host_of_url(url: &str) -> Option<Host> {
    let url = Url::parse(url).ok()?;
    url.host().map(|host| without_last_dot(host.to_owned()))
}

/// Browsers treat a host with a trailing dot as the same host.
fn without_last_dot(host: Host) -> Host {
    match host {
        Host::Domain(name) => Host::Domain(name.strip_suffix('.').unwrap_or(&name).to_owned()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn is_near(uri: &str, headers: &[(header::HeaderName, &str)]) -> bool {
        let near = LoopbackOnly::new("http://host.docker.internal:8000/webhook-response");
        let headers = headers
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
            .collect();
        near.allow(&uri.parse().unwrap(), &headers).is_ok()
    }

    #[rstest]
    #[case::name("localhost", true)]
    #[case::port("localhost:8000", true)]
    #[case::capitals("LocalHost.", true)]
    #[case::below("echo.localhost:8000", true)]
    #[case::address("127.0.0.1:8000", true)]
    #[case::another("127.8.9.10", true)]
    #[case::ipv6("[::1]:8000", true)]
    #[case::own("host.docker.internal", true)]
    #[case::own_at_another_port("Host.Docker.Internal:9", true)]
    #[case::other("evil.example:8000", false)]
    #[case::begins("localhost.evil.example", false)]
    #[case::ends("evillocalhost", false)]
    #[case::address_in_a_name("127.0.0.1.evil.example", false)]
    #[case::any("0.0.0.0:8000", false)]
    #[case::private("192.168.0.1", false)]
    #[case::user("localhost@evil.example", false)]
    #[case::other_user("evil.example@localhost", false)]
    #[case::path("localhost/evil", false)]
    #[case::nothing("", false)]
    fn a_host_is_this_machine_or_not(#[case] host: &str, #[case] expected: bool) {
        assert_eq!(is_near("/", &[(header::HOST, host)]), expected);
    }

    #[rstest]
    #[case::same("http://localhost:8000", true)]
    #[case::other_port("http://127.0.0.1:3000", true)]
    #[case::tls("https://[::1]", true)]
    #[case::other("https://evil.example", false)]
    #[case::begins("http://localhost.evil.example", false)]
    #[case::nowhere("null", false)]
    #[case::no_url("localhost", false)]
    #[case::nothing("", false)]
    fn an_origin_is_this_machine_or_not(#[case] origin: &str, #[case] expected: bool) {
        let headers = [(header::HOST, "localhost"), (header::ORIGIN, origin)];
        assert_eq!(is_near("/", &headers), expected);
    }

    #[rstest]
    #[case::another_site("cross-site", None, false)]
    #[case::a_page_of_this_machine("cross-site", Some("http://localhost:3000"), true)]
    #[case::another_site_with_its_origin("cross-site", Some("https://evil.example"), false)]
    #[case::typed_by_a_person("none", None, true)]
    #[case::own_page("same-origin", None, true)]
    #[case::own_site("same-site", None, true)]
    fn a_cross_site_request_without_an_origin_is_refused(
        #[case] site: &str,
        #[case] origin: Option<&str>,
        #[case] expected: bool,
    ) {
        let name = header::HeaderName::from_static(SEC_FETCH_SITE);
        let mut headers = vec![(header::HOST, "127.0.0.1:8000"), (name, site)];
        headers.extend(origin.map(|origin| (header::ORIGIN, origin)));
        assert_eq!(is_near("/", &headers), expected);
    }

    #[test]
    fn every_name_of_the_host_counts() {
        assert!(!is_near("/", &[]));
        assert!(is_near("http://localhost/", &[]));
        assert!(!is_near("http://evil.example/", &[]));
        assert!(!is_near(
            "http://evil.example/",
            &[(header::HOST, "localhost")]
        ));
        assert!(!is_near(
            "http://localhost/",
            &[(header::HOST, "evil.example")]
        ));
    }
}
