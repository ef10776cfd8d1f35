//! Tests of the fields that the gateway removes and of the fields that it forwards, with tables and
//! examples.

mod cookies;
mod forwarded;
mod framing;
mod properties;

use http::HeaderName;
use http::header::{CONNECTION, COOKIE, EXPECT, TE, TRAILER};

use super::cookie::Others;
use super::*;

const OURS: HeaderName = HeaderName::from_static("x-user");

fn owned() -> OwnedFields {
    OwnedFields::new([&OURS])
}

/// Removes hop-by-hop fields and owned fields, as the gateway does for a request without content.
fn strip(fields: &mut HeaderMap) {
    inbound(fields, &owned(), false);
}

/// Removes the cookies of a request as the gateway does.
fn remove_cookies(fields: &mut HeaderMap, is_own: impl Fn(&[u8]) -> bool) {
    match cookie::others(fields, is_own) {
        Others::Unchanged => {}
        Others::Line(line) => drop(fields.insert(COOKIE, line)),
        Others::None => drop(fields.remove(COOKIE)),
    }
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn names(headers: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

fn rows(table: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split('\t').collect())
}

#[test]
fn h_01_h_20_h_33_h_37_every_name_in_the_table_is_removed_or_passes() {
    let owned = owned();
    let mut count = 0;
    for row in rows(include_str!("../../../tests/data/field_names.txt")) {
        let [id, spelled, wanted] = row[..] else {
            panic!("three columns: {row:?}")
        };
        let name = HeaderName::from_bytes(spelled.as_bytes()).unwrap();
        assert_eq!(owned.contains(spelled), wanted == "ours", "{id}: {spelled}");
        assert_eq!(
            owned.contains(name.as_str()),
            wanted == "ours",
            "{id}: {spelled}"
        );
        let mut fields = headers(&[(spelled, "a"), ("accept", "*/*"), (spelled, "b")]);
        inbound(&mut fields, &owned, false);
        let passed = fields.get_all(&name).iter().any(|value| value != "*/*");
        assert_eq!(passed, wanted == "passes", "{id}: {spelled}");
        assert!(fields.contains_key("accept"), "{id}: {spelled}");
        count += 1;
    }
    assert!(count > 60);
}

#[test]
fn h_09_h_24_all_spellings_are_removed_and_only_our_line_remains() {
    let mut fields = headers(&[
        ("X_User", "root"),
        ("x-user", "admin"),
        ("X.USER", "b"),
        ("x-user", "c"),
        ("x~user", "d"),
    ]);
    strip(&mut fields);
    assert!(fields.is_empty(), "{fields:?}");
    fields.insert(OURS, HeaderValue::from_static("alice"));
    assert_eq!(fields.get_all(OURS).iter().count(), 1);
}

/// The permit of the request decides whether the gateway removes `Authorization`, because this
/// decision depends on the route.
#[test]
fn authorization_is_not_a_field_of_every_route() {
    let mut fields = headers(&[("Authorization", "Basic eA==")]);
    strip(&mut fields);
    assert_eq!(names(&fields), ["authorization"]);
}

#[test]
fn h_25_high_bytes_in_values_pass_unchanged() {
    let mut fields = HeaderMap::new();
    let value: Vec<u8> = (0x80..=0xff).collect();
    fields.insert("x-name", HeaderValue::from_bytes(&value).unwrap());
    strip(&mut fields);
    assert_eq!(fields.get("x-name").unwrap().as_bytes(), value);
    assert!(HeaderValue::from_bytes(b"a\x7f").is_err());
}

#[test]
fn h_30_h_31_nominating_our_fields_removes_only_those_of_the_client() {
    for lines in [
        &["close, Authorization, x-user"][..],
        &["X-USER"],
        &["x_user"],
        &["keep-alive", "x-user", "authorization"],
        &["keep-alive,,x-user ,\t, "],
    ] {
        let mut fields = headers(&[("x-user", "admin")]);
        for line in lines {
            fields.append(CONNECTION, HeaderValue::from_static(line));
        }
        strip(&mut fields);
        assert!(fields.is_empty(), "{fields:?}");
        // The gateway first removes unsafe fields, and then writes its own fields. The client's
        // `Connection` is removed first, so the client's `Connection` cannot remove a field of the
        // gateway.
        fields.insert(OURS, HeaderValue::from_static("alice"));
        assert_eq!(names(&fields), ["x-user"]);
    }
}

#[test]
fn h_30_nominated_fields_and_connection_are_removed() {
    let mut fields = headers(&[
        ("Connection", "X-Secret-Hop, \"x\", bad name, close"),
        ("Connection", "X-Other"),
        ("x-secret-hop", "1"),
        ("x-other", "1"),
        ("x-kept", "1"),
    ]);
    strip(&mut fields);
    assert_eq!(names(&fields), ["x-kept"]);
}

#[test]
fn h_32_fields_that_frame_or_identify_cannot_be_nominated() {
    let mut fields = headers(&[
        (
            "Connection",
            "host, Cookie, content-length, via, x-forwarded-for, transfer-encoding",
        ),
        ("host", "gw.test"),
        ("cookie", "a=1"),
        ("content-length", "5"),
        ("via", "1.1 x"),
        ("x-forwarded-for", "1.2.3.4"),
    ]);
    strip(&mut fields);
    assert_eq!(names(&fields), ["content-length", "cookie", "host", "via"]);
}

#[test]
fn h_33_h_34_s_36_hop_by_hop_fields_and_unknown_upgrades_are_removed() {
    let mut fields = headers(&[
        ("Connection", "upgrade, HTTP2-Settings, keep-alive"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers, deflate"),
        ("Trailer", "authorization"),
        ("Transfer-Encoding", "chunked"),
        ("Proxy-Authenticate", "Basic"),
        ("Accept", "*/*"),
    ]);
    strip(&mut fields);
    // The gateway writes its own field `TE` if the client accepts trailers.
    assert_eq!(names(&fields), ["accept", "connection", "te"]);
    assert_eq!(fields[TE], "trailers");
    assert_eq!(fields[CONNECTION], "te");
}

#[test]
fn an_expectation_is_forwarded_only_with_content() {
    for has_content in [false, true] {
        let mut fields = headers(&[("Expect", "100-continue"), ("Trailer", "x")]);
        inbound(&mut fields, &owned(), has_content);
        assert_eq!(fields.contains_key(EXPECT), has_content);
        assert_eq!(fields.contains_key(TRAILER), has_content);
    }
}

#[test]
fn h_35_the_gateway_answers_options_with_no_hops_left() {
    let ask = |method: Method, value: &'static str| {
        let mut fields = headers(&[("max-forwards", value)]);
        let hops = count_hop(&method, &mut fields);
        (
            hops,
            fields
                .get(MAX_FORWARDS)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned(),
        )
    };
    assert_eq!(ask(Method::OPTIONS, "0").0, Hops::Answer);
    assert_eq!(ask(Method::OPTIONS, "3"), (Hops::Forward, "2".to_owned()));
    assert_eq!(ask(Method::OPTIONS, "x"), (Hops::Forward, "x".to_owned()));
    assert_eq!(ask(Method::GET, "0"), (Hops::Forward, "0".to_owned()));
    assert_eq!(
        count_hop(&Method::OPTIONS, &mut HeaderMap::new()),
        Hops::Forward
    );
}

#[test]
fn h_36_a_loop_is_stopped_after_five_passes() {
    let mut fields = headers(&[("via", "1.0 fred, 1.1 p.example (sidegate), 1.1 sidegate-x")]);
    for pass in 0..5 {
        append_via(&mut fields, Version::HTTP_11).unwrap_or_else(|_| panic!("pass {pass}"));
    }
    assert_eq!(append_via(&mut fields, Version::HTTP_11).unwrap_err(), Loop);
    assert_eq!(Loop.status().as_u16(), 508);
    let mut joined = headers(&[(
        "via",
        "2 Sidegate (x),1.1\tsidegate, 1.1 sidegate, 1.1 sidegate",
    )]);
    assert!(append_via(&mut joined, Version::HTTP_2).is_ok());
    assert_eq!(
        joined.get_all(VIA).iter().next_back().unwrap(),
        "2 sidegate"
    );
    assert!(append_via(&mut joined, Version::HTTP_10).is_err());
}

#[test]
fn h_27_response_fields_that_act_for_the_origin_are_removed() {
    let mut fields = headers(&[
        ("Connection", "close, X-Frame-Options, X-Hop"),
        ("x-hop", "1"),
        ("x-frame-options", "DENY"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("clear-site-data", "\"cookies\""),
        ("alt-svc", "h3=\":443\""),
        ("public-key-pins", "x"),
        ("public-key-pins-report-only", "x"),
        ("x-accel-redirect", "/etc/passwd"),
        ("x-accel-buffering", "no"),
        ("content-type", "text/html"),
        ("www-authenticate", "Basic"),
    ]);
    outbound(&mut fields, SharedCaching::AsWritten, |_| false);
    assert_eq!(
        names(&fields),
        ["content-type", "www-authenticate", "x-frame-options"]
    );
}

#[test]
fn h_27_an_app_cannot_disable_strict_transport_security() {
    for (policy, kept) in [
        ("max-age=0", false),
        ("Max-Age = \"0\" ; includeSubDomains", false),
        ("includeSubDomains; max-age=000", false),
        ("max-age=1; max-age=0", false),
        ("max-age=31536000; includeSubDomains", true),
        ("max-age=10", true),
        ("max-age=", true),
        ("max-age=0=1", true),
    ] {
        let mut fields = headers(&[("strict-transport-security", policy)]);
        outbound(&mut fields, SharedCaching::AsWritten, |_| false);
        assert_eq!(!fields.is_empty(), kept, "{policy}");
    }
}

#[test]
fn an_owned_name_in_any_spelling_by_example() {
    for spelling in ["X-User", "X_USER", "x.user", "X~User", "X_Forwarded_For"] {
        assert!(owned().contains(spelling), "{spelling}");
    }
    assert!(!owned().contains("X-Username"));
}

#[test]
fn h_36_via_names_the_version_by_which_a_request_came() {
    for (version, wanted) in [
        (Version::HTTP_10, "1.0 sidegate"),
        (Version::HTTP_11, "1.1 sidegate"),
        (Version::HTTP_2, "2 sidegate"),
    ] {
        let mut fields = HeaderMap::new();
        assert_eq!(append_via(&mut fields, version), Ok(()));
        assert_eq!(fields[VIA], wanted, "{version:?}");
        assert_eq!(append_via(&mut fields, version), Ok(()));
        assert_eq!(fields.get_all(VIA).iter().count(), 2, "{version:?}");
    }
}

#[test]
fn h_36_a_loop_has_a_code_of_its_own_in_the_log() {
    assert_eq!(Loop.reason(), "forwarding_loop");
}

#[test]
fn most_usual_fields_pass_without_a_search_through_our_names() {
    let owned = owned();
    for name in [
        "accept",
        "Accept-Encoding",
        "accept-language",
        "cache-control",
        "Cookie",
        "host",
        "origin",
        "referer",
        "sec-fetch-mode",
        "User-Agent",
    ] {
        assert!(!owned.may_remove(name), "{name}");
    }
}

#[test]
fn h_30_a_connection_that_only_stays_or_ends_nominates_nothing() {
    for line in ["keep-alive", "Keep-Alive", "close", "Close"] {
        let fields = headers(&[("connection", line)]);
        assert!(strip::nominated(&fields).is_empty(), "{line}");
    }
}

#[test]
fn a_view_has_the_lines_that_came_whatever_their_case() {
    let map = headers(&[("cookie", "")]);
    let lines: &[(&str, &[u8])] = &[("COOKIE", b"")];
    assert!(map.has(&COOKIE) && lines.has(&COOKIE));
    assert!(!map.has(&VIA) && !lines.has(&VIA));
}

#[test]
fn h_27_no_hop_by_hop_field_of_an_app_reaches_a_browser() {
    for name in [
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ] {
        let mut fields = headers(&[(name, "x"), ("content-type", "text/html")]);
        outbound(&mut fields, SharedCaching::AsWritten, |_| false);
        assert_eq!(names(&fields), ["content-type"], "{name}");
    }
}

#[test]
fn h_32_what_frames_identifies_or_protects_is_never_nominated_in_either_direction() {
    for name in [
        "cache-control",
        "content-length",
        "content-security-policy",
        "content-type",
        "cookie",
        "host",
        "set-cookie",
        "strict-transport-security",
        "via",
        "x-content-type-options",
        "x-frame-options",
    ] {
        let came = headers(&[("connection", &format!("close, {name}")), (name, "x")]);
        let (mut request, mut response) = (came.clone(), came);
        strip(&mut request);
        outbound(&mut response, SharedCaching::AsWritten, |_| false);
        assert_eq!(names(&request), [name]);
        assert_eq!(names(&response), [name]);
    }
}
