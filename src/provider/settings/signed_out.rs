//! The patterns for responses by which apps refuse an access token.

use http::HeaderName;
use serde::Deserialize;

/// A pattern for responses by which an app refuses an access token. No pattern is needed for a
/// response with the status 401. A response matches the pattern only if the response has all
/// configured values. A pattern has a `location`, a `field`, or both.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SignedOutPattern {
    /// The status code.
    pub status: u16,
    /// The path of the URL in the field `Location`. The host and the query of `Location` are
    /// ignored.
    pub location: Option<String>,
    /// A pattern for one field of the response.
    pub field: Option<FieldPattern>,
}

/// A pattern for a field of a response, such as `WWW-Authenticate` or `Content-Type`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct FieldPattern {
    /// The name of the response field to which the pattern applies.
    pub name: FieldName,
    /// The text that a value of the field must contain. The comparison ignores ASCII case.
    pub contains: String,
}

/// The name of a field (RFC 9110 section 5.1).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub struct FieldName(pub HeaderName);

impl TryFrom<String> for FieldName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let name = text.parse().map(Self);
        name.map_err(|_invalid| format!("`{text}` is not the name of a field"))
    }
}
