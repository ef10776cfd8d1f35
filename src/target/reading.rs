//! Paths with unusual forms, and the ways in which an app may read such a path.
//!
//! A path with an unusual form has several readings. For example, an app may read `/a%2Fb` as one
//! segment or as the path `/a/b`. Every reading of an accepted path is safe: if the reading is
//! written as a usual path, [`canonical`] accepts the path.

use std::collections::BTreeSet;

use super::fold::{name, octets};
use super::path::{Unit, canonical, check_normal_form};
use super::{Error, Form, Forms, Prefix};

/// One way in which an app may read a path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Reading {
    /// The path as the app reads the path. If the app reads `%2F` or `%5C` as a character of a
    /// segment, the path contains `%2F` or `%5C`.
    path: String,
    /// Whether the path has octets whose character depends on the app, because the path is not
    /// UTF-8.
    has_unknown: bool,
}

impl Reading {
    /// The only reading of a usual path.
    pub(crate) fn usual(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            has_unknown: false,
        }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns true if an app may read the path as `prefix` or as a path below `prefix`. The
    /// comparison is that of [`Prefix::covers`]. In addition, an octet whose character depends on the
    /// app is equal to every character.
    pub(crate) fn may_be_below(&self, prefix: &Prefix) -> bool {
        if prefix.covers(&self.path) {
            return true;
        }
        let mut segments = self.path.split('/').skip(1);
        self.has_unknown
            && prefix.folded_segments().all(|wanted| {
                let segment = segments.next();
                segment.is_some_and(|segment| may_be_equal(segment, wanted))
            })
    }

    /// Returns true if no reading hides a dot segment, a control character or a double encoding in
    /// this path.
    fn is_safe(&self) -> bool {
        // A URL parser reads the first segment after two slashes as a host.
        if self.path.starts_with("//") {
            return false;
        }
        // The letter `x` stands for each character that is neither a dot nor a separator.
        let known = merged(&self.path.replace("%2F", "x").replace("%5C", "x"));
        let usual = if self.has_unknown {
            merged(&replace_octets(&known, "x"))
        } else {
            known.clone()
        };
        let below = known.as_bytes().get(1..).unwrap_or_default();
        canonical(&usual).is_ok() && check_normal_form(below).is_ok()
    }
}

/// Stands for an octet whose character depends on the app.
const UNKNOWN: char = '\u{fffd}';

/// Returns true if an app may read `segment` as a segment with the normal form `wanted`. An octet
/// outside ASCII is equal to every character and to the empty text, because an encoding may have a
/// full-width letter at this octet, or may leave it out. The ASCII octet after such an
/// octet may belong to the same character.
fn may_be_equal(segment: &str, wanted: &str) -> bool {
    let known = |octet: u8| match char::from(octet.to_ascii_lowercase()) {
        known if known.is_ascii() => known,
        _unknown => UNKNOWN,
    };
    let text: String = octets(segment.as_bytes()).into_iter().map(known).collect();
    // All texts that may still follow in the segment.
    let mut rests = BTreeSet::from([wanted]);
    let mut before = ' ';
    for character in name(&text).chars() {
        let mut next = BTreeSet::new();
        for rest in rests {
            if character == UNKNOWN {
                next.extend(ends(rest).take_while(|end| is_one_character(rest, end)));
            } else {
                next.extend(rest.strip_prefix(character));
                next.extend(Some(rest).filter(|_| before == UNKNOWN));
            }
        }
        (rests, before) = (next, character);
    }
    rests.contains("")
}

/// Returns true if `text` without its end `end` has at most one character with marks. The normal form
/// has each mark as a character outside ASCII.
fn is_one_character(text: &str, end: &str) -> bool {
    let read = text.strip_suffix(end).unwrap_or_default();
    read.chars().skip(1).all(|mark| !mark.is_ascii())
}

/// Returns a text, the text without its first character, and so on, up to the empty text.
fn ends(text: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(text), |text| {
        let mut characters = text.chars();
        characters.next().map(|_| characters.as_str())
    })
}

/// Returns the canonical form of a path with unusual forms, its forms, and all its readings.
/// Returns `None` if the path has a form that is not in `allowed`, if a reading is not safe, or if
/// the path has no unusual form.
pub(super) fn unusual(path: &str, allowed: Forms) -> Option<(String, Forms, Vec<Reading>)> {
    if allowed.is_empty() || !path.starts_with('/') {
        return None;
    }
    let path = spelled(path)?;
    let forms = forms(&path);
    if forms.is_empty() || !allowed.include(forms) || has_overlong_form(&path) {
        return None;
    }
    let readings = readings(&path, forms);
    let is_safe = readings.iter().all(Reading::is_safe);
    is_safe.then_some((path, forms, readings))
}

/// Writes a path in its canonical spelling, with `%2F` for an encoded slash and `%5C` for a
/// backslash.
fn spelled(path: &str) -> Option<String> {
    let mut text = String::with_capacity(path.len());
    let mut rest = path.as_bytes();
    loop {
        rest = match Unit::first(rest) {
            Ok(None) => return Some(text),
            Ok(Some((unit, after))) => {
                unit.spell(&mut text);
                after
            }
            Err(Error::HiddenSeparator) => {
                let (spelling, after) = hidden_separator(rest)?;
                text.push_str(spelling);
                after
            }
            Err(_) => return None,
        };
    }
}

/// Returns the canonical spelling of the backslash or the encoded separator at the beginning of a
/// path, and the rest of the path.
fn hidden_separator(rest: &[u8]) -> Option<(&'static str, &[u8])> {
    match rest {
        [b'%', b'2', _, after @ ..] => Some(("%2F", after)),
        [b'\\', after @ ..] | [b'%', _, _, after @ ..] => Some(("%5C", after)),
        _ => None,
    }
}

/// Returns the unusual forms of a path in canonical spelling. A separator that makes an empty
/// segment in some reading counts as an empty segment.
fn forms(path: &str) -> Forms {
    let octets: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    let separated = path.replace("%2F", "/").replace("%5C", "/");
    Forms::default()
        .with(Form::Backslash, path.contains("%5C"))
        .with(Form::EmptySegment, separated.contains("//"))
        .with(Form::EncodedSlash, path.contains("%2F"))
        .with(Form::NonUtf8, std::str::from_utf8(&octets).is_err())
}

/// Returns true if a lenient decoder of UTF-8 may decode a part of the path to an ASCII character,
/// such as `%C0%AE` to a dot.
fn has_overlong_form(path: &str) -> bool {
    let octets: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    octets.windows(2).any(|pair| {
        matches!(
            pair,
            // Some decoders do not check the second octet.
            [0xc0 | 0xc1, _]
                | [0xe0, 0x80..=0x9f]
                | [0xf0, 0x80..=0x8f]
                | [0xf8, 0x80..=0x87]
                | [0xfc, 0x80..=0x83]
        )
    })
}

/// Returns all readings of a path in canonical spelling. The first reading is the path itself.
pub(super) fn readings(path: &str, forms: Forms) -> Vec<Reading> {
    let has_unknown = forms.has(Form::NonUtf8);
    let mut readings = vec![Reading {
        path: path.to_owned(),
        has_unknown,
    }];
    if forms.has(Form::EncodedSlash) {
        add(&mut readings, |path| path.replace("%2F", "/"), has_unknown);
    }
    if forms.has(Form::Backslash) {
        add(&mut readings, |path| path.replace("%5C", "/"), has_unknown);
        // Some apps remove the backslash as an escape character.
        add(&mut readings, |path| path.replace("%5C", ""), has_unknown);
    }
    // An empty segment can also come from a segment whose octets are all left out.
    add(&mut readings, merged, has_unknown);
    if has_unknown {
        // Some decoders leave out the octets that they cannot decode.
        add(&mut readings, |path| replace_octets(path, ""), false);
        add(&mut readings, merged, false);
    }
    readings
}

/// Adds a changed copy of each reading for which `change` makes a difference.
fn add(readings: &mut Vec<Reading>, change: impl Fn(&str) -> String, has_unknown: bool) {
    for position in 0..readings.len() {
        let Some(path) = readings.get(position).map(|reading| change(&reading.path)) else {
            return;
        };
        if readings.iter().all(|reading| reading.path != path) {
            readings.push(Reading { path, has_unknown });
        }
    }
}

/// Removes the empty segments of a path, except for an empty last segment.
fn merged(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !text.ends_with('/') {
            text.push(character);
        }
    }
    text
}

/// Replaces each percent-encoded octet outside ASCII.
fn replace_octets(path: &str, replacement: &str) -> String {
    let mut parts = path.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let is_ascii = part.starts_with(|digit: char| digit.is_digit(8));
        match part.get(2..) {
            Some(after) if !is_ascii => text.extend([replacement, after]),
            _ => text.extend(["%", part]),
        }
    }
    text
}

#[cfg(test)]
#[path = "reading_tests.rs"]
mod tests;
