//! Read access to the fields of a message head.

use http::{HeaderMap, HeaderName};

/// The fields of a message head, borrowed from a map or from a parser.
///
/// The code that decides about a request reads fields only through `View`. A parser can leave the
/// fields in its buffer, because `View` does not require a map of the fields. The comparison of
/// names ignores case.
pub trait View {
    /// Returns the values of all lines with this name, in their order.
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;

    /// Returns true if at least one line has this name.
    fn has(&self, name: &HeaderName) -> bool {
        self.values(name).next().is_some()
    }
}

impl View for HeaderMap {
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).iter().map(AsRef::as_ref)
    }
}

/// Implements `View` for a slice of names and values, such as the buffer of a parser.
impl View for [(&str, &[u8])] {
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let called = |other: &str| other.eq_ignore_ascii_case(name.as_str());
        let lines = self.iter().filter(move |(other, _)| called(other));
        lines.map(|(_, value)| *value)
    }
}
