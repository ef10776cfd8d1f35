//! The URL of an app.

use crate::origin::{Origin, ParseOriginError};
use crate::target::{self, Prefix};

/// The URL of an app: its origin, and the path below which the app is on its server.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct AppUrl {
    origin: Origin,
    base: Prefix,
}

/// The reason why a text is not the URL of an app.
///
/// The operator has to correct the settings.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ParseAppUrlError {
    /// The part before the path is not an origin.
    #[error(transparent)]
    Origin(#[from] ParseOriginError),
    /// The URL has a query or a fragment.
    #[error("must end after the path; write it without a query and without a fragment")]
    MoreThanAPath,
    /// The path is not the path of a request.
    #[error("has the path `{0}`, which is refused in a request: {1}")]
    Path(Box<str>, target::Error),
}

impl AppUrl {
    /// The origin of the app.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The path below which the app is on its server. The text has a slash at its end only if the
    /// path is `/`.
    pub(crate) fn base(&self) -> &Prefix {
        &self.base
    }
}

impl From<Origin> for AppUrl {
    fn from(origin: Origin) -> Self {
        Self {
            origin,
            base: Prefix::default(),
        }
    }
}

impl TryFrom<String> for AppUrl {
    type Error = ParseAppUrlError;

    fn try_from(text: String) -> Result<Self, ParseAppUrlError> {
        let authority = text.find("://").map_or(0, |at| at.saturating_add(3));
        let path = text.get(authority..).and_then(|rest| rest.find('/'));
        let path = path.map(|at| authority.saturating_add(at));
        let (origin, path) = path
            .and_then(|at| text.split_at_checked(at))
            .unwrap_or((&text, "/"));
        let origin = origin.parse()?;
        if path.contains(['?', '#']) {
            return Err(ParseAppUrlError::MoreThanAPath);
        }
        let parse = |path: &str| {
            Prefix::parse(path).map_err(|error| ParseAppUrlError::Path(path.into(), error))
        };
        let whole = parse(path)?;
        let base = match whole.without_slash() {
            "" => whole,
            base => parse(base)?,
        };
        Ok(Self { origin, base })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AppUrl, String> {
        AppUrl::try_from(text.to_owned()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_url_has_an_origin_and_a_base_path() {
        for (text, origin, base) in [
            ("http://app", "http://app", "/"),
            ("http://app:8080/", "http://app:8080", "/"),
            ("https://app:8443/base", "https://app:8443", "/base"),
            ("http://app/base/", "http://app", "/base"),
            ("http://app/a/%7eb", "http://app", "/a/~b"),
            ("http://[::1]:8000/a", "http://[::1]:8000", "/a"),
        ] {
            let url = parse(text).unwrap();
            assert_eq!(url.origin().to_string(), origin, "{text}");
            assert_eq!(url.base().as_str(), base, "{text}");
        }
    }

    #[test]
    fn a_url_that_is_not_an_origin_and_a_path_is_refused() {
        let form = "must be http://host:port or https://host:port";
        for (text, reason) in [
            ("", form),
            ("app", form),
            ("app/x", form),
            ("//app:8000/x", form),
            ("http:///x", form),
            ("http://app x/y", form),
            ("ftp://app/x", form),
            ("unix:/run/app.sock", form),
            ("http://app?x", "must end after the host and port"),
            ("http://a@app/x", "must end after the host and port"),
            ("http://app\\x", "must end after the host and port"),
            ("http://app/x?y", "must end after the path"),
            ("http://app/#x", "must end after the path"),
            (
                "http://app//",
                "`//`, which is refused in a request: the path has an empty",
            ),
            ("http://app/a//b", "the path has an empty segment"),
            ("http://app/.", "the path has a dot segment"),
            ("http://app/a/../b", "the path has a dot segment"),
            ("http://app/a%2fb", "an encoded slash"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
