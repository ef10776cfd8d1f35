//! Reads and removes cookies, byte for byte.
//!
//! The parser splits a `Cookie` line by the same rules by which a browser writes the line. The
//! character `;` separates the pairs. Spaces and tabs around a pair are ignored. The name of a
//! cookie ends at the first `=`. The parser works on bytes and compares names exactly. The parser
//! does not remove other white space, such as Unicode white space. If the parser removed Unicode
//! white space, a sibling domain could set a cookie with Unicode white space before the prefix
//! `__Host-`. The browser would not check the prefix of this cookie, but the gateway would accept
//! the cookie as its own. If the parser decoded the whole field as text, a sibling domain could
//! make the session cookie unreadable with one invalid byte. If one pair of a line is malformed,
//! the parser ignores this pair and reads the other pairs.
//!
//! Several `Cookie` lines, and the cookie crumbs of HTTP/2 (RFC 9113 section 8.2.3), are handled as
//! one line.

use bytes::BytesMut;
use http::HeaderValue;
use http::header::COOKIE;
use memchr::memchr;

use super::View;

/// The result of a search for one cookie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use]
pub enum Found<'a> {
    /// The request has no cookie of this name.
    Absent,
    /// The value of the cookie. The request may contain the cookie several times with the same
    /// value.
    One(&'a [u8]),
    /// The request contains the cookie with different values. A sibling domain may have set one of
    /// the cookies, so the gateway trusts none of the cookies.
    Conflicting,
}

/// Finds the cookie `name`, compared byte for byte.
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

/// Returns the `Cookie` line of a request, if the request has exactly one `Cookie` line.
pub(crate) fn only_line(fields: &(impl View + ?Sized)) -> Option<&[u8]> {
    let mut lines = fields.values(&COOKIE);
    let line = lines.next()?;
    lines.next().is_none().then_some(line)
}

/// Returns the names and values of all cookies whose name satisfies `wanted`, in their order.
pub(crate) fn matching(
    fields: &(impl View + ?Sized),
    wanted: impl Fn(&[u8]) -> bool,
) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pieces = fields.values(&COOKIE).flat_map(pieces);
    pieces
        .filter_map(split_pair)
        .filter(move |(name, _)| wanted(name))
}

/// The cookies of a request, after the gateway's own cookies were removed.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub enum Others {
    /// The request has none of the gateway's own cookies. The `Cookie` lines of the request stay
    /// unchanged.
    Unchanged,
    /// This line replaces all `Cookie` lines of the request. The value is marked as sensitive.
    Line(HeaderValue),
    /// All cookies of the request are the gateway's own cookies, so the forwarded request has no
    /// `Cookie` line.
    None,
}

/// Removes the cookies whose name satisfies `is_own`. All remaining cookies keep their bytes, their
/// order and their separators. Several `Cookie` lines are joined with `; ` to one line, because an
/// HTTP/1 server may read only one line.
///
/// For a single line without the gateway's own cookies, the function allocates nothing.
pub fn others(fields: &(impl View + ?Sized), is_own: impl Fn(&[u8]) -> bool) -> Others {
    // This function also removes a cookie of the gateway that has a space before the `=`, although
    // the function `find` ignores this cookie. An app may remove the space before the `=` and read
    // the value of the gateway's cookie.
    let is_own = |piece: &&[u8]| split_pair(piece).is_some_and(|(name, _)| is_own(trim(name)));
    let lines = || fields.values(&COOKIE);
    let several = lines().nth(1).is_some();
    if !several && !lines().flat_map(pieces).any(|piece| is_own(&piece)) {
        return Others::Unchanged;
    }
    // Each `Cookie` line can need two more bytes for the separator `; `.
    let length = lines().map(|line| line.len().saturating_add(2)).sum();
    let mut kept = BytesMut::with_capacity(length);
    for line in lines() {
        let mut separator: &[u8] = if kept.is_empty() { b"" } else { b"; " };
        for piece in pieces(line).filter(|piece| !is_own(piece)) {
            // This code removes the white space before the first piece that it keeps from a line.
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
    // The joined `Cookie` line consists of pieces of valid field values, so the joined line is a
    // valid field value.
    match HeaderValue::from_maybe_shared(kept.freeze()) {
        Ok(mut line) if !trim(line.as_bytes()).is_empty() => {
            // The app's cookies may be secrets, so they must not appear in debug output.
            line.set_sensitive(true);
            Others::Line(line)
        }
        Ok(_) | Err(_) => Others::None,
    }
}

/// Returns the name that a browser stores for a `Set-Cookie` value (RFC 6265bis section 5.6). The
/// name is the text before the first `=`, without spaces and tabs at both ends. Only the text
/// before the first `;` is read. If a cookie has no name, a browser sends only its value, so this
/// function also looks for a name in the value.
pub(crate) fn name_set_by(value: &[u8]) -> &[u8] {
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
        let (piece, after) = cut.unwrap_or((line, b""));
        rest = after.strip_prefix(b";");
        Some(piece)
    })
}

/// Returns the name and the value in a piece of a `Cookie` line. Returns `None` if the piece has no
/// `=` or no name.
fn split_pair(piece: &[u8]) -> Option<(&[u8], &[u8])> {
    let piece = trim(piece);
    let at = memchr(b'=', piece).filter(|at| *at > 0)?;
    let (name, value) = piece.split_at_checked(at)?;
    Some((name, value.strip_prefix(b"=")?))
}

/// Removes spaces and tabs on both sides, and no other white space.
fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}
