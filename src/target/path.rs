//! Converts paths to their canonical form, or rejects them.

use std::borrow::Cow;

use super::Error;
use super::byte_set::ByteSet;
use super::fold::{folded_characters, octets};

/// The unreserved characters (RFC 3986 section 2.3).
static UNRESERVED: ByteSet = ByteSet::alphanumeric_and(b"-._~");

/// Converts a path to its canonical form (RFC 3986 section 6.2.2), or rejects the path. A path that
/// is already canonical is returned as [`Cow::Borrowed`]. A second conversion of a path changes
/// nothing.
///
/// Percent-encoded unreserved characters are decoded, and other encodings get upper-case digits.
/// Characters that are not allowed in a path (non-ASCII characters, and ASCII characters such as
/// `"` or `|`) are encoded. Reserved characters that are allowed in a path, such as `;`, are
/// neither encoded nor decoded. For example, `a%3Bb` and `a;b` stay different, because apps
/// distinguish them.
///
/// # Errors
///
/// Returns an [`Error`] that states why the path is rejected. The function rejects forms that apps
/// may read in different ways: dot segments, encoded separators, empty segments, control
/// characters, bytes that are not UTF-8, and all of these in a double encoding. The function also
/// rejects dot segments and empty segments that exist only after a normalization of Unicode, such as
/// `．．`.
pub(crate) fn canonical(path: &str) -> Result<Cow<'_, str>, Error> {
    let rest = path.as_bytes().strip_prefix(b"/").ok_or(Error::WrongForm)?;
    if is_plain(rest) || is_canonical(rest)? {
        Ok(Cow::Borrowed(path))
    } else {
        Ok(Cow::Owned(rewrite(path)))
    }
}

/// Checks each byte of a path. The argument `path` is the path without its first slash. Returns
/// true if the path is already canonical, false if the path must be rewritten, or the reason for
/// the rejection.
fn is_canonical(path: &[u8]) -> Result<bool, Error> {
    let mut rest = path;
    let mut check = Check::default();
    let (mut canonical, mut plain) = (true, true);
    while let Some((unit, after)) = Unit::first(rest)? {
        check.add(unit.byte)?;
        canonical &= unit.canonical;
        // An app may decode a percent sign a second time.
        plain &= unit.byte.is_ascii() && unit.byte != b'%';
        rest = after;
    }
    check.finish()?;
    if !plain {
        check_normal_form(path)?;
    }
    Ok(canonical)
}

/// Checks a path for an app that decodes a path a second time, or normalizes the characters of a
/// decoded path, before the app looks for separators and dot segments. For example, such an app reads
/// `．` as a dot and `／` as a slash. The argument `path` is the path without its first slash.
#[cold]
pub(super) fn check_normal_form(path: &[u8]) -> Result<(), Error> {
    let octets = octets(path);
    let mut check = Check::default();
    for character in folded_characters(&String::from_utf8_lossy(&octets)).chars() {
        check.add(match character {
            '\\' => b'/',
            space if space.is_whitespace() => b' ',
            // The letter `x` stands for each character that is neither a dot nor a separator.
            other => u8::try_from(other)
                .ok()
                .filter(u8::is_ascii)
                .unwrap_or(b'x'),
        })?;
    }
    check.finish()
}

/// Checks a path quickly. The argument `path` does not contain the first slash of the path. Returns
/// true if the path is certainly canonical: it has only unreserved characters, and no segment is
/// empty or begins with a dot. For nearly all paths, the quick check returns true. If a path fails
/// the quick check, `is_canonical` checks each byte.
fn is_plain(path: &[u8]) -> bool {
    let mut before = b'/';
    path.iter().all(|byte| {
        let fine = match byte {
            b'/' | b'.' => before != b'/',
            byte => is_unreserved(*byte),
        };
        before = *byte;
        fine
    })
}

/// Returns the bytes of a path with its percent-encodings decoded. A malformed percent-encoding,
/// which a canonical path never has, is returned unchanged.
pub(super) fn decoded(path: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = path;
    std::iter::from_fn(move || {
        let (byte, after) = match Unit::first(rest) {
            Ok(found) => found.map(|(unit, after)| (unit.byte, after))?,
            Err(_) => rest.split_first().map(|(byte, after)| (*byte, after))?,
        };
        rest = after;
        Some(byte)
    })
}

/// Returns the canonical form of a path that has passed the check.
fn rewrite(path: &str) -> String {
    let mut text = String::with_capacity(path.len().saturating_add(16));
    let mut rest = path.as_bytes();
    while let Ok(Some((unit, after))) = Unit::first(rest) {
        unit.spell(&mut text);
        rest = after;
    }
    text
}

/// One decoded byte of a path, and how the path spells the byte.
pub(super) struct Unit {
    byte: u8,
    /// The byte is percent-encoded in the path.
    encoded: bool,
    /// True if the spelling of this byte in the path is canonical.
    canonical: bool,
}

impl Unit {
    /// Decodes the first byte of a path. Returns the decoded byte and the rest of the path. Returns
    /// `None` at the end of the path.
    pub(super) fn first(rest: &[u8]) -> Result<Option<(Self, &[u8])>, Error> {
        match rest {
            [] => Ok(None),
            [b'%', high, low, after @ ..] => {
                let (Some(upper), Some(lower)) = (hex(*high), hex(*low)) else {
                    return Err(Error::MalformedPercent);
                };
                let byte = upper.wrapping_shl(4) | lower;
                if matches!(byte, b'/' | b'\\') {
                    return Err(Error::HiddenSeparator);
                }
                let small = high.is_ascii_lowercase() || low.is_ascii_lowercase();
                let canonical = !small && !is_unreserved(byte);
                Ok(Some((
                    Self {
                        byte,
                        encoded: true,
                        canonical,
                    },
                    after,
                )))
            }
            [b'%', ..] => Err(Error::MalformedPercent),
            [b'\\', ..] => Err(Error::HiddenSeparator),
            // `?` and `#` end a path, so a text with an unencoded `?` or `#` is not a path.
            [b'?' | b'#', ..] => Err(Error::WrongForm),
            [byte, after @ ..] => Ok(Some((
                Self {
                    byte: *byte,
                    encoded: false,
                    canonical: is_path(*byte),
                },
                after,
            ))),
        }
    }

    /// Appends the canonical spelling of the byte to `text`.
    pub(super) fn spell(&self, text: &mut String) {
        let plain = if self.encoded {
            is_unreserved(self.byte)
        } else {
            is_path(self.byte)
        };
        if plain {
            text.push(char::from(self.byte));
        } else {
            text.push_str(percent_encoding::percent_encode_byte(self.byte));
        }
    }
}

/// How a lenient app could interpret the bytes of a segment that the check has already read.
#[derive(Clone, Copy, Default)]
enum Segment {
    #[default]
    Empty,
    /// The segment consists only of spaces. Some file systems ignore a name that consists of
    /// spaces.
    Blank,
    /// The segment has parameters but no name. An example is `;a=b`. A servlet container treats a
    /// segment without a name as an empty segment.
    OnlyParameters,
    Dot,
    DotDot,
    /// The segment has one or two dots, followed by spaces.
    DotsAndSpace,
    Named,
}

impl Segment {
    fn add(self, byte: u8) -> Result<Self, Error> {
        match (self, byte) {
            // Some apps remove the spaces at the start of a segment.
            (Self::Empty | Self::Blank, b'.') => Ok(Self::Dot),
            (Self::Empty | Self::Blank, b' ') => Ok(Self::Blank),
            (Self::Empty | Self::Blank, b';') => Ok(Self::OnlyParameters),
            (Self::Dot, b'.') => Ok(Self::DotDot),
            (Self::Dot | Self::DotDot | Self::DotsAndSpace, b' ') => Ok(Self::DotsAndSpace),
            // A lenient app may read the rest of the segment as parameters, a query or a fragment.
            (Self::Dot | Self::DotDot | Self::DotsAndSpace, b';' | b'?' | b'#') => {
                Err(Error::DotSegment)
            }
            // Everything after the semicolon is a parameter and does not belong to the name of the
            // segment.
            (Self::OnlyParameters, _) => Ok(self),
            _ => Ok(Self::Named),
        }
    }

    fn end(self, last: Last) -> Result<(), Error> {
        match self {
            Self::Dot | Self::DotDot | Self::DotsAndSpace => Err(Error::DotSegment),
            Self::Empty | Self::Blank | Self::OnlyParameters => match last {
                Last::No => Err(Error::EmptySegment),
                Last::Yes => Ok(()),
            },
            Self::Named => Ok(()),
        }
    }
}

/// States whether a segment is the last segment of its path.
#[derive(Clone, Copy)]
enum Last {
    No,
    Yes,
}

/// States whether the last decoded bytes are the beginning of another percent-encoding. The
/// beginning of a percent-encoding is a percent sign, or a percent sign and one digit. If a decoded
/// path contains another percent-encoding, an app that decodes the path two times would decode this
/// percent-encoding, too.
#[derive(Clone, Copy, Default)]
enum SecondDecoding {
    #[default]
    Nothing,
    Percent,
    High(u8),
}

/// Checks the decoded bytes of a path, one after the other.
#[derive(Default)]
struct Check {
    segment: Segment,
    second: SecondDecoding,
    /// The decoded bytes of the current UTF-8 character, until the character is complete.
    character: [u8; 4],
    character_length: usize,
}

impl Check {
    fn add(&mut self, byte: u8) -> Result<(), Error> {
        if byte.is_ascii_control() {
            return Err(Error::ControlCharacter);
        }
        self.check_utf8(byte)?;
        self.check_second_decoding(byte)?;
        // The slash in `byte` is not percent-encoded, because `Unit::first` rejects encoded
        // slashes.
        if byte == b'/' {
            self.segment.end(Last::No)?;
            self.segment = Segment::Empty;
        } else {
            self.segment = self.segment.add(byte)?;
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), Error> {
        if self.character_length != 0 {
            return Err(Error::NotUtf8);
        }
        self.segment.end(Last::Yes)
    }

    fn check_utf8(&mut self, byte: u8) -> Result<(), Error> {
        if byte.is_ascii() {
            return if self.character_length == 0 {
                Ok(())
            } else {
                Err(Error::NotUtf8)
            };
        }
        let free = self
            .character
            .get_mut(self.character_length)
            .ok_or(Error::NotUtf8)?;
        *free = byte;
        self.character_length = self.character_length.saturating_add(1);
        let so_far = self
            .character
            .get(..self.character_length)
            .unwrap_or_default();
        match std::str::from_utf8(so_far) {
            Ok(_) => {
                self.character_length = 0;
                Ok(())
            }
            // The bytes are the beginning of a character that is not complete yet.
            Err(error) if error.error_len().is_none() => Ok(()),
            Err(_) => Err(Error::NotUtf8),
        }
    }

    fn check_second_decoding(&mut self, byte: u8) -> Result<(), Error> {
        self.second = match (self.second, hex(byte)) {
            // A decoded percent sign always comes from `%25` in the path.
            _ if byte == b'%' => SecondDecoding::Percent,
            (SecondDecoding::Percent, Some(high)) => SecondDecoding::High(high),
            (SecondDecoding::High(high), Some(low)) => {
                let decoded = high.wrapping_shl(4) | low;
                // When an app decodes the path a second time, only control characters, dots,
                // slashes, backslashes, percent signs and semicolons can change the meaning of the
                // path.
                if decoded.is_ascii_control() || b"./\\%;".contains(&decoded) {
                    return Err(Error::DoublyEncoded);
                }
                SecondDecoding::Nothing
            }
            (SecondDecoding::Nothing | SecondDecoding::Percent | SecondDecoding::High(_), _) => {
                SecondDecoding::Nothing
            }
        };
        Ok(())
    }
}

/// Returns the value of a hexadecimal digit.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(digit.wrapping_sub(b'a').wrapping_add(10)),
        b'A'..=b'F' => Some(digit.wrapping_sub(b'A').wrapping_add(10)),
        _ => None,
    }
}

/// Returns true if a byte is `unreserved` (RFC 3986 section 2.3).
pub(super) fn is_unreserved(byte: u8) -> bool {
    UNRESERVED.contains(byte)
}

/// Returns true if a byte is a slash or a `pchar` (RFC 3986 section 3.3) outside a
/// percent-encoding.
fn is_path(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b','
        )
        || matches!(byte, b';' | b'=' | b':' | b'@' | b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_check_and_the_full_check_agree() {
        const LETTERS: [u8; 6] = *b"/.a%;~";
        let mut plain = 0;
        for number in 0..LETTERS.len().pow(6) {
            let digit = |place: u32| (number / LETTERS.len().pow(place)) % LETTERS.len();
            let path: Vec<u8> = (0..6).map(|place| LETTERS[digit(place)]).collect();
            if is_plain(&path) {
                plain += 1;
                assert_eq!(is_canonical(&path), Ok(true), "{}", path.escape_ascii());
            }
        }
        assert!(plain > 500, "{plain}");
    }

    #[test]
    fn the_first_fault_in_a_path_is_the_one_that_is_reported() {
        for (path, fault) in [
            ("/%ff%00", Error::NotUtf8),
            ("/%00%ff", Error::ControlCharacter),
            ("/%c3%c3%zz", Error::NotUtf8),
            ("/%zz%c3%c3", Error::MalformedPercent),
        ] {
            assert_eq!(canonical(path), Err(fault), "{path}");
        }
    }
}
