//! A copy of a request head, which is used to send the request one more time.

use std::fmt;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};
use zeroize::Zeroizing;

/// A copy of a request head, which is used to send the request one more time.
///
/// Nearly all copies are dropped unused, so making a copy must be cheap, but using a copy can be
/// expensive. The fields are stored as lines of one buffer, because a second `HeaderMap` would be
/// slower. The buffer contains cookies, so the memory of the buffer is wiped when the buffer is
/// dropped. Values that are marked as sensitive are not copied. For a sensitive value, the copy
/// refers to the memory of the original value.
pub(crate) struct SavedHead {
    method: Method,
    uri: Uri,
    /// One line for each field: name, `:`, value, line feed. A name contains no colon, and a value
    /// contains no line feed.
    lines: Zeroizing<Vec<u8>>,
    sensitive: Vec<(HeaderName, HeaderValue)>,
}

impl SavedHead {
    /// Copies a head without its extensions.
    pub(crate) fn of(parts: &Parts) -> Self {
        let copied = parts
            .headers
            .iter()
            .filter(|(_, value)| !value.is_sensitive());
        let lengths = copied.map(|(name, value)| line_length(name, value));
        // If the buffer grew, the bytes would move to a larger buffer, and the memory of the
        // smaller buffer would not be wiped.
        let room = lengths.fold(0, usize::saturating_add);
        let mut lines = Zeroizing::new(Vec::with_capacity(room));
        let mut sensitive = Vec::new();
        for (name, value) in &parts.headers {
            if value.is_sensitive() {
                sensitive.push((name.clone(), value.clone()));
                continue;
            }
            lines.extend_from_slice(name.as_str().as_bytes());
            lines.push(b':');
            lines.extend_from_slice(value.as_bytes());
            lines.push(b'\n');
        }
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            lines,
            sensitive,
        }
    }

    /// Returns the head, with the version HTTP/1.1.
    pub(crate) fn into_parts(self) -> Parts {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.method = self.method;
        parts.uri = self.uri;
        parts.version = Version::HTTP_11;
        let lines = self.lines.split(|byte| *byte == b'\n');
        parts
            .headers
            .extend(lines.filter_map(field).chain(self.sensitive));
        parts
    }
}

impl fmt::Debug for SavedHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The lines contain cookies.
        f.debug_struct("SavedHead")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// The length of the line of a field, with colon and line feed.
fn line_length(name: &HeaderName, value: &HeaderValue) -> usize {
    let separators = 2;
    let text = name.as_str().len().saturating_add(value.len());
    text.saturating_add(separators)
}

/// Parses a line into a field.
pub(super) fn field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at_checked(colon)?;
    let name = HeaderName::from_bytes(name).ok()?;
    // In a line that hyper has written, a space precedes the value and a carriage return follows
    // the value. `trim_ascii` removes the space and the carriage return.
    let value = value.strip_prefix(b":")?.trim_ascii();
    Some((name, HeaderValue::from_bytes(value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_head_is_restored_unchanged() {
        let mut request = Request::get("/a?b")
            .header("accept", "text/html")
            .header("x-empty", "")
            .header("x-colons", ":a:b")
            .header("x-two", "1")
            .header("x-two", "2")
            .header("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap())
            .body(())
            .unwrap();
        let mut bearer = HeaderValue::from_static("Bearer abc");
        bearer.set_sensitive(true);
        request.headers_mut().insert("authorization", bearer);
        let wanted = request.headers().clone();
        let (parts, ()) = request.into_parts();
        let saved_head = SavedHead::of(&parts);
        assert!(!saved_head.lines.windows(3).any(|window| window == b"abc"));
        assert_eq!(
            saved_head.lines.len(),
            saved_head.lines.capacity(),
            "the buffer grew"
        );
        let again = saved_head.into_parts();
        assert_eq!(again.uri, "/a?b");
        assert_eq!(again.headers, wanted);
        assert!(again.headers["authorization"].is_sensitive());
        assert_eq!(again.version, Version::HTTP_11);
    }
}
