//! Tests of targets: a table of targets that hyper also parses, and further cases.

use bytes::Bytes;
use http::request::Parts;
use proptest::prelude::*;

use super::path::canonical as canonical_path;
use super::*;

/// Returns a request head as the server parses it. Returns `None` if the server's parser rejects
/// the target.
pub(super) fn head(method: &str, uri: &[u8], hosts: &[&[u8]], version: Version) -> Option<Parts> {
    let uri = Uri::from_maybe_shared(Bytes::copy_from_slice(uri)).ok()?;
    let mut request = http::Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
    *request.uri_mut() = uri;
    *request.version_mut() = version;
    for host in hosts {
        let host = HeaderValue::from_bytes(host).unwrap();
        request.headers_mut().append(HOST, host);
    }
    Some(request.into_parts().0)
}

pub(super) fn get(uri: &str, hosts: &[&[u8]]) -> Result<Target, Error> {
    Target::from_request(&head("GET", uri.as_bytes(), hosts, Version::HTTP_11).unwrap())
}

fn get_h2(uri: &str, hosts: &[&[u8]]) -> Result<Target, Error> {
    Target::from_request(&head("GET", uri.as_bytes(), hosts, Version::HTTP_2).unwrap())
}

#[test]
fn only_an_absolute_target_of_http_1_has_a_query_directly_after_the_authority() {
    for uri in ["https://a.test?/x", "https://a.test?"] {
        assert_eq!(get_h2(uri, &[]), Err(Error::WrongForm), "{uri}");
        let target = get(uri, &[b"a.test"]).unwrap();
        assert_eq!(target.path(), "/", "{uri}");
    }
    assert_eq!(get_h2("https://a.test", &[]).unwrap().path(), "/");
}

/// Replaces each `\xNN` and `\\` in a row of a table by the byte that the escape sequence stands
/// for.
pub(super) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        (bytes, rest) = match (byte, after) {
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).unwrap();
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                (bytes, after)
            }
            (b'\\', [b'\\', after @ ..]) => {
                bytes.push(b'\\');
                (bytes, after)
            }
            _ => {
                bytes.push(*byte);
                (bytes, after)
            }
        };
    }
    bytes
}

/// Runs each row of the table for which `picked` returns true. The function calls `picked` with the
/// id of each row. Returns the number of tested rows.
pub(super) fn run_table(picked: impl Fn(&str) -> bool) -> usize {
    let table = include_str!("../../tests/data/targets.txt");
    let rows = table.lines().filter(|line| !line.starts_with('#'));
    let mut count = 0_usize;
    for row in rows {
        let [id, given, wanted] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("three columns: {row}");
        };
        if !picked(id) {
            continue;
        }
        count = count.saturating_add(1);
        let raw = unescape(given);
        let got = match head("GET", &raw, &[b"gw.test"], Version::HTTP_11) {
            None => "!uri".to_owned(),
            Some(parts) => match Target::from_request(&parts) {
                Ok(target) => target.path_and_query().as_str().to_owned(),
                Err(error) => format!("!{}", error.reason()),
            },
        };
        let same = String::from_utf8_lossy(&raw);
        let wanted = if wanted == "=" { &same } else { wanted };
        assert_eq!(got, wanted, "{id}: {given}");
    }
    count
}

pub(super) fn number(id: &str) -> u32 {
    id.strip_prefix("P-")
        .map_or(0, |digits| digits.parse().unwrap())
}

#[test]
fn the_whole_table_of_targets_holds() {
    assert!(run_table(|_| true) > 100);
}

#[test]
fn p_01_p_06_dot_segments_are_refused_in_any_coding() {
    assert!(run_table(|id| (1..=6).contains(&number(id))) >= 6);
}

#[test]
fn p_07_p_10_double_encodings_of_special_characters_are_refused() {
    assert!(run_table(|id| (7..=10).contains(&number(id))) >= 4);
}

#[test]
fn p_11_p_14_backslashes_are_refused() {
    assert!(run_table(|id| (11..=14).contains(&number(id))) >= 4);
}

#[test]
fn p_15_p_17_empty_segments_are_refused() {
    assert!(run_table(|id| (15..=17).contains(&number(id))) >= 3);
}

#[test]
fn p_18_p_22_parameters_cannot_hide_a_segment() {
    assert!(run_table(|id| (18..=22).contains(&number(id))) >= 5);
    let admin = Prefix::parse("/admin").unwrap();
    assert!(admin.covers("/admin;jsessionid=1") && admin.covers("/admin;.css"));
    assert!(admin.covers("/admin%3Bx/y") && Prefix::parse("/a/b").unwrap().covers("/a;x/b;y/c"));
    assert!(!admin.matches("/admin;jsessionid=1"));
}

#[test]
fn p_23_p_26_control_characters_are_refused_and_segment_endings_ignored() {
    assert!(run_table(|id| (23..=26).contains(&number(id))) >= 5);
    let admin = Prefix::parse("/admin").unwrap();
    for same in ["/admin%20", "/admin.", "/admin.%20./x", "/admin.;x"] {
        assert!(admin.covers(same) && !admin.matches(same), "{same}");
    }
}

#[test]
fn p_27_p_31_spellings_of_a_protected_path_are_covered() {
    assert!(run_table(|id| (27..=31).contains(&number(id))) >= 5);
    let admin = Prefix::parse("/admin").unwrap();
    for spelled in ["/ADMIN", "/Admin", "/%61dmin", "/adm%69n", "/aDmIn/x"] {
        let path = get(spelled, &[b"gw.test"]).unwrap();
        assert!(admin.covers(path.path()), "{spelled}");
    }
    assert!(!admin.matches("/ADMIN") && admin.matches("/admin/x"));
    // A prefix with a reserved character also matches paths in which the character is
    // percent-encoded.
    let at = Prefix::parse("/@me").unwrap();
    assert!(at.matches("/%40me/x") && at.covers("/%40ME"));
}

#[test]
fn p_32_a_prefix_ends_at_a_segments_boundary() {
    let admin = Prefix::parse("/admin").unwrap();
    for (path, inside) in [
        ("/admin", true),
        ("/admin/", true),
        ("/admin/x", true),
        ("/administrator", false),
    ] {
        assert_eq!(
            (admin.matches(path), admin.covers(path)),
            (inside, inside),
            "{path}"
        );
    }
    let below = Prefix::parse("/admin/").unwrap();
    assert!(below.matches("/admin/x") && !below.matches("/admin") && below.covers("/admin"));
    let all = Prefix::parse("/").unwrap();
    assert!(all.matches("/") && all.matches("/x") && all.covers("/") && all.covers("/x;y"));
    for bad in ["", "admin", "/a/../b", "/a?b", "/a#b", "//a", "/a%2fb"] {
        assert!(Prefix::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn p_33_the_query_is_kept_and_never_matched() {
    assert!(run_table(|id| number(id) == 33) >= 2);
    let target = get("/public/x?y=/../admin", &[b"gw.test"]).unwrap();
    assert_eq!(
        (target.path(), target.query()),
        ("/public/x", Some("y=/../admin"))
    );
}

#[test]
fn p_34_p_35_a_fragment_is_neither_matched_nor_forwarded() {
    assert!(run_table(|id| (34..=35).contains(&number(id))) >= 3);
}

#[test]
fn p_36_overlong_forms_are_refused() {
    assert!(run_table(|id| (36..=37).contains(&number(id))) >= 10);
}

#[test]
fn p_38_an_absolute_target_must_name_the_same_host() {
    assert!(run_table(|id| number(id) == 38) >= 6);
    assert_eq!(get("http://gw.test/", &[]).unwrap_err(), Error::HostMissing);
    let target = get("HTTPS://GW.test./x", &[b"gw.TEST:443"]).unwrap();
    assert_eq!((target.authority(), target.path()), ("gw.test", "/x"));
    assert_eq!(
        get("http://gw.test:81/", &[b"gw.test"]).unwrap_err(),
        Error::AuthorityConflict
    );
}

#[test]
fn p_39_s_44_unsupported_target_forms_and_methods() {
    assert!(run_table(|id| number(id) == 39) >= 3);
    let ask = |method, uri: &[u8]| {
        Target::from_request(&head(method, uri, &[b"gw.test"], Version::HTTP_11).unwrap())
    };
    assert_eq!(ask("OPTIONS", b"*").unwrap_err(), Error::Asterisk);
    assert_eq!(Error::Asterisk.status(), StatusCode::NO_CONTENT);
    assert!(ask("OPTIONS", b"/").is_ok());
    for method in ["CONNECT", "TRACE", "TRACK"] {
        let error = ask(method, b"gw.test:443").unwrap_err();
        assert_eq!(
            (error, error.status().as_u16()),
            (Error::MethodNotAllowed, 405),
            "{method}"
        );
    }
    assert_eq!(ask("TRACE", b"/").unwrap_err(), Error::MethodNotAllowed);
}

#[test]
fn p_40_methods_are_never_folded() {
    for (method, fine) in [
        ("HEAD", true),
        ("FOO", true),
        ("PROPFIND", true),
        ("get", false),
        ("Get", false),
    ] {
        let parts = head(method, b"/", &[b"gw.test"], Version::HTTP_11).unwrap();
        assert_eq!(Target::from_request(&parts).is_ok(), fine, "{method}");
    }
}

#[test]
fn p_43_long_paths_are_too_long() {
    let path = |length: usize| format!("/{}", "a".repeat(length - 1));
    assert!(get(&path(MAX_PATH), &[b"gw.test"]).is_ok());
    let with_query = format!("{}?{}", path(MAX_PATH), "q".repeat(20_000));
    assert!(get(&with_query, &[b"gw.test"]).is_ok());
    for long in [path(MAX_PATH + 1), path(64_000), "/a".repeat(10_000)] {
        let error = get(&long, &[b"gw.test"]).unwrap_err();
        assert_eq!((error, error.status().as_u16()), (Error::PathTooLong, 414));
    }
    // The canonical form of the path `wide` is three times as long as the received path. In
    // canonical form, the path and the query together are longer than a `Uri` may be.
    let wide = format!("/{}?{}", "|".repeat(MAX_PATH - 1), "q".repeat(50_000));
    assert_eq!(get(&wide, &[b"gw.test"]).unwrap_err(), Error::PathTooLong);
}

#[test]
fn p_45_p_46_own_endpoints_and_static_looking_paths() {
    assert!(run_table(|id| (45..=46).contains(&number(id))) >= 5);
    let own = Prefix::parse("/_auth").unwrap();
    for path in ["/_auth/callback", "/_AUTH/login", "/_auth;x/login"] {
        assert!(own.covers(path), "{path}");
    }
    assert!(Prefix::parse("/admin").unwrap().covers("/admin;.css"));
}

#[test]
fn h_21_case_a_trailing_dot_and_default_ports_are_made_canonical() {
    for (given, name, port) in [
        ("gw.test", "gw.test", None),
        ("GW.Test", "gw.test", None),
        ("gw.test.", "gw.test", None),
        ("gw.test:443", "gw.test", None),
        ("gw.test.:80", "gw.test", None),
        ("gw.test:8443", "gw.test", Some(8443)),
        ("Gw.test.:8443", "gw.test", Some(8443)),
        ("127.0.0.1:8080", "127.0.0.1", Some(8080)),
        ("[::1]:8080", "[::1]", Some(8080)),
        ("[0:0::1]", "[::1]", None),
        ("[0:0::1]:80", "[::1]", None),
        ("my_host", "my_host", None),
    ] {
        let target = get("/", &[given.as_bytes()]).unwrap();
        let authority = port.map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        assert_eq!(target.authority(), authority, "{given}");
        assert_eq!(target.authority_value(), &authority, "{given}");
        assert_eq!(target.is_host_field(), given == authority, "{given}");
    }
}

#[test]
fn h_21_other_hosts_are_refused() {
    let names = "a/b a?b a#b a@b a,b a..b .a . a%2eb a\\b a] x[::1] b\u{fc}cher.test";
    let ports = "a:99999 a:0x50 a: a:0 a:080 a:+80 a:-1 a:80:80 [::1]:80:80 [::1]:";
    let literals = "[::1 ::1 [::1]x [fe80::1%25eth0] [v1.x] [127.0.0.1] []";
    let long = format!("{}.test", "a.".repeat(150));
    let label = format!("{}.test", "a".repeat(64));
    let listed = [names, ports, literals]
        .into_iter()
        .flat_map(|list| list.split(' '));
    for bad in listed.chain(["", "a b", "a, b", "a\tb", &long, &label]) {
        let error = get("/", &[bad.as_bytes()]).unwrap_err();
        assert_eq!(
            (error, error.status().as_u16()),
            (Error::HostMalformed, 400),
            "{bad}"
        );
    }
    assert_eq!(get("/", &[b"a", b"a"]).unwrap_err(), Error::HostDuplicated);
    assert_eq!(get("/", &[]).unwrap_err(), Error::HostMissing);
    let old = head("GET", b"/", &[], Version::HTTP_10).unwrap();
    assert_eq!(Target::from_request(&old).unwrap_err(), Error::HostMissing);
}

#[test]
fn h_23_http_2_authority_and_host_agree_or_the_request_is_refused() {
    let alone = get_h2("https://gw.test/x", &[]).unwrap();
    assert_eq!((alone.authority(), alone.path()), ("gw.test", "/x"));
    assert_eq!(alone.authority_value(), "gw.test");
    assert!(!alone.is_host_field());
    assert_eq!(get_h2("/x", &[b"gw.test"]).unwrap().authority(), "gw.test");
    assert!(get_h2("https://GW.test:443/", &[b"gw.test"]).is_ok());
    for (uri, hosts, wanted) in [
        (
            "https://gw.test/",
            &[&b"evil.test"[..]][..],
            Error::AuthorityConflict,
        ),
        (
            "https://gw.test/",
            &[b"gw.test", b"gw.test"],
            Error::HostDuplicated,
        ),
        ("/", &[], Error::HostMissing),
        ("https://user@gw.test/", &[], Error::HostMalformed),
        ("ftp://gw.test/", &[], Error::SchemeUnknown),
        ("*", &[b"gw.test"], Error::WrongForm),
    ] {
        assert_eq!(get_h2(uri, hosts).unwrap_err(), wanted, "{uri}");
    }
}

#[test]
fn a_canonical_path_and_the_recent_host_of_a_connection_are_shared_and_not_copied() {
    let recent = RecentHost::default();
    let read = |host: &[u8]| {
        let parts = head("GET", b"/a%20b?c", &[host], Version::HTTP_11).unwrap();
        let target = Target::on_connection(&parts, &recent).unwrap();
        let received = parts.uri.path_and_query().unwrap().as_str();
        assert_eq!(target.path_and_query().as_str().as_ptr(), received.as_ptr());
        // The host must not keep the buffer of the head in memory.
        let field = parts.headers.get(HOST).unwrap().as_bytes();
        assert_ne!(target.authority_value().as_bytes().as_ptr(), field.as_ptr());
        target
    };
    let first = read(b"gw.test:8080");
    let same = read(b"gw.test:8080");
    assert_eq!(first.authority().as_ptr(), same.authority().as_ptr());
    assert!(same.is_host_field());
    // Another spelling of the host, and another host.
    let spelled = read(b"GW.test:8080");
    assert_eq!(spelled.authority(), "gw.test:8080");
    assert!(!spelled.is_host_field());
    assert_eq!(read(b"other.test").authority(), "other.test");
    assert_eq!(read(b"gw.test:8080").authority(), "gw.test:8080");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_accepted_or_rejected_without_a_panic(
        uri in prop::collection::vec(any::<u8>(), 0..40),
        host in "[ -~]{0,12}",
    ) {
        if let Some(parts) = head("GET", &uri, &[host.as_bytes()], Version::HTTP_11)
            && let Ok(target) = Target::from_request(&parts)
        {
            prop_assert!(target.path_and_query().as_str().starts_with('/'));
        }
    }
}

#[test]
fn a_target_and_a_prefix_by_example() {
    let target = get("/%7ealice/a%2db?x=/../y", &[b"App.Example:443"]).unwrap();
    assert_eq!(target.authority(), "app.example");
    assert_eq!(target.path_and_query().as_str(), "/~alice/a-b?x=/../y");
    assert_eq!(canonical_path("/caf%c3%a9/%61").unwrap(), "/caf%C3%A9/a");
    assert!(canonical_path("/public/..;/admin").is_err());
    let admin = Prefix::parse("/admin").unwrap();
    assert!(admin.matches("/admin/users") && !admin.matches("/ADMIN"));
    assert!(admin.covers("/ADMIN;x=1/users") && !admin.covers("/administrator"));
    let path = FoldedPath::of("/Admin;x=1/users", 2);
    let prefix = FoldedPath::of("/admin.", 9);
    assert!(
        path.prefixes()
            .any(|start| Some(start) == prefix.prefixes().last())
    );
}

#[test]
fn codes_for_the_log_that_no_table_has_are_stable() {
    for (error, code) in [
        (Error::Asterisk, "target_asterisk"),
        (Error::HostDuplicated, "target_host_duplicated"),
        (Error::HostMissing, "target_host_missing"),
        (Error::MethodMalformed, "target_method_malformed"),
        (Error::MethodNotAllowed, "target_method_not_allowed"),
        (Error::PathTooLong, "target_path_too_long"),
    ] {
        assert_eq!(error.reason(), code);
    }
}
