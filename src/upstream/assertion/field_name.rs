//! The name of a field that the settings choose.

use http::HeaderName;
use serde::Deserialize;

use crate::fields;

/// The names of fields that cannot contain a claim or a token, in the normalized form of [`fold`].
/// Each of these fields already has a meaning for HTTP, for apps or for this gateway.
const RESERVED: [&str; 29] = [
    "accept",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "max-forwards",
    "origin",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-script-name",
];

/// The name of a field that contains a claim or a token.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub(crate) struct FieldName(HeaderName);

/// The reason why a text cannot be the name of a field that contains a claim or a token. The
/// operator sees the settings key, followed by the message of this error.
///
/// Responsible: the operator.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum FieldNameError {
    /// The text is not a field name (RFC 9110 section 5.1).
    #[error("is not a field name; write letters, digits and `-`")]
    Malformed,
    /// The field already has another meaning.
    #[error("names a field that has another meaning; choose a name such as X-Forwarded-User")]
    Reserved,
}

impl TryFrom<String> for FieldName {
    type Error = FieldNameError;

    fn try_from(text: String) -> Result<Self, FieldNameError> {
        let name = HeaderName::try_from(text).map_err(|_invalid| FieldNameError::Malformed)?;
        if RESERVED.contains(&fold(&name).as_str()) {
            return Err(FieldNameError::Reserved);
        }
        Ok(Self(name))
    }
}

impl FieldName {
    /// Returns the name.
    pub(crate) fn as_name(&self) -> &HeaderName {
        &self.0
    }

    /// Returns the name.
    pub(super) fn into_name(self) -> HeaderName {
        self.0
    }
}

/// Converts a field name to the form in which apps behind CGI and WSGI read the name. Apps behind
/// CGI and WSGI cannot distinguish `-`, `_` and other punctuation characters.
pub(super) fn fold(name: &HeaderName) -> String {
    let bytes = name.as_str().bytes();
    bytes.map(fields::fold).map(char::from).collect()
}
