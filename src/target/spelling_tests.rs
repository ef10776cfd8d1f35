//! Tests of other spellings of a path: a table, and a property test with lenient apps.

use http::Version;
use icu_normalizer::{ComposingNormalizer, ComposingNormalizerBorrowed};
use proptest::prelude::*;

use super::path::canonical as canonical_path;
use super::tests::{get, head, number, run_table};
use super::*;

/// Each row of the table of spellings has a prefix and a path that some app reads as the prefix.
#[test]
fn p_37_a_rule_covers_every_row_of_the_table_of_spellings_and_never_opens_it() {
    let table = include_str!("../../tests/data/spellings.txt");
    let mut count = 0;
    for row in table.lines().filter(|line| !line.starts_with('#')) {
        let [wanted, spelled, _why] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("three columns: {row}");
        };
        let prefix = Prefix::parse(wanted).unwrap();
        let below = format!("{}/x", spelled.trim_end_matches('/'));
        for spelled in [spelled, &below, &format!("{below}/%C3%A9")] {
            let target = get(spelled, &[b"gw.test"]).unwrap();
            assert!(prefix.covers(target.path()), "{row}: {spelled}");
            let rest = target.path().strip_prefix(wanted);
            let exact = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            assert_eq!(prefix.matches(target.path()), exact, "{row}: {spelled}");
        }
        // The prefix can also have the other spelling.
        let other = Prefix::parse(get(spelled, &[b"gw.test"]).unwrap().path()).unwrap();
        assert!(other.covers(wanted), "{row}");
        count += 1;
    }
    assert!(count >= 50, "{count}");
}

#[test]
fn p_37_another_path_is_not_covered() {
    for (prefix, path) in [
        ("/admin", "/admi%CC%81n"),
        ("/admin", "/admins"),
        ("/admin", "/%C3%A0dmin"),
        ("/admin", "/adm%C3%ACn"),
        ("/cafe", "/caf%C3%A9"),
        ("/caf%C3%A9", "/cafe"),
        ("/caf%C3%A9", "/caf%C3%A8"),
        ("/admin", "/admin%CC%81"),
        ("/admin", "/admin-"),
        ("/admin", "/.admin"),
        ("/admin", "/admin:x"),
        ("/a%25b", "/a%25c"),
        ("/%D0%B0dmin", "/admin"),
        ("/admin", "/x/admin"),
        ("/a/b", "/a/x/b"),
        ("/straat", "/stra%C3%9Ft"),
        ("/c", "/%C4%8B"),
    ] {
        let prefix = Prefix::parse(prefix).unwrap();
        assert!(!prefix.covers(path), "{prefix:?} {path}");
    }
}

/// The path of an app that normalizes Unicode before the app looks for separators.
#[test]
fn p_59_a_dot_segment_or_an_empty_segment_of_the_normal_form_is_refused() {
    assert!(run_table(|id| number(id) == 59) >= 14);
}

/// A segment with a full-width slash can be several segments.
#[test]
fn p_59_a_full_width_slash_separates_segments_for_a_rule_that_protects() {
    let admin = Prefix::parse("/admin/users").unwrap();
    for path in [
        "/admin%EF%BC%8Fusers/x",
        "/admin%EF%BC%8FUsers%EF%BC%8Fx",
        "/admin%EF%BC%BCusers",
        "/admin%EF%B9%A8users",
    ] {
        let target = get(path, &[b"gw.test"]).unwrap();
        assert!(admin.covers(target.path()), "{path}");
        assert!(!admin.matches(target.path()), "{path}");
    }
    // The number of segments in the settings is certain.
    let error = Prefix::parse("/admin%EF%BC%8Fusers").unwrap_err();
    assert_eq!(error, Error::HiddenSeparator);
}

/// The parts that the test combines into paths that are hard to parse.
pub(super) const TOKENS: [&str; 46] = [
    "/",
    "/",
    "/",
    "/",
    "a",
    "admin",
    "ADMIN",
    ".",
    "..",
    ";",
    "%2e",
    "%2E",
    "%2f",
    "%5c",
    "\\",
    "%25",
    "2e",
    "2",
    "e",
    "%",
    "%61",
    "%3b",
    "%20",
    "%00",
    "%c3%a9",
    "%c3",
    "\u{e9}",
    "|",
    "?",
    "%23",
    "=",
    "%3F",
    "61",
    "dmin",
    "adm%C4%B1n",
    "ADM%C4%B0N",
    "\u{ff41}dmin",
    "ad%C2%ADmin",
    "%E2%80%8B",
    "%C2%A0",
    "%E3%80%80",
    "%EF%BC%8E",
    "%EF%BC%8F",
    "%EF%BC%9B",
    "admi%CC%87n",
    "%CC%87",
];

/// Some ways in which apps convert the characters of a decoded path before they compare the path.
pub(super) const CONVERSIONS: [fn(&str) -> String; 8] = [
    str::to_ascii_lowercase,
    str::to_lowercase,
    |text| text.to_uppercase().to_lowercase(),
    // The simple lower case of `İ` is `i`.
    |text| text.replace('\u{130}', "i").to_lowercase(),
    |text| normalized(text, &ComposingNormalizer::new_nfc()).to_lowercase(),
    |text| {
        let composed = normalized(text, &ComposingNormalizer::new_nfc());
        composed.replace('\u{130}', "i").to_lowercase()
    },
    |text| normalized(text, &ComposingNormalizer::new_nfkc()).to_lowercase(),
    |text| {
        let kept = |character: &char| !['\u{ad}', '\u{200b}'].contains(character);
        text.chars().filter(kept).collect::<String>().to_lowercase()
    },
];

fn normalized(text: &str, form: &ComposingNormalizerBorrowed<'_>) -> String {
    form.normalize(text).into_owned()
}

/// Returns the segments that a lenient app may find in a path. The app decodes the path repeatedly,
/// converts the characters, reads backslashes as slashes, and drops the query, parameters, and the
/// spaces at both ends of a segment.
pub(super) fn lenient_segments(mut text: Vec<u8>, convert: fn(&str) -> String) -> Vec<String> {
    loop {
        let next: Vec<u8> = percent_encoding::percent_decode(&text).collect();
        if next == text {
            break;
        }
        text = next;
    }
    let text = convert(&String::from_utf8_lossy(&text)).replace('\\', "/");
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let segments = path.split('/').map(|segment| {
        let name = segment.split(';').next().unwrap_or_default();
        name.trim().to_owned()
    });
    segments.collect()
}

/// Returns the segments of `path` for a lenient app that also merges slashes and resolves dot
/// segments.
fn lenient(path: &str, convert: fn(&str) -> String) -> Vec<String> {
    let mut walked: Vec<String> = Vec::new();
    for name in lenient_segments(path.as_bytes().to_vec(), convert) {
        match &*name {
            "" | "." => {}
            ".." => drop(walked.pop()),
            name => walked.push(name.trim_end_matches(is_ending).to_owned()),
        }
    }
    walked
}

/// Returns true for the characters that an app leaves out at the end of a segment.
pub(super) fn is_ending(character: char) -> bool {
    character == '.' || character.is_whitespace()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn p_47_no_lenient_reading_of_an_accepted_path_bypasses_a_prefix(
        tokens in prop::collection::vec(prop::sample::select(&TOKENS[..]), 0..10)
    ) {
        let text = format!("/{}", tokens.concat());
        let Some(parts) = head("GET", text.as_bytes(), &[b"gw.test"], Version::HTTP_11) else {
            return Ok(());
        };
        let Ok(target) = Target::from_request(&parts) else { return Ok(()) };
        let path = target.path();

        // The function `canonical_path` does not change a path that is already canonical. A
        // canonical path has only characters that are allowed in a path.
        prop_assert_eq!(canonical_path(path).unwrap(), path);
        prop_assert!(path.starts_with('/') && !path.contains("//") && !path.contains('\\'));

        let admin = Prefix::parse("/admin").unwrap();
        for convert in CONVERSIONS {
            if lenient(path, convert).first().is_some_and(|first| first == "admin") {
                prop_assert!(admin.covers(path), "{path}");
            }
        }
        // If the exact comparison matches a path, the lenient comparison matches the path, too.
        for prefix in ["/", "/a", "/a/", "/admin", "/admin/a", "/a;"] {
            let prefix = Prefix::parse(prefix).unwrap();
            prop_assert!(!prefix.matches(path) || prefix.covers(path), "{prefix:?} {path}");
        }
    }
}
