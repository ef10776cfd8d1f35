//! The content of a form: its type, and the names and sizes of its fields.

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyDataStream, Full};
use url::form_urlencoded;

/// The largest number of fields that a page lists.
const MAX_LISTED: usize = 100;

/// The largest number of characters of a name that a page shows.
const MAX_SHOWN: usize = 100;

/// The types of forms that browsers send.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum FormKind {
    /// `multipart/form-data` with this boundary (RFC 7578).
    Multipart(String),
    /// `text/plain`. The names and values cannot be separated reliably.
    Text,
    /// `application/x-www-form-urlencoded`.
    UrlEncoded,
}

impl FormKind {
    /// Returns the type of the form in a request. Returns `None` if the request contains no form.
    /// A request with two `Content-Type` fields is ambiguous, so it contains no form.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
        let kind = kinds.next().filter(|_| kinds.next().is_none())?;
        Self::parse(kind.to_str().ok()?)
    }

    fn parse(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next()?.trim_ascii();
        match &*essence.to_ascii_lowercase() {
            "application/x-www-form-urlencoded" => Some(Self::UrlEncoded),
            "multipart/form-data" => {
                let boundary = multer::parse_boundary(content_type);
                boundary.ok().map(Self::Multipart)
            }
            "text/plain" => Some(Self::Text),
            _ => None,
        }
    }
}

/// The fields of a form, as far as a page lists them.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct FormFields {
    /// The first fields.
    pub(super) listed: Vec<FormField>,
    /// The number of fields that are not listed.
    pub(super) others: usize,
}

/// A field of a form. The value of the field is not included, because the value may be secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct FormField {
    /// The name of the field, as a page shows it.
    pub(super) name: String,
    /// A text with the type and the size of the value.
    pub(super) value: String,
}

impl FormFields {
    fn add(&mut self, field: impl FnOnce() -> FormField) {
        if self.listed.len() < MAX_LISTED {
            self.listed.push(field());
        } else {
            self.others = self.others.saturating_add(1);
        }
    }

    /// Lists the fields of a form with this `Content-Type`. Returns `None` if the fields cannot be
    /// separated.
    pub(super) async fn of(content_type: &str, body: Bytes) -> Option<Self> {
        match FormKind::parse(content_type)? {
            FormKind::Multipart(boundary) => Self::of_multipart(boundary, body).await,
            FormKind::Text => None,
            FormKind::UrlEncoded => Some(Self::of_urlencoded(&body)),
        }
    }

    fn of_urlencoded(body: &[u8]) -> Self {
        let mut fields = Self::default();
        for (name, value) in form_urlencoded::parse(body) {
            fields.add(|| FormField {
                name: shown(&name),
                value: characters(&value),
            });
        }
        fields
    }

    async fn of_multipart(boundary: String, body: Bytes) -> Option<Self> {
        let mut fields = Self::default();
        let body = BodyDataStream::new(Full::new(body));
        let mut parts = multer::Multipart::new(body, boundary);
        while let Some(part) = parts.next_field().await.ok()? {
            let name = shown(part.name().unwrap_or_default());
            let file = part.file_name().map(shown);
            let content = part.bytes().await.ok()?;
            fields.add(|| FormField {
                name,
                value: match file {
                    // A browser sends an empty file if the user has chosen no file.
                    Some(file) if file.is_empty() && content.is_empty() => "No file".to_owned(),
                    Some(file) => format!("File {file}, {}", size(content.len())),
                    None => characters(&String::from_utf8_lossy(&content)),
                },
            });
        }
        Some(fields)
    }
}

/// Describes the length of a text.
fn characters(text: &str) -> String {
    match text.chars().count() {
        0 => "Empty".to_owned(),
        1 => "1 character".to_owned(),
        count => format!("{count} characters"),
    }
}

/// Describes a number of bytes.
pub(super) fn size(bytes: usize) -> String {
    match bytes {
        1 => "1 byte".to_owned(),
        0..10_240 => format!("{bytes} bytes"),
        1_048_576 => "1 MiB".to_owned(),
        _ => format!("{} KiB", bytes.div_ceil(1024)),
    }
}

/// Returns a text from a form as a page shows it. Long texts are shortened. Characters that change
/// the direction of the text around them, and invisible characters, are replaced, because they could
/// make a name look like another name.
pub(super) fn shown(text: &str) -> String {
    let mut characters = text.chars().map(|character| match character {
        '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => '\u{fffd}',
        control if control.is_control() => '\u{fffd}',
        other => other,
    });
    let mut shown: String = characters.by_ref().take(MAX_SHOWN).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(content_type: &str) -> Option<FormKind> {
        FormKind::parse(content_type)
    }

    async fn listed(content_type: &str, body: &str) -> Option<Vec<(String, String)>> {
        let fields = FormFields::of(content_type, Bytes::copy_from_slice(body.as_bytes())).await?;
        let listed = fields.listed.into_iter();
        Some(listed.map(|field| (field.name, field.value)).collect())
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
        expected.iter().map(owned).collect()
    }

    #[test]
    fn only_the_three_types_of_browsers_are_forms() {
        assert_eq!(
            kind("application/x-www-form-urlencoded"),
            Some(FormKind::UrlEncoded)
        );
        assert_eq!(
            kind("Application/X-WWW-Form-Urlencoded; charset=utf-8"),
            Some(FormKind::UrlEncoded)
        );
        assert_eq!(kind("text/plain; charset=x"), Some(FormKind::Text));
        assert_eq!(
            kind("multipart/form-data; boundary=----x"),
            Some(FormKind::Multipart("----x".to_owned()))
        );
        for other in [
            "",
            "multipart/form-data",
            "multipart/mixed; boundary=x",
            "application/json",
            "text/html",
            "text/plainx",
        ] {
            assert_eq!(kind(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn the_fields_are_listed_without_their_values() {
        let kind = "application/x-www-form-urlencoded";
        let body = "name=Al%C3%A4&empty=&a=1&password=s3cret";
        let expected = [
            ("name", "3 characters"),
            ("empty", "Empty"),
            ("a", "1 character"),
            ("password", "6 characters"),
        ];
        assert_eq!(listed(kind, body).await, Some(pairs(&expected)));
        assert_eq!(listed(kind, "").await, Some(Vec::new()));
        assert_eq!(listed("text/plain", "a=b").await, None);
    }

    #[tokio::test]
    async fn files_are_listed_with_their_names_and_sizes() {
        let part = |head: &str, content: &str| {
            format!("--B\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
        };
        let large = "x".repeat(20_000);
        let body = [
            part("name=\"text\"", "two\r\nlines"),
            part("name=\"photo\"; filename=\"a.jpg\"", &large),
            part("name=\"none\"; filename=\"\"", ""),
            "--B--\r\n".to_owned(),
        ]
        .concat();
        let kind = "multipart/form-data; boundary=B";
        let expected = [
            ("text", "10 characters"),
            ("photo", "File a.jpg, 20 KiB"),
            ("none", "No file"),
        ];
        assert_eq!(listed(kind, &body).await, Some(pairs(&expected)));
        // A form that has no end cannot be listed.
        let without_end = body.strip_suffix("--B--\r\n").unwrap();
        assert_eq!(listed(kind, without_end).await, None);
        assert_eq!(listed(kind, "x").await, None);
    }

    #[tokio::test]
    async fn a_form_with_many_fields_is_listed_in_part() {
        let body = "a=1&".repeat(150);
        let kind = "application/x-www-form-urlencoded";
        let fields = FormFields::of(kind, Bytes::from(body)).await.unwrap();
        assert_eq!((fields.listed.len(), fields.others), (MAX_LISTED, 50));
    }

    #[test]
    fn k_07_a_name_cannot_hide_or_reorder_the_text_around_it() {
        assert_eq!(
            shown("a\u{202e}b\n\u{200b}\u{feff}c"),
            "a\u{fffd}b\u{fffd}\u{fffd}\u{fffd}c"
        );
        let long = shown(&"ä".repeat(200));
        assert_eq!(long.chars().count(), MAX_SHOWN + 1);
    }
}
