//! The normal form of a path, which is the same for all spellings that an app may read as one path.
//!
//! The normal form has no percent-encodings, even if they are encoded twice. The other steps are:
//!
//! - Characters that Unicode ignores by default (such as U+200B and U+00AD), and control characters
//!   outside ASCII, are left out.
//! - The compatibility decomposition (NFKD, UAX #15) replaces a composed letter, a full-width letter
//!   and a ligature by plain letters and marks.
//! - The case is folded: each character becomes the lower case of its upper case. `ı` and `İ` become
//!   `i`.
//! - A segment ends before the first `;`, `?`, `#` or `:$`. Spaces at both ends of a segment, and dots
//!   at its end, are left out.

use icu_normalizer::DecomposingNormalizerBorrowed;
use icu_properties::CodePointSetData;
use icu_properties::props::DefaultIgnorableCodePoint;

use super::path::{decoded, is_unreserved};

/// A path in its normal form. If a prefix covers a path ([`super::Prefix::covers`]), the normal form
/// of the path begins with the normal form of the prefix.
#[derive(Debug, Default)]
pub(crate) struct FoldedPath {
    text: String,
    /// The end of each segment in the text.
    ends: Vec<usize>,
}

impl FoldedPath {
    /// Normalizes the first `depth` segments of a path. If `depth` is 0, the function allocates
    /// nothing. A full-width slash separates segments, so a segment of `path` can become several
    /// segments.
    pub(crate) fn of(path: &str, depth: usize) -> Self {
        let path = path.strip_suffix('/').unwrap_or(path);
        Self::of_plain(path, depth).unwrap_or_else(|| Self::of_text(&folded(path), depth))
    }

    /// Returns the normal form of a whole path.
    pub(crate) fn whole(path: &str) -> String {
        let (text, _segments) = Self::of(path, usize::MAX).into_text();
        if text.is_empty() {
            "/".to_owned()
        } else {
            text
        }
    }

    /// Normalizes a path quickly. Returns `None` if the first `depth` segments have characters that
    /// only [`folded`] reads.
    fn of_plain(path: &str, depth: usize) -> Option<Self> {
        let mut normal = Self::default();
        let is_plain = |byte: u8| byte.is_ascii() && !matches!(byte, b'%' | b'\\');
        // A path begins with a slash, so the text before the first slash is empty.
        for segment in path.split('/').skip(1).take(depth) {
            if segment.bytes().all(is_unreserved) {
                normal.push(segment.trim_end_matches('.'));
            } else if segment.bytes().all(is_plain) {
                normal.push(name(segment));
            } else {
                return None;
            }
        }
        Some(normal)
    }

    /// Reads a text that [`folded`] has returned.
    fn of_text(text: &str, depth: usize) -> Self {
        let mut normal = Self::default();
        for segment in text.split(['/', '\\']).skip(1).take(depth) {
            normal.push(name(segment));
        }
        normal
    }

    fn push(&mut self, name: &str) {
        self.text.push('/');
        let start = self.text.len();
        self.text.push_str(name);
        if let Some(name) = self.text.get_mut(start..) {
            name.make_ascii_lowercase();
        }
        self.ends.push(self.text.len());
    }

    /// Returns the normal form of every prefix, from the empty prefix to the whole text. Each prefix
    /// is one segment longer than the previous prefix.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = &str> {
        let ends = std::iter::once(&0).chain(&self.ends);
        ends.filter_map(|end| self.text.get(..*end))
    }

    /// Returns the whole text, and the number of its segments.
    pub(super) fn into_text(self) -> (String, usize) {
        (self.text, self.ends.len())
    }
}

/// Returns the name of a segment: the text before the parameters, without the characters at its ends
/// that some apps leave out.
pub(super) fn name(segment: &str) -> &str {
    // A program that looks for the query after it has decoded the path also finds the query of
    // `%3F`.
    let end = segment.find([';', '?', '#']);
    let name = end.and_then(|end| segment.get(..end)).unwrap_or(segment);
    // On Windows, `admin::$INDEX_ALLOCATION` is the folder `admin`.
    let stream = name.find(":$").and_then(|end| name.get(..end));
    let name = stream.map_or(name, |name| name.trim_end_matches(':'));
    let is_ending = |character: char| character == '.' || character.is_whitespace();
    name.trim_start().trim_end_matches(is_ending)
}

/// Decodes a path, and folds its characters. An octet that is not UTF-8 becomes U+FFFD.
fn folded(path: &str) -> String {
    let octets = octets(path.as_bytes());
    let text = String::from_utf8_lossy(&octets);
    if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        folded_characters(&text)
    }
}

/// Returns the octets of a path. Some apps decode a path that their server has already decoded, so
/// the path is decoded two times.
pub(super) fn octets(path: &[u8]) -> Vec<u8> {
    let once: Vec<u8> = decoded(path).collect();
    decoded(&once).collect()
}

/// Folds the characters of a decoded path.
pub(super) fn folded_characters(text: &str) -> String {
    let visible = text.chars().filter(|character| !is_ignored(*character));
    let decomposed = DecomposingNormalizerBorrowed::new_nfkd().normalize_iter(visible);
    let mut folded = String::with_capacity(text.len());
    for character in decomposed.flat_map(fold_case) {
        // `İ` is `I` with U+0307, and some programs also read `İ` as `i`.
        if character != '\u{307}' || !folded.ends_with('i') {
            folded.push(character);
        }
    }
    folded
}

/// Returns true if some programs leave out the character. .NET compares texts without such
/// characters, and HFS+ compares the names of files without such characters.
fn is_ignored(character: char) -> bool {
    let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    character.is_control() || ignorable.contains(character)
}

/// Folds the case of a character. Programs compare in lower case, in upper case, or by the case
/// folding of Unicode; all of them agree about the lower case of the upper case. The lower case comes
/// first, because `ẞ` has no upper case.
fn fold_case(character: char) -> impl Iterator<Item = char> {
    let lower = character.to_lowercase();
    lower
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(path: &str) -> String {
        FoldedPath::of(path, usize::MAX).into_text().0
    }

    #[test]
    fn a_folded_path_keeps_the_names_of_segments_in_lower_case() {
        for (path, depth, wanted) in [
            ("/Admin/users", 0, &[""][..]),
            ("/Admin/users", 1, &["", "/admin"]),
            ("/Admin/users", 9, &["", "/admin", "/admin/users"]),
            (
                "/Admin%20;x=1/v1.2.%20./",
                2,
                &["", "/admin", "/admin/v1.2"],
            ),
            ("/;x/.../a", 3, &["", "/", "//", "///a"]),
            ("/", 2, &[""]),
            // Only the first segments are read.
            ("/Admin/%C3%89", 1, &["", "/admin"]),
            ("/%C3%89/%C3%89", 1, &["", "/e\u{301}"]),
            // A full-width slash and a full-width backslash separate segments.
            ("/a%EF%BC%8Fb%EF%BC%BCc/d", 3, &["", "/a", "/a/b", "/a/b/c"]),
        ] {
            let folded = FoldedPath::of(path, depth);
            let wanted = wanted.iter().copied();
            assert!(folded.prefixes().eq(wanted), "{path} {folded:?}");
        }
    }

    #[test]
    fn the_quick_form_and_the_full_form_of_a_plain_path_are_the_same() {
        for path in ["/Admin/users", "/a;x=1/B.../c.d.", "/a:b/a::$DATA/x", "/"] {
            let quick = FoldedPath::of_plain(path, 9).unwrap();
            let full = FoldedPath::of_text(&folded(path), 9);
            assert_eq!(quick.text, full.text, "{path}");
            assert_eq!(quick.ends, full.ends, "{path}");
        }
    }

    /// The rows of the table of spellings have the same normal form.
    #[test]
    fn p_37_every_row_of_the_table_of_spellings_has_one_normal_form() {
        let table = include_str!("../../tests/data/spellings.txt");
        let mut count = 0;
        for row in table.lines().filter(|line| !line.starts_with('#')) {
            let [one, other, ..] = row.split('\t').collect::<Vec<_>>()[..] else {
                panic!("two columns: {row}");
            };
            assert_eq!(normal(one), normal(other), "{row}");
            count += 1;
        }
        assert!(count >= 40, "{count}");
    }

    /// Programs compare the lower case, the upper case or a normal form of Unicode. For every
    /// character, the normal form of a path is the same after each of these conversions.
    #[test]
    fn p_37_the_case_and_the_normal_forms_of_every_character_have_one_normal_form() {
        use icu_normalizer::ComposingNormalizerBorrowed;
        let composed = [
            ComposingNormalizerBorrowed::new_nfc(),
            ComposingNormalizerBorrowed::new_nfkc(),
        ];
        let decomposed = [
            DecomposingNormalizerBorrowed::new_nfd(),
            DecomposingNormalizerBorrowed::new_nfkd(),
        ];
        let mut compared = 0;
        for character in ('\u{80}'..=char::MAX).filter(|character| !is_ignored(*character)) {
            let text = character.to_string();
            let wanted = folded_characters(&text);
            let others = [
                text.to_lowercase(),
                text.to_uppercase(),
                text.to_lowercase().to_uppercase(),
                text.to_uppercase().to_lowercase(),
                wanted.clone(),
            ];
            let composed = composed
                .iter()
                .map(|form| form.normalize(&text).into_owned());
            let decomposed = decomposed
                .iter()
                .map(|form| form.normalize(&text).into_owned());
            for other in others.into_iter().chain(composed).chain(decomposed) {
                let found = folded_characters(&other);
                assert_eq!(found, wanted, "U+{:04X} {other:?}", u32::from(character));
                compared += 1;
            }
        }
        assert!(compared > 9_000_000, "{compared}");
    }
}
