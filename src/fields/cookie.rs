//! Cookies, byte for byte.
//!
//! The splitter knows as little as a browser's serialiser writes: pairs are separated by `;`,
//! spaces and tabs around a pair do not count, the name is what stands before the first `=`. It
//! works on bytes and compares names exactly: trimming more (Unicode white space) lets another
//! site on a sibling domain set a cookie that reads as ours in spite of its prefix, and decoding
//! more (the whole field as text) lets it lock people out. A malformed pair is ignored by itself.
//!
//! Several `Cookie` lines, and the crumbs of HTTP/2 (RFC 9113 section 8.2.3), count as one.

use bytes::BytesMut;
use http::HeaderValue;
use http::header::COOKIE;
use memchr::memchr;

use super::View;

/// What a request says about one cookie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Found<'a> {
    /// There is no cookie of the name.
    Absent,
    /// The cookie's value. It may have come several times, each time the same.
    One(&'a [u8]),
    /// The name came with different values: somebody plants cookies, and none of them is to be
    /// believed.
    Conflicting,
}

/// Looks for the cookie `name`, compared byte for byte.
///
/// ```
/// use sidegate::fields::cookie::{Found, find};
///
/// let mut headers = http::HeaderMap::new();
/// headers.insert("cookie", "a=1; __Host-s=x; b".parse().unwrap());
/// assert_eq!(find(&headers, b"__Host-s"), Found::One(b"x"));
/// headers.append("cookie", "__Host-s=y".parse().unwrap());
/// assert_eq!(find(&headers, b"__Host-s"), Found::Conflicting);
/// ```
pub fn find<'a>(fields: &'a (impl View + ?Sized), name: &[u8]) -> Found<'a> {
    let mut values = matching(fields, |found| found == name).map(|(_, value)| value);
    match values.next() {
        None => Found::Absent,
        Some(first) if values.all(|value| value == first) => Found::One(first),
        Some(_) => Found::Conflicting,
    }
}

/// The `Cookie` line of a request that has no other.
pub(crate) fn only_line(fields: &(impl View + ?Sized)) -> Option<&[u8]> {
    let mut lines = fields.values(&COOKIE);
    let line = lines.next()?;
    lines.next().is_none().then_some(line)
}

/// The names and values of all cookies whose name `wanted` picks, in the order they came.
pub(crate) fn matching(
    fields: &(impl View + ?Sized),
    wanted: impl Fn(&[u8]) -> bool,
) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pieces = fields.values(&COOKIE).flat_map(pieces);
    pieces
        .filter_map(split_pair)
        .filter(move |(name, _)| wanted(name))
}

/// What is left of a request's cookies without ours.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum Others {
    /// What came, untouched.
    All,
    /// This line in place of what came, marked sensitive.
    Line(HeaderValue),
    /// Nothing.
    Nothing,
}

/// Leaves the cookies out whose name `is_own` picks; the others stay byte for byte, in their order
/// and with their separators. Several lines become one, joined with `; `, because an HTTP/1
/// server may read only one.
///
/// A single line without a cookie of ours is left untouched, and nothing is allocated then.
pub fn others(fields: &(impl View + ?Sized), is_own: impl Fn(&[u8]) -> bool) -> Others {
    // Wider than `find`: a space before the `=` makes a name that is not ours, but a backend may
    // trim it and see our value.
    let is_own = |piece: &&[u8]| split_pair(piece).is_some_and(|(name, _)| is_own(trim(name)));
    let lines = || fields.values(&COOKIE);
    let several = lines().nth(1).is_some();
    if !several && !lines().flat_map(pieces).any(|piece| is_own(&piece)) {
        return Others::All;
    }
    let length = lines().map(|line| line.len().saturating_add(2)).sum();
    let mut kept = BytesMut::with_capacity(length);
    for line in lines() {
        let mut separator: &[u8] = if kept.is_empty() { b"" } else { b"; " };
        for piece in pieces(line).filter(|piece| !is_own(piece)) {
            // The first piece of a line brings no separator of its own.
            let piece = if separator == b";" {
                piece
            } else {
                piece.trim_ascii_start()
            };
            kept.extend_from_slice(separator);
            kept.extend_from_slice(piece);
            separator = b";";
        }
    }
    // Built from pieces of valid values, so it is one.
    match HeaderValue::from_maybe_shared(kept.freeze()) {
        Ok(mut line) if !trim(line.as_bytes()).is_empty() => {
            line.set_sensitive(true);
            Others::Line(line)
        }
        Ok(_) | Err(_) => Others::Nothing,
    }
}

/// The name that a browser would store for a `Set-Cookie` value (RFC 6265bis section 5.6): the
/// part before the first `;`, its part before the first `=`, without spaces and tabs around. A
/// pair without a name is sent back as its bare value, so the name is looked for in that.
pub(super) fn name_set_by(value: &[u8]) -> &[u8] {
    let mut pair = trim(pieces(value).next().unwrap_or_default());
    while let Some(nameless) = pair.strip_prefix(b"=") {
        pair = trim(nameless);
    }
    trim(pair.split(|byte| *byte == b'=').next().unwrap_or_default())
}

fn pieces(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let cut = memchr(b';', line).and_then(|at| line.split_at_checked(at));
        let (piece, behind) = cut.unwrap_or((line, b""));
        rest = behind.strip_prefix(b";");
        Some(piece)
    })
}

/// Name and value of a piece; `None` when it is no pair or has no name.
fn split_pair(piece: &[u8]) -> Option<(&[u8], &[u8])> {
    let piece = trim(piece);
    let at = memchr(b'=', piece).filter(|at| *at > 0)?;
    let (name, value) = piece.split_at_checked(at)?;
    Some((name, value.strip_prefix(b"=")?))
}

/// Spaces and tabs around, and nothing else.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}
