//! The limits for the head of an answer.

use http::response::Parts;
use hyper::ext::ReasonPhrase;

use super::error::Error;

/// The limits for the head of an answer. hyper and h2 limit what they read, but not exactly: whether
/// hyper accepts a larger head depends on the sizes of the pieces in which the head arrives. The
/// check of [`AnswerLimits::check`] is exact.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct AnswerLimits {
    /// The maximum size of the head in bytes, as HTTP/1.1 would send it: the status line, each field
    /// with `: ` and a line end, and the empty line.
    pub(crate) head_bytes: usize,
    /// The maximum number of fields.
    pub(crate) fields: usize,
}

/// The default number of fields of hyper. With any other number, hyper allocates memory for the
/// fields of every head.
const DEFAULT_FIELDS: usize = 100;

impl Default for AnswerLimits {
    /// 64 KiB and 100 fields.
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            fields: DEFAULT_FIELDS,
        }
    }
}

impl AnswerLimits {
    /// Refuses a head above the limits.
    ///
    /// # Errors
    ///
    /// [`Error::HeadTooLarge`] and [`Error::TooManyFields`].
    pub(super) fn check(self, head: &Parts) -> Result<(), Error> {
        if head.headers.len() > self.fields {
            return Err(Error::TooManyFields(self.fields));
        }
        if size_of_head(head) > self.head_bytes {
            return Err(Error::HeadTooLarge(self.head_bytes));
        }
        Ok(())
    }

    /// Returns the error for a head that hyper could not read. `received` is the number of bytes
    /// that have arrived.
    pub(super) fn explain(self, error: hyper::Error, received: usize) -> Error {
        if !error.is_parse_too_large() {
            return Error::Broken(error);
        }
        if received < self.head_bytes {
            Error::TooManyFields(self.fields)
        } else {
            Error::HeadTooLarge(self.head_bytes)
        }
    }

    /// The maximum number of fields, if it is not the default of hyper.
    pub(super) fn unusual_fields(self) -> Option<usize> {
        Some(self.fields).filter(|fields| *fields != DEFAULT_FIELDS)
    }

    /// The size of a field list that h2 accepts. h2 adds 32 bytes for each field (RFC 9113 section
    /// 6.5.2) and refuses a larger list with an unspecific error, so this size is larger than every
    /// head within the limits.
    pub(super) fn list_bytes(self) -> u32 {
        let fields = self.fields.saturating_mul(32);
        let bytes = self.head_bytes.saturating_add(fields).saturating_mul(2);
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

fn size_of_head(head: &Parts) -> usize {
    let reason = head.extensions.get::<ReasonPhrase>();
    let reason = reason.map_or_else(
        || {
            head.status
                .canonical_reason()
                .unwrap_or_default()
                .as_bytes()
        },
        ReasonPhrase::as_bytes,
    );
    let status_line = "HTTP/1.1 200 \r\n".len().saturating_add(reason.len());
    let fields = head.headers.iter();
    let fields = fields.map(|(name, value)| {
        let text = name.as_str().len().saturating_add(value.len());
        text.saturating_add(": \r\n".len())
    });
    fields
        .fold(status_line, usize::saturating_add)
        .saturating_add("\r\n".len())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue, Response};

    use super::*;

    #[test]
    fn the_size_of_a_head_is_its_size_in_http_1() {
        let text = "HTTP/1.1 404 Not Found\r\netag: a\r\nx-a: \r\nx-a: 12\r\n\r\n";
        let mut head = Response::new(());
        *head.status_mut() = http::StatusCode::NOT_FOUND;
        for (name, value) in [("etag", "a"), ("x-a", ""), ("x-a", "12")] {
            let value = HeaderValue::from_static(value);
            head.headers_mut()
                .append(HeaderName::from_static(name), value);
        }
        let (mut head, ()) = head.into_parts();
        assert_eq!(size_of_head(&head), text.len());
        head.extensions
            .insert(ReasonPhrase::from_static(b"No such page"));
        assert_eq!(size_of_head(&head), text.len() + 3);
        let limits = |head_bytes, fields| AnswerLimits { head_bytes, fields };
        assert!(limits(text.len() + 3, 3).check(&head).is_ok());
        let large = limits(text.len() + 2, 3).check(&head);
        assert!(matches!(large, Err(Error::HeadTooLarge(size)) if size == text.len() + 2));
        let many = limits(text.len() + 3, 2).check(&head);
        assert!(matches!(many, Err(Error::TooManyFields(2))));
    }
}
