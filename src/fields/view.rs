//! Read access to the fields of a message head.

use http::{HeaderMap, HeaderName};

/// The fields of a message head, borrowed from its parser.
///
/// The code that decides about a request, strips it and writes into it needs only this trait. So a
/// parser can leave the fields in its buffer and does not have to build a map. The case of names
/// does not matter.
pub trait View {
    /// The values of all lines with this name, in their order.
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;

    /// Whether there is a line with this name.
    fn has(&self, name: &HeaderName) -> bool {
        self.values(name).next().is_some()
    }
}

impl View for HeaderMap {
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).iter().map(AsRef::as_ref)
    }
}

/// A slice of names and values.
impl View for [(&str, &[u8])] {
    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let called = |other: &str| other.eq_ignore_ascii_case(name.as_str());
        let lines = self.iter().filter(move |(other, _)| called(other));
        lines.map(|(_, value)| *value)
    }
}
