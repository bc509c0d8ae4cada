//! Whose requests are answered. There is no login: that the API listens on a
//! loopback address alone is what keeps others out. A browser on the same
//! machine would carry requests of any page there, so a host name that leads
//! here by a trick of DNS is refused, and so is a change that another page asks for.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::Problem;

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

pub(super) async fn guard(request: Request, next: Next) -> Response {
    match refusal(request.method(), request.headers()) {
        Some((status, detail)) => Problem::new(status, detail).into_response(),
        None => next.run(request).await,
    }
}

/// Why a request is not answered.
fn refusal(method: &Method, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let told = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    let host = told(header::HOST);
    // Programs that send none are no browsers.
    if host.is_some_and(|host| !is_own(host)) {
        let detail =
            "this name is not answered for: ask by `localhost` or an address, and have a proxy send such a `Host`";
        return Some((StatusCode::MISDIRECTED_REQUEST, detail));
    }
    if method.is_safe() {
        return None;
    }
    let is_foreign = told(FETCH_SITE).is_some_and(|site| site != "same-origin")
        || told(header::ORIGIN).is_some_and(|origin| host.is_none_or(|host| !is_of(origin, host)));
    is_foreign.then_some((StatusCode::FORBIDDEN, "another page asked for this; ask from the page of Lifeboat itself"))
}

/// A name that leads to this machine only. An address cannot be made to lead elsewhere.
fn is_own(host: &str) -> bool {
    host.parse::<Authority>().is_ok_and(|authority| {
        let name = authority.host();
        name.eq_ignore_ascii_case("localhost") || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
    })
}

/// Whether a page of this origin came from this host and port.
fn is_of(origin: &str, host: &str) -> bool {
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};

    use super::refusal;

    fn status(method: &Method, headers: &[(&str, &str)]) -> Option<u16> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
            })
            .collect();
        refusal(method, &headers).map(|(status, _)| status.as_u16())
    }

    #[test]
    fn only_names_of_this_machine_are_answered_for() {
        for (host, expected) in [
            ("localhost", None),
            ("LOCALHOST:8080", None),
            ("127.0.0.1:8080", None),
            ("[::1]:8080", None),
            ("[::1]", None),
            ("evil.example", Some(421)),
            ("evil.example:8080", Some(421)),
            ("localhost.evil.example", Some(421)),
            ("127.0.0.1.evil.example", Some(421)),
            ("a b", Some(421)),
            ("", Some(421)),
        ] {
            assert_eq!(status(&Method::GET, &[("host", host)]), expected, "{host}");
            assert_eq!(status(&Method::POST, &[("host", host)]), expected, "{host}");
        }
        assert_eq!(status(&Method::GET, &[]), None);
    }

    #[test]
    fn changes_that_another_page_asks_for_are_refused() {
        for (headers, expected) in [
            (vec![], None),
            (vec![("sec-fetch-site", "same-origin")], None),
            (vec![("origin", "http://127.0.0.1:8080")], None),
            (vec![("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")], None),
            (vec![("sec-fetch-site", "cross-site")], Some(403)),
            (vec![("sec-fetch-site", "same-site")], Some(403)),
            (vec![("sec-fetch-site", "none")], Some(403)),
            (vec![("origin", "null")], Some(403)),
            (vec![("origin", "http://127.0.0.1:8081")], Some(403)),
            (vec![("origin", "http://localhost:8080")], Some(403)),
            (vec![("origin", "http://evil.example")], Some(403)),
            (vec![("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "cross-site")], Some(403)),
            (vec![("origin", "http://evil.example"), ("sec-fetch-site", "same-origin")], Some(403)),
        ] {
            let mut all = vec![("host", "127.0.0.1:8080")];
            all.extend(headers.clone());
            assert_eq!(status(&Method::POST, &all), expected, "{headers:?}");
            assert_eq!(status(&Method::GET, &all), None, "{headers:?}");
        }
        assert_eq!(status(&Method::POST, &[("origin", "http://127.0.0.1:8080")]), Some(403), "no host to compare with");
    }
}
