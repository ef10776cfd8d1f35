//! Tests the cookies in requests with a table, and tests which cookies an app may set.

use http::header::SET_COOKIE;

use super::*;
use crate::fields::cookie::{Found, find, matching};

#[test]
fn c_22_h_27_an_app_never_sets_our_cookie() {
    for (line, kept) in [
        ("__Host-s=evil; Path=/", false),
        (" \t__Host-s \t= evil", false),
        ("__HOST-s=evil", false),
        ("__host-s=evil", false),
        ("__Host-s", false),
        ("=__Host-s=evil", false),
        (" = =__Host-s=evil", false),
        ("__Host-s;a=b", false),
        ("__Host-S=other", true),
        ("x__Host-s=1", true),
        ("a=__Host-s=1", true),
        ("s=1", true),
    ] {
        let mut fields = headers(&[
            ("set-cookie", "a=1"),
            ("set-cookie", line),
            ("set-cookie", "b=2"),
        ]);
        outbound(&mut fields, SharedCaching::AsWritten, |name| {
            name == b"__Host-s"
        });
        let left: Vec<&[u8]> = fields
            .get_all(SET_COOKIE)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let wanted = if kept {
            vec![&b"a=1"[..], line.as_bytes(), b"b=2"]
        } else {
            vec![&b"a=1"[..], b"b=2"]
        };
        assert_eq!(left, wanted, "{line}");
    }
}

/// Replaces each `\xNN` and each `\t` in a row of the cookie table by the byte that it represents.
fn unescape(text: &str) -> Vec<u8> {
    let mut parts = text.split('\\');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        let (escape, rest) = if part.starts_with('t') {
            part.split_at(1)
        } else {
            part.split_at(3)
        };
        bytes.push(match escape {
            "t" => b'\t',
            code => u8::from_str_radix(code.strip_prefix('x').unwrap(), 16).unwrap(),
        });
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}

#[test]
fn c_02_c_03_c_04_h_26_s_35_cookies_are_split_and_removed_byte_for_byte() {
    let mut count = 0;
    for row in rows(include_str!("../../../tests/data/cookies.txt")) {
        let [id, lines, found, left] = row[..] else {
            panic!("four columns: {row:?}")
        };
        let mut fields = HeaderMap::new();
        for line in lines.split(" | ") {
            fields.append(COOKIE, HeaderValue::from_bytes(&unescape(line)).unwrap());
        }
        let value = unescape(found.trim_matches(['<', '>']));
        let wanted = match found {
            "-" => Found::Absent,
            "!" => Found::Conflicting,
            _ => Found::One(&value),
        };
        assert_eq!(find(&fields, b"__Host-s"), wanted, "{id}: {lines}");
        remove_cookies(&mut fields, |name| name == b"__Host-s");
        let remaining: Vec<&[u8]> = fields
            .get_all(COOKIE)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let wanted = match left {
            "-" => vec![],
            "=" => vec![unescape(lines)],
            line => vec![unescape(line)],
        };
        assert_eq!(remaining, wanted, "{id}: {lines}");
        count += 1;
    }
    assert!(count > 30);
}

#[test]
fn cookies_with_a_prefix_are_found_in_order() {
    let fields = headers(&[
        ("cookie", "__Host-t.1=a; x=y; __Host-t.2=b"),
        ("cookie", "__Host-t.3=c"),
    ]);
    let found: Vec<_> = matching(&fields, |name| name.starts_with(b"__Host-t.")).collect();
    let wanted = [
        ("__Host-t.1", "a"),
        ("__Host-t.2", "b"),
        ("__Host-t.3", "c"),
    ];
    assert!(
        found
            .into_iter()
            .eq(wanted.map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    );
}

#[test]
fn c_03_a_cookie_without_a_name_is_ignored() {
    let fields = headers(&[("cookie", "=a; b=1; c; =; =__Host-s=x")]);
    let found: Vec<_> = matching(&fields, |_| true).collect();
    assert_eq!(found, [(&b"b"[..], &b"1"[..])]);
}

#[test]
fn the_remaining_cookie_line_is_not_printed() {
    let mut fields = headers(&[("cookie", "a=canary; __Host-s=v")]);
    remove_cookies(&mut fields, |name| name == b"__Host-s");
    assert!(!format!("{fields:?}").contains("canary"));
}

#[test]
fn h_26_a_line_without_our_cookie_is_not_copied() {
    let mut fields = headers(&[("cookie", "a=1; b=2")]);
    let before = fields.get(COOKIE).unwrap().as_bytes().as_ptr();
    remove_cookies(&mut fields, |name| name == b"__Host-s");
    assert_eq!(fields.get(COOKIE).unwrap().as_bytes().as_ptr(), before);
}

#[test]
fn c_05_many_cookies_and_semicolons_are_handled() {
    let many = format!("{}__Host-s=v", "a=1; ".repeat(3_000));
    let fields = headers(&[("cookie", &many)]);
    assert_eq!(find(&fields, b"__Host-s"), Found::One(b"v"));
    let mut fields = headers(&[("cookie", &";".repeat(10_000))]);
    assert_eq!(find(&fields, b"__Host-s"), Found::Absent);
    remove_cookies(&mut fields, |_| true);
    assert_eq!(fields.get(COOKIE).unwrap().len(), 10_000);
}

#[test]
fn h_27_an_app_sets_cookies_that_differ_from_ours_in_more_than_the_prefixs_case() {
    // These names end like the gateway's own cookie names, but they do not begin with a cookie
    // prefix.
    for line in ["sessions=1", "x-Secure-s=1"] {
        let mut fields = headers(&[("set-cookie", line)]);
        outbound(&mut fields, SharedCaching::AsWritten, |name| {
            matches!(name, b"__Host-s" | b"__Secure-s")
        });
        assert_eq!(fields[SET_COOKIE], line);
    }
}

#[test]
fn the_only_line_of_cookies_is_one_without_another() {
    let one = headers(&[("cookie", "a=1; b=2"), ("accept", "*/*")]);
    assert_eq!(cookie::only_line(&one), Some(&b"a=1; b=2"[..]));
    let two = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
    assert_eq!(cookie::only_line(&two), None);
    assert_eq!(cookie::only_line(&HeaderMap::new()), None);
}

#[test]
fn h_27_either_prefix_is_ours_in_any_case() {
    for line in ["__HOST-s=1", "__host-s=1", "__SECURE-s=1", "__secure-s=1"] {
        let mut fields = headers(&[("set-cookie", line)]);
        outbound(&mut fields, SharedCaching::AsWritten, |name| {
            matches!(name, b"__Host-s" | b"__Secure-s")
        });
        assert!(fields.is_empty(), "{line}");
    }
}
