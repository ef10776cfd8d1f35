//! Tests of the return path with a table of cases and a mutator. Two reference parsers, which share
//! no code with the grammar, verify each result.

use url::Url;

use super::*;
use crate::target::Target;

const OWN: &str = "/_auth";
const SITE: &str = "https://gw.test";

fn own() -> OwnPaths {
    OwnPaths::try_from(format!("{OWN}/")).unwrap()
}

/// Decodes `\xNN`, `\\` and `\repeat{text}{n}` in a row of the table.
fn unescape(text: &str) -> String {
    if let Some(repeat) = text.strip_prefix("\\repeat{") {
        let (text, times) = repeat.strip_suffix('}').unwrap().split_once("}{").unwrap();
        return text.repeat(times.parse().unwrap());
    }
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap().to_owned();
    while let Some(part) = parts.next() {
        if let Some(code) = part.strip_prefix('x') {
            let (digits, rest) = code.split_at(2);
            plain.push(char::from(u8::from_str_radix(digits, 16).unwrap()));
            plain.push_str(rest);
        } else {
            assert!(part.is_empty(), "not a valid escape: {text}");
            plain.push('\\');
            plain.push_str(parts.next().unwrap_or_default());
        }
    }
    plain
}

fn rows() -> impl Iterator<Item = (u32, String, &'static str)> {
    let table = include_str!("../../tests/data/return_to.txt");
    table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|row| {
            let [number, text, wanted] = row.split('\t').collect::<Vec<_>>()[..] else {
                panic!("three columns: {row}");
            };
            (number.parse().unwrap(), unescape(text), wanted)
        })
}

/// Returns the authority that a browser would request, or `None` when the browser would stay on our
/// origin. A browser ignores white space at the start and end of a URL, and all tabs and line ends
/// in the URL. A browser treats a backslash as a slash, and accepts any number of slashes before an
/// authority.
fn leads_to(location: &str) -> Option<String> {
    let text = location.trim_matches(|c: char| c <= ' ');
    let text: String = text
        .chars()
        .filter(|c| !matches!(c, '\t' | '\n' | '\r'))
        .collect();
    let text = text.replace('\\', "/");
    let is_scheme = |text: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        !text.is_empty() && text.chars().all(allowed)
    };
    let scheme = text.split_once(':').filter(|(before, _)| is_scheme(before));
    let rest = scheme.map_or(text.as_str(), |(_, behind)| behind);
    if scheme.is_none() && !rest.starts_with("//") {
        return None;
    }
    let authority = rest
        .trim_start_matches('/')
        .split(['/', '?', '#'])
        .next()
        .unwrap();
    Some(authority.rsplit('@').next().unwrap().to_ascii_lowercase())
}

/// Removes dot segments (RFC 3986 section 5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

/// Checks a return path in two forms with both reference parsers. The first form of the return path
/// is a URL: our origin, followed by the return path. The second form of the return path does not
/// contain our origin. The second form must also be safe, because a caller could forget to write
/// our origin before the return path.
fn assert_stays(return_to: &ReturnTo, given: &str) {
    let location = return_to.absolute(SITE);
    assert!(
        location.bytes().all(|byte| byte.is_ascii_graphic()),
        "{given:?} {location:?}"
    );
    let base = Url::parse("https://gw.test/_auth/callback").unwrap();
    for text in [&location, return_to.as_str()] {
        let url = base.join(text).unwrap();
        assert_eq!(url.origin().ascii_serialization(), SITE, "{given:?}");
    }
    assert_eq!(leads_to(&location).as_deref(), Some("gw.test"), "{given:?}");

    let mut text = return_to.as_str().to_owned();
    for _ in 0..3 {
        let path = text.split('?').next().unwrap();
        assert_eq!(leads_to(path), None, "{given:?}");
        assert_eq!(
            leads_to(&without_dots(&path.replace('\\', "/"))),
            None,
            "{given:?}"
        );
        assert!(!path.contains(|c: char| c.is_ascii_control()), "{given:?}");
        let is_refused = |c: char| c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r');
        assert!(!text.contains(is_refused), "{given:?}");
        text = percent_encoding::percent_decode_str(&text)
            .decode_utf8_lossy()
            .into_owned();
    }
    let own = return_to.as_str().to_ascii_lowercase();
    assert!(own != OWN && !own.starts_with("/_auth/"), "{given:?}");
}

#[test]
fn r_table_every_row_of_the_corpus_comes_out_as_written() {
    let mut numbers = Vec::new();
    for (number, text, wanted) in rows() {
        let got = ReturnTo::parse(&text, &own());
        if let Some(got) = &got {
            assert_stays(got, &text);
        }
        let wanted = match wanted {
            "root" => None,
            "=" => Some(text.as_str()),
            path => Some(path),
        };
        assert_eq!(
            got.as_ref().map(ReturnTo::as_str),
            wanted,
            "R-{number}: {text:?}"
        );
        numbers.push(number);
    }
    assert!(numbers.into_iter().eq(1..=136));
}

#[test]
fn r_table_in_other_codings_and_as_request_targets_stays_on_the_site() {
    let encode = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let mut taken = 0;
    for (number, text, _) in rows() {
        let once = encode(&text);
        let in_path = [format!("/{once}"), format!("/x/{text}"), format!("{text}/")];
        let in_query = [format!("/?rd={text}"), format!("/?rd={once}")];
        for text in [encode(&once), once]
            .into_iter()
            .chain(in_path)
            .chain(in_query)
        {
            if let Some(return_to) = ReturnTo::parse(&text, &own()) {
                taken += 1;
                assert_stays(&return_to, &text);
            }
        }
        let request = http::Request::get(text.as_str())
            .header("host", "gw.test")
            .body(());
        if let Ok(request) = request
            && let Ok(target) = Target::from_request(&request.into_parts().0)
            && let Some(return_to) = ReturnTo::parse(target.path_and_query().as_str(), &own())
        {
            taken += 1;
            assert_stays(&return_to, &format!("R-{number} as a target"));
        }
    }
    assert!(taken > 50, "the oracles saw {taken}");
}

#[test]
fn r_mutator_no_insertion_leads_away() {
    let seeds = [
        "/",
        "/a/b",
        "//evil.test",
        "/\\evil.test",
        "/a/..//evil.test",
        "/%2fevil.test/x",
        "https://gw.test/a",
        "/ok?x=//evil.test#f",
        "/%5c%5cevil.test",
        "/.%2e/%252fevil.test",
    ];
    let low = (0x00..=0x20).chain(0x7f..=0xff).map(char::from);
    let odd = [
        '\\', '/', '%', '@', ':', '.', '?', '#', '\u{3002}', '\u{ff0f}', '\u{2028}',
    ];
    let insertions: Vec<char> = low.chain(odd).collect();
    let (mut cases, mut taken) = (0, 0);
    for seed in seeds {
        for (at, insertion) in
            (0..=seed.len()).flat_map(|at| insertions.iter().map(move |c| (at, c)))
        {
            let (before, behind) = seed.split_at(at);
            let text = format!("{before}{insertion}{behind}");
            cases += 1;
            if let Some(return_to) = ReturnTo::parse(&text, &own()) {
                taken += 1;
                assert_stays(&return_to, &text);
            }
        }
    }
    assert!(
        cases > 20_000 && taken > 100,
        "{cases} cases, {taken} of them taken"
    );
}

#[test]
fn own_endpoints_are_never_returned_to_in_any_spelling() {
    for text in [
        "/_auth",
        "/_AUTH/login",
        "/%5fauth/x",
        "/_auth;x/y",
        "/_auth?x",
        "/_auth./x",
    ] {
        let refused = ReturnTo::read(text, &own());
        assert_eq!(refused, Err(NoReturn::OwnEndpoint), "{text}");
    }
    assert_eq!(
        ReturnTo::parse("/_authors", &own()).unwrap().as_str(),
        "/_authors"
    );
}

#[test]
fn a_return_to_is_bounded_canonical_and_absolute_when_sent() {
    let longest = format!("/{}", "a".repeat(8191));
    assert!(ReturnTo::parse(&longest, &own()).is_some());
    assert_eq!(ReturnTo::parse(&format!("{longest}a"), &own()), None);
    // A text can be shorter than the limit although its canonical form is longer than the limit.
    assert_eq!(
        ReturnTo::parse(&format!("/{}", "|".repeat(3000)), &own()),
        None
    );
    let taken = ReturnTo::parse("/%7ea?b=%2F#c", &own()).unwrap();
    assert_eq!(taken.as_str(), "/~a?b=%2F");
    assert_eq!(
        taken.absolute("https://gw.test:8443/"),
        "https://gw.test:8443/~a?b=%2F"
    );
    for refused in [
        "/a?x=\\",
        "/a?x=\r\n",
        "/a?x=\t",
        "/a?x=%00",
        "/a?x=%2500",
        "/a?x=%0b",
        "/a?x=%7f",
        "/a%0a?x",
        "/a%250a?x",
        "/a?x=\u{e9}",
        "/a?x= ",
    ] {
        assert_eq!(ReturnTo::parse(refused, &own()), None, "{refused}");
    }
    assert_eq!(ReturnTo::root().absolute(SITE), "https://gw.test/");
}

#[test]
fn a_query_with_several_lines_survives_a_login() {
    for text in [
        "/graph?query=sum(%0A%20%20rate(x%5B5m%5D)%0D%0A)%09",
        "/sql?q=select%0a%0d%091",
        "/sql?q=like%20%250A%2509",
    ] {
        let taken = ReturnTo::parse(text, &own()).unwrap();
        assert_eq!(taken.as_str(), text);
        assert_stays(&taken, text);
    }
}

#[test]
fn an_unusual_path_survives_a_login() {
    for (text, taken) in [
        ("/@scope%2fname?x=//y", "/@scope%2Fname?x=//y"),
        ("/a//b///c", "/a//b///c"),
        ("/a%5cb", "/a%5Cb"),
        ("/caf%e9", "/caf%E9"),
    ] {
        let parsed = ReturnTo::parse(text, &own()).unwrap();
        assert_eq!(parsed.as_str(), taken);
        assert_stays(&parsed, text);
    }
    for text in [
        "/a\\b",
        "/a/..%2f/evil.test",
        "/a%5c..%5c",
        "/%2f/evil.test",
        "/%ff/evil.test",
        "/https:%2f%2fevil.test",
        "/https:%5cevil.test",
        "/_auth%2flogin",
        "/_auth//login",
        "/_AUTH%5clogin",
        "/_auth%ff/login",
        "/_a%ffuth/login",
        "/_%fduth/login",
    ] {
        assert_eq!(ReturnTo::parse(text, &own()), None, "{text}");
    }
}

#[test]
fn the_oracles_detect_open_redirects() {
    for away in [
        "//evil.test",
        "/\\evil.test",
        "\t//evil.test",
        "/\n/evil.test",
        "https:evil.test",
    ] {
        assert_eq!(leads_to(away).as_deref(), Some("evil.test"), "{away:?}");
    }
    assert_eq!(
        leads_to("https://gw.test@evil.test/x").as_deref(),
        Some("evil.test")
    );
    assert_eq!(without_dots("/.//evil.test"), "//evil.test");
}

#[test]
fn debug_output_does_not_show_the_query() {
    let shown = format!(
        "{:?}",
        ReturnTo::parse("/reset?token=canary", &own()).unwrap()
    );
    assert!(
        shown.contains("/reset") && !shown.contains("canary"),
        "{shown}"
    );
}

#[test]
fn only_what_was_sealed_for_an_origin_opens_there() {
    let keys = KeyRing::random().unwrap();
    let wanted = ReturnTo::parse("/a/b?c=d", &own()).unwrap();
    let sealed = wanted.seal(&keys, SITE).unwrap();
    assert_eq!(
        ReturnTo::unseal(&sealed, (&keys, &own()), SITE),
        Some(wanted)
    );
    assert_eq!(
        ReturnTo::unseal(&sealed, (&keys, &own()), "https://other.test"),
        None
    );
    let others = KeyRing::random().unwrap();
    assert_eq!(ReturnTo::unseal(&sealed, (&others, &own()), SITE), None);
    let cut = sealed.get(1..).unwrap();
    let long = sealed.repeat(100);
    for bad in ["", "/a/b?c=d", "L2EvYg", cut, long.as_str()] {
        assert_eq!(ReturnTo::unseal(bad, (&keys, &own()), SITE), None, "{bad}");
    }
    let longest = ReturnTo::parse(&format!("/{}", "a".repeat(MAX_SHORT - 1)), &own()).unwrap();
    assert!(longest.is_short());
    let sealed = longest.seal(&keys, SITE).unwrap();
    assert_eq!(
        ReturnTo::unseal(&sealed, (&keys, &own()), SITE),
        Some(longest)
    );
}
