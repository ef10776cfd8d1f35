//! The encodings of a claim in a field, for apps that cannot read bytes outside ASCII.

use std::borrow::Cow;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// The encoding of a claim in a field.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    /// The field contains the bytes of the claim in UTF-8.
    #[default]
    Raw,
    /// Percent-encoding (RFC 3986 section 2.1) of `%` and of all bytes outside printable ASCII.
    Percent,
    /// Encoded words (RFC 2047), if the claim has characters outside printable ASCII.
    Rfc2047,
}

/// The start of an encoded word with the encoding `B`.
const WORD_START: &str = "=?utf-8?b?";
/// The end of an encoded word.
const WORD_END: &str = "?=";

/// The maximum number of bytes in one encoded word. RFC 2047 section 2 allows 75 characters for an
/// encoded word, so 63 characters remain for the base64 text, which can contain 45 bytes.
const WORD_BYTES: usize = 45;

impl Encoding {
    /// Returns the claim `text` in this encoding.
    pub(super) fn apply(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::Percent if !text.bytes().all(|byte| is_plain(byte) && byte != b'%') => {
                Cow::Owned(percent(text))
            }
            // An app decodes every encoded word. If a user could choose a name that is an encoded
            // word, the app would read the name of another user.
            Self::Rfc2047 if !text.bytes().all(is_plain) || text.contains("=?") => {
                Cow::Owned(encoded_words(text))
            }
            Self::Raw | Self::Percent | Self::Rfc2047 => Cow::Borrowed(text),
        }
    }
}

/// Returns true for a space and for a visible character of ASCII.
pub(super) fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~')
}

fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len().saturating_mul(3));
    for byte in text.bytes() {
        if is_plain(byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string never fails.
            write!(encoded, "%{byte:02X}").unwrap_or_default();
        }
    }
    encoded
}

/// Returns encoded words that are separated by spaces. A decoder removes a space between two
/// encoded words. All bytes of a character are in the same encoded word (RFC 2047 section 5).
fn encoded_words(text: &str) -> String {
    let mut words = String::with_capacity(text.len().saturating_mul(2));
    let mut rest = text;
    while !rest.is_empty() {
        let length = rest.floor_char_boundary(WORD_BYTES);
        let (part, after) = rest.split_at(length);
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(WORD_START);
        STANDARD.encode_string(part, &mut words);
        words.push_str(WORD_END);
        rest = after;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The columns of a row are separated by tabs: the attack or `-`, the encoding, the claim, and
    /// the value of the field.
    const ROWS: &str = include_str!("../../../tests/data/field_encodings.txt");

    #[test]
    fn h_40_every_claim_in_the_table_is_encoded_without_a_second_meaning() {
        let rows = ROWS.lines().filter(|line| !line.starts_with('#'));
        let mut count = 0;
        for row in rows {
            let [_attack, encoding, text, expected] = *row.split('\t').collect::<Vec<_>>() else {
                panic!("{row}")
            };
            let encoding: Encoding = serde_json::from_value(encoding.into()).unwrap();
            assert_eq!(encoding.apply(text), expected, "{row}");
            assert!(encoding == Encoding::Raw || encoding.apply(text).is_ascii());
            count += 1;
        }
        assert_eq!(count, 15);
    }

    #[test]
    fn an_encoded_word_has_at_most_75_characters_and_no_part_of_a_character() {
        for text in [
            "ä".repeat(200),
            "🦀".repeat(99),
            format!("a{}", "ä".repeat(99)),
        ] {
            let encoded = Encoding::Rfc2047.apply(&text).into_owned();
            let mut decoded = String::new();
            for word in encoded.split(' ') {
                assert!(word.len() <= 75, "{word}");
                let bytes = word.strip_prefix(WORD_START).unwrap();
                let bytes = STANDARD
                    .decode(bytes.strip_suffix(WORD_END).unwrap())
                    .unwrap();
                decoded.push_str(std::str::from_utf8(&bytes).unwrap());
            }
            assert_eq!(decoded, text);
        }
    }
}
