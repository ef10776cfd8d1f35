//! Tests of paths with unusual forms: a table of paths, and a property test with a lenient app.

use http::Version;
use proptest::prelude::*;

use super::*;
use crate::target::Target;
use crate::target::spelling_tests::{CONVERSIONS, TOKENS, is_ending, lenient_segments};
use crate::target::tests::{head, unescape};

/// The subsets of all forms.
fn sets() -> impl Iterator<Item = Forms> {
    const FORMS: [Form; 4] = [
        Form::Backslash,
        Form::EmptySegment,
        Form::EncodedSlash,
        Form::NonUtf8,
    ];
    (0..16_usize).map(|number| {
        let mut forms = FORMS.into_iter().enumerate();
        forms
            .try_fold(Forms::default(), |set, (bit, form)| {
                Some(set.with(form, number >> bit & 1 == 1))
            })
            .unwrap()
    })
}

fn rows(table: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = table.lines().filter(|line| !line.starts_with('#'));
    rows.map(|row| row.split('\t').collect())
}

/// Returns the strict result, and the target and its readings if the forms are allowed. Returns
/// `None` if the server's parser rejects the path.
#[expect(clippy::type_complexity, reason = "only this file uses this type")]
fn read(
    path: &[u8],
    allowed: Forms,
) -> Option<(Result<Target, Error>, Option<(Target, Vec<Reading>)>)> {
    let parts = head("GET", path, &[b"gw.test"], Version::HTTP_11)?;
    let unusual = Target::with_unusual_path(&parts, allowed);
    Some((Target::from_request(&parts), unusual))
}

/// Runs each row of the table with this id in every mode. Returns the number of rows.
fn run_table(id: &str) -> usize {
    let table = include_str!("../../tests/data/unusual_targets.txt");
    let mut count = 0_usize;
    for row in rows(table).filter(|row| row[0] == id) {
        count = count.saturating_add(1);
        let given = unescape(row[1]);
        for allowed in sets() {
            let (strict, unusual) = read(&given, allowed).unwrap();
            assert!(strict.is_err(), "{row:?}");
            let wanted = row[2].split(", ").collect::<Vec<_>>();
            let names = allowed.to_string();
            let is_allowed = wanted
                .iter()
                .all(|form| names.split(", ").any(|name| name == *form));
            let Some((target, readings)) = unusual else {
                assert!(!is_allowed, "{row:?} {names}");
                continue;
            };
            assert!(is_allowed, "{row:?} {names}");
            assert_eq!(target.forms().to_string(), row[2], "{row:?}");
            let given = String::from_utf8_lossy(&given);
            let canonical = if row[3] == "=" { &given } else { row[3] };
            assert_eq!(target.path_and_query().as_str(), canonical, "{row:?}");
            assert_eq!(target.readings(), readings);
            let others = readings.iter().skip(1).map(Reading::path);
            assert_eq!(others.collect::<Vec<_>>().join(" "), row[4], "{row:?}");
        }
    }
    count
}

#[test]
fn p_48_an_encoded_slash_is_a_character_and_a_separator() {
    assert!(run_table("P-48") >= 7);
}

#[test]
fn p_49_empty_segments_are_kept_and_left_out() {
    assert!(run_table("P-49") >= 3);
}

#[test]
fn p_50_a_backslash_is_a_character_and_a_separator() {
    assert!(run_table("P-50") >= 4);
}

#[test]
fn p_51_octets_that_are_not_utf8_are_unknown_or_left_out() {
    assert!(run_table("P-51") >= 7);
}

#[test]
fn p_52_a_dot_segment_in_any_reading_is_refused_in_every_mode() {
    assert!(run_table("P-52") >= 34);
}

#[test]
fn p_53_double_encodings_and_control_characters_are_refused_in_every_mode() {
    assert!(run_table("P-53") >= 10);
}

#[test]
fn p_54_a_reading_never_begins_with_two_slashes_and_has_no_blank_segment() {
    assert!(run_table("P-54") >= 14);
}

/// In every mode, a path of the table of targets is accepted only if it has only forms that the
/// mode allows. The table contains the attacks P-01 to P-46.
#[test]
fn p_01_to_p_46_no_mode_accepts_another_target_of_the_table() {
    let table = include_str!("../../tests/data/targets.txt");
    let mut accepted = BTreeSet::new();
    for row in rows(table) {
        for allowed in sets() {
            let Some((strict, unusual)) = read(&unescape(row[1]), allowed) else {
                continue;
            };
            let Some((target, _readings)) = unusual else {
                continue;
            };
            let reason = strict.unwrap_err();
            let forms = target.forms();
            assert!(!forms.is_empty() && allowed.include(forms), "{row:?}");
            let only_octets = Forms::default().with(Form::NonUtf8, true);
            let is_expected = (reason == Error::EmptySegment && forms.has(Form::EmptySegment))
                || (reason == Error::NotUtf8 && forms.has(Form::NonUtf8))
                || (reason == Error::HiddenSeparator && !only_octets.include(forms));
            assert!(is_expected, "{row:?}: {reason}");
            accepted.insert(row[1]);
        }
    }
    let expected = include_str!("../../tests/data/allowable_targets.txt");
    let expected: Vec<_> = rows(expected).map(|row| row[0]).collect();
    assert!(accepted.iter().eq(&expected), "{accepted:?}");
}

#[test]
fn p_51_octets_that_are_not_utf8_are_equal_to_every_character() {
    let below = |path: &str, prefix: &str| {
        let (_path, _forms, readings) = unusual(path, Forms::ALL).unwrap();
        let prefix = Prefix::parse(prefix).unwrap();
        readings.iter().any(|reading| reading.may_be_below(&prefix))
    };
    for path in [
        "/adm%EFn",
        "/ADM%EFN/x",
        "/adm%ffin",
        "/admin%ff",
        "/admin%a0;x",
        // A full-width letter of Shift_JIS: `Ａ` is 82 60, and `ａ` is 82 81.
        "/%82`dmin",
        "/%82%81dmin/x",
        // An octet that some apps leave out.
        "/ad%DEin",
        "/ad%ADmin",
        "/%A0admin%A0",
        "/adm%ffn%ff/x",
        "/x%ff%2fadmin",
    ] {
        assert!(
            below(
                path,
                if path.starts_with("/x") {
                    "/x"
                } else {
                    "/admin"
                }
            ),
            "{path}"
        );
        assert!(below(path, "/"), "{path}");
    }
    for path in [
        "/caf%E9",
        "/a%ff/dmin",
        "/administr%E9",
        "/%E9",
        "/x/admin%ff",
    ] {
        assert!(!below(path, "/admin"), "{path}");
    }
    // The same character has different lengths in Latin-1 and in UTF-8.
    for path in ["/caf%E9", "/caf%E9/x", "/caf%E9s/x"] {
        assert!(below(path, "/caf%C3%A9"), "{path}");
    }
    assert!(!below("/th%E9", "/caf%C3%A9"));
}

/// Returns the segments that a lenient app may find in `path`. The app leaves out octets that are
/// not UTF-8, reads the path as [`lenient_segments`], and merges slashes. Returns `None` if the app
/// finds a dot segment. The app reads `slash` for an encoded slash, and `backslash` for an encoded
/// backslash.
fn lenient(
    path: &str,
    (slash, backslash): (&str, &str),
    convert: fn(&str) -> String,
) -> Option<Vec<String>> {
    let path = path.replace("%2F", slash).replace("%5C", backslash);
    let mut text: Vec<u8> = percent_encoding::percent_decode_str(&path).collect();
    if std::str::from_utf8(&text).is_err() {
        text.retain(u8::is_ascii);
    }
    let mut walked: Vec<String> = Vec::new();
    for name in lenient_segments(text, convert) {
        match &*name {
            "" => {}
            "." | ".." => return None,
            name => walked.push(name.trim_end_matches(is_ending).to_owned()),
        }
    }
    Some(walked)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn p_47_some_reading_of_an_unusual_path_is_that_of_a_lenient_app(
        tokens in prop::collection::vec(prop::sample::select(&TOKENS[..]), 0..10)
    ) {
        let text = format!("/{}", tokens.concat());
        let Some((strict, unusual)) = read(text.as_bytes(), Forms::ALL) else {
            return Ok(());
        };
        let Some((target, readings)) = unusual else { return Ok(()) };
        prop_assert!(strict.is_err());
        // The canonical path is its own canonical path, and has the same readings.
        let again = super::unusual(target.path(), Forms::ALL).unwrap();
        prop_assert_eq!(&again.0, target.path());
        prop_assert_eq!(&again.2, &readings);
        let admin = Prefix::parse("/admin").unwrap();
        let separators = [("_", "_"), ("_", "/"), ("/", "_"), ("/", "/")];
        let apps = separators.into_iter().flat_map(|separators| {
            CONVERSIONS.into_iter().map(move |convert| (separators, convert))
        });
        for (separators, convert) in apps {
            let walked = lenient(target.path(), separators, convert);
            let walked = walked.expect("a dot segment in no reading");
            if walked.first().is_some_and(|first| first == "admin") {
                prop_assert!(
                    readings.iter().any(|reading| reading.may_be_below(&admin)),
                    "{} {readings:?}", target.path()
                );
            }
        }
        // A prefix that gives access matches a reading only if the protecting comparison does.
        for prefix in ["/", "/a", "/a/", "/admin", "/admin/a", "/a;"] {
            let prefix = Prefix::parse(prefix).unwrap();
            for reading in &readings {
                prop_assert!(!prefix.matches(reading.path()) || reading.may_be_below(&prefix));
            }
        }
    }
}
