//! The path function: text in, canonical text or refusal out.

use std::borrow::Cow;

use super::Error;

/// Makes a path canonical (RFC 3986 section 6.2.2), or refuses it. A canonical path comes back
/// borrowed; making a path canonical twice changes nothing more.
///
/// Percent-encoded unreserved characters are decoded, other encodings get upper-case digits, and
/// characters that may not stand in a path (UTF-8 and marks like `"` or `|`) are encoded. All
/// other paths are left alone: `a%3Bb` and `a;b` stay different, as they are for a backend.
///
/// # Errors
///
/// The [`Error`]s about paths. What two backends may read in two ways is refused here: dot
/// segments and separators in any coding, empty segments, control characters, bytes that are not
/// UTF-8, and double encodings of any of these.
pub(crate) fn canonical(path: &str) -> Result<Cow<'_, str>, Error> {
    let rest = path.as_bytes().strip_prefix(b"/").ok_or(Error::WrongForm)?;
    if is_plain(rest) || is_tidy(rest)? {
        Ok(Cow::Borrowed(path))
    } else {
        Ok(Cow::Owned(rewrite(path)))
    }
}

/// Looks at a path behind its first slash byte for byte: whether it came as the canonical form would
/// write it, or why it is refused.
fn is_tidy(mut rest: &[u8]) -> Result<bool, Error> {
    let mut check = Check::default();
    let mut tidy = true;
    while let Some((unit, behind)) = Unit::first(rest)? {
        check.take(unit.byte)?;
        tidy &= unit.tidy;
        rest = behind;
    }
    check.finish()?;
    Ok(tidy)
}

/// Whether a path, behind its first slash, is canonical beyond doubt: unreserved characters in
/// segments that neither are empty nor begin with a dot. Nearly all paths are; the others are looked
/// at byte for byte.
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

/// The bytes of a path with its percent-encodings decoded. A malformed encoding, which no
/// canonical path has, stands for itself.
pub(super) fn decoded(path: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = path;
    std::iter::from_fn(move || {
        let (byte, behind) = match Unit::first(rest) {
            Ok(found) => found.map(|(unit, behind)| (unit.byte, behind))?,
            Err(_) => rest.split_first().map(|(byte, behind)| (*byte, behind))?,
        };
        rest = behind;
        Some(byte)
    })
}

/// Writes the canonical form of a path that has passed the check.
fn rewrite(path: &str) -> String {
    let mut text = String::with_capacity(path.len().saturating_add(16));
    let mut rest = path.as_bytes();
    while let Ok(Some((unit, behind))) = Unit::first(rest) {
        let plain = if unit.encoded {
            is_unreserved(unit.byte)
        } else {
            is_path(unit.byte)
        };
        if plain {
            text.push(char::from(unit.byte));
        } else {
            text.push_str(percent_encoding::percent_encode_byte(unit.byte));
        }
        rest = behind;
    }
    text
}

/// One byte of a path, decoded.
struct Unit {
    byte: u8,
    /// It came percent-encoded.
    encoded: bool,
    /// It came as the canonical form would write it.
    tidy: bool,
}

impl Unit {
    /// Splits the first unit off; `None` at the end.
    fn first(rest: &[u8]) -> Result<Option<(Self, &[u8])>, Error> {
        match rest {
            [] => Ok(None),
            [b'%', high, low, behind @ ..] => {
                let (Some(upper), Some(lower)) = (hex(*high), hex(*low)) else {
                    return Err(Error::MalformedPercent);
                };
                let byte = upper.wrapping_shl(4) | lower;
                if matches!(byte, b'/' | b'\\') {
                    return Err(Error::HiddenSeparator);
                }
                let small = high.is_ascii_lowercase() || low.is_ascii_lowercase();
                let tidy = !small && !is_unreserved(byte);
                Ok(Some((
                    Self {
                        byte,
                        encoded: true,
                        tidy,
                    },
                    behind,
                )))
            }
            [b'%', ..] => Err(Error::MalformedPercent),
            [b'\\', ..] => Err(Error::HiddenSeparator),
            // They end a path: a text that has one plain is not a path.
            [b'?' | b'#', ..] => Err(Error::WrongForm),
            [byte, behind @ ..] => Ok(Some((
                Self {
                    byte: *byte,
                    encoded: false,
                    tidy: is_path(*byte),
                },
                behind,
            ))),
        }
    }
}

/// What a segment is so far, as a lax backend may read it.
#[derive(Clone, Copy, Default)]
enum Segment {
    #[default]
    Empty,
    /// Spaces, which some file systems drop.
    Blank,
    /// Parameters without a name: a servlet container reads an empty segment.
    OnlyParameters,
    Dot,
    DotDot,
    /// One or two dots, and spaces.
    DotsAndSpace,
    Named,
}

impl Segment {
    fn take(self, byte: u8) -> Result<Self, Error> {
        match (self, byte) {
            (Self::Empty, b'.') => Ok(Self::Dot),
            (Self::Empty | Self::Blank, b' ') => Ok(Self::Blank),
            (Self::Empty | Self::Blank, b';') => Ok(Self::OnlyParameters),
            (Self::Dot, b'.') => Ok(Self::DotDot),
            (Self::Dot | Self::DotDot | Self::DotsAndSpace, b' ') => Ok(Self::DotsAndSpace),
            // Behind these a backend may see parameters, a query or a fragment.
            (Self::Dot | Self::DotDot | Self::DotsAndSpace, b';' | b'?' | b'#') => {
                Err(Error::DotSegment)
            }
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

/// Whether a segment is the last one of its path.
#[derive(Clone, Copy)]
enum Last {
    No,
    Yes,
}

/// How far a second decoding would have come.
#[derive(Clone, Copy, Default)]
enum Second {
    #[default]
    Nothing,
    Percent,
    High(u8),
}

/// Looks at the decoded bytes of a path, one after the other.
#[derive(Default)]
struct Check {
    segment: Segment,
    second: Second,
    /// The bytes of a character that is not complete yet.
    character: [u8; 4],
    character_length: usize,
}

impl Check {
    fn take(&mut self, byte: u8) -> Result<(), Error> {
        if byte.is_ascii_control() {
            return Err(Error::ControlCharacter);
        }
        self.take_character(byte)?;
        self.take_second(byte)?;
        // A slash is always a plain one here: an encoded one has been refused.
        if byte == b'/' {
            self.segment.end(Last::No)?;
            self.segment = Segment::Empty;
        } else {
            self.segment = self.segment.take(byte)?;
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), Error> {
        if self.character_length != 0 {
            return Err(Error::NotUtf8);
        }
        self.segment.end(Last::Yes)
    }

    fn take_character(&mut self, byte: u8) -> Result<(), Error> {
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
            Err(error) if error.error_len().is_none() => Ok(()),
            Err(_) => Err(Error::NotUtf8),
        }
    }

    fn take_second(&mut self, byte: u8) -> Result<(), Error> {
        self.second = match (self.second, hex(byte)) {
            // A plain percent sign never gets here, so this one was encoded.
            _ if byte == b'%' => Second::Percent,
            (Second::Percent, Some(high)) => Second::High(high),
            (Second::High(high), Some(low)) => {
                let spelled = high.wrapping_shl(4) | low;
                if spelled.is_ascii_control() || b"./\\%;".contains(&spelled) {
                    return Err(Error::DoublyEncoded);
                }
                Second::Nothing
            }
            (Second::Nothing | Second::Percent | Second::High(_), _) => Second::Nothing,
        };
        Ok(())
    }
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(digit.wrapping_sub(b'a').wrapping_add(10)),
        b'A'..=b'F' => Some(digit.wrapping_sub(b'A').wrapping_add(10)),
        _ => None,
    }
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` of RFC 3986 section 3.3 without its percent-encodings, and the slash.
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
    fn whatever_is_plain_would_pass_the_whole_check() {
        const LETTERS: [u8; 6] = *b"/.a%;~";
        let mut plain = 0;
        for number in 0..LETTERS.len().pow(6) {
            let digit = |place: u32| (number / LETTERS.len().pow(place)) % LETTERS.len();
            let path: Vec<u8> = (0..6).map(|place| LETTERS[digit(place)]).collect();
            if is_plain(&path) {
                plain += 1;
                assert_eq!(is_tidy(&path), Ok(true), "{}", path.escape_ascii());
            }
        }
        assert!(plain > 500, "{plain}");
    }
}
