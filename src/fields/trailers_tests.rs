use super::*;
use crate::fields::{SharedCaching, inbound, outbound};

const OURS: HeaderName = HeaderName::from_static("x-user");

fn owned() -> OwnedFields {
    OwnedFields::new([&OURS])
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let fields = fields.iter().map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    });
    fields.collect()
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn h_12_s_26_no_trailer_of_a_request_frames_routes_or_identifies() {
    let mut trailers = headers(&[
        ("authorization", "Bearer x"),
        ("connection", "close"),
        ("content-length", "5"),
        ("content_length", "5"),
        ("cookie", "a=1"),
        ("host", "other.test"),
        ("te", "trailers"),
        ("trailer", "x"),
        ("transfer-encoding", "chunked"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-original-url", "/admin"),
        ("x-user", "somebody"),
        ("X_User", "somebody"),
        ("x-checksum", "1"),
    ]);
    inbound_trailers(&mut trailers, &owned());
    assert_eq!(names(&trailers), ["x-checksum"]);
}

#[test]
fn no_trailer_of_a_response_changes_the_browser_or_the_head() {
    let mut trailers = headers(&[
        ("alt-svc", "h3"),
        ("cache-control", "public"),
        ("clear-site-data", "*"),
        ("content-encoding", "gzip"),
        ("content-type", "text/html"),
        ("location", "/"),
        ("set-cookie", "a=1"),
        ("strict-transport-security", "max-age=0"),
        ("x-accel-redirect", "/"),
        ("grpc-status", "0"),
        ("server-timing", "db;dur=1"),
    ]);
    outbound_trailers(&mut trailers);
    assert_eq!(names(&trailers), ["grpc-status", "server-timing"]);
}

#[test]
fn a_trailer_that_is_not_forwarded_is_not_announced() {
    let mut request = headers(&[("trailer", "X-Checksum, x-user, host, ,not a name, X-Sum")]);
    assert_eq!(inbound(&mut request, &owned(), true), TrailerSupport::None);
    assert_eq!(request[TRAILER], "x-checksum, x-sum");
    let mut response = headers(&[("trailer", "Set-Cookie, Grpc-Status")]);
    outbound(&mut response, SharedCaching::AsWritten, |_| false);
    assert_eq!(response[TRAILER], "grpc-status");
    let mut response = headers(&[("trailer", "Set-Cookie"), ("x", "1")]);
    outbound(&mut response, SharedCaching::AsWritten, |_| false);
    assert_eq!(names(&response), ["x"]);
}

#[test]
fn only_a_client_that_accepts_trailers_gets_announced_trailers() {
    for (te, expected) in [
        ("trailers", TrailerSupport::Announced),
        ("deflate;q=0.5, Trailers", TrailerSupport::Announced),
        ("deflate", TrailerSupport::None),
        ("trailers;q=0.1", TrailerSupport::None),
        ("", TrailerSupport::None),
    ] {
        let mut request = headers(&[("te", te), ("connection", "te")]);
        assert_eq!(inbound(&mut request, &owned(), true), expected, "{te}");
        assert_eq!(
            request.contains_key(TE),
            expected == TrailerSupport::Announced,
            "{te}"
        );
    }
    assert_eq!(
        inbound(&mut HeaderMap::new(), &owned(), true),
        TrailerSupport::None
    );
}
