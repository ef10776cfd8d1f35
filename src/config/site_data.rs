//! The kinds of data that a browser deletes after a sign-out (`login.clear_site_data`).

use http::HeaderValue;
use serde::Deserialize;

/// A kind of data that an app has stored in a browser.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub(super) enum SiteData {
    /// The pages and files in the cache of the browser.
    Cache,
    /// The storage of scripts, such as `localStorage`, and service workers.
    Storage,
}

impl TryFrom<String> for SiteData {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match &*text {
            "cache" => Ok(Self::Cache),
            "storage" => Ok(Self::Storage),
            "cookies" | "*" => Err(format!(
                "`{text}` would delete the cookies of all hosts of the domain, and the cookie of the \
                 sign-out; write \"cache\" or \"storage\""
            )),
            _ => Err(format!(
                "`{text}` is not known; write \"cache\" or \"storage\""
            )),
        }
    }
}

/// Returns the value of `Clear-Site-Data`. Returns `None` if the browser deletes nothing.
pub(super) fn clear_site_data(kinds: &[SiteData]) -> Option<HeaderValue> {
    let cache = kinds.contains(&SiteData::Cache);
    let storage = kinds.contains(&SiteData::Storage);
    let value = match (cache, storage) {
        (false, false) => return None,
        (true, false) => "\"cache\"",
        (false, true) => "\"storage\"",
        (true, true) => "\"cache\", \"storage\"",
    };
    Some(HeaderValue::from_static(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_lists_each_kind_once_in_quotes() {
        let read = |names: &[&str]| -> Result<Option<HeaderValue>, String> {
            let kinds = names
                .iter()
                .map(|name| SiteData::try_from((*name).to_owned()));
            Ok(clear_site_data(&kinds.collect::<Result<Vec<_>, _>>()?))
        };
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&["cache"]).unwrap().unwrap(), "\"cache\"");
        let both = read(&["storage", "cache", "storage"]).unwrap().unwrap();
        assert_eq!(both, "\"cache\", \"storage\"");
        let error = read(&["cookies"]).unwrap_err();
        assert!(error.contains("the cookie of the sign-out"), "{error}");
        let error = read(&["Cache"]).unwrap_err();
        assert!(error.contains("is not known"), "{error}");
    }
}
