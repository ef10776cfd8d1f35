//! The client and the token request, for every stand-in provider.

use std::collections::BTreeMap;

/// A part of every token. The text `canary` must never leave the gateway.
pub(crate) const CANARY: &str = "canary";

/// The gateway's client secret.
pub(crate) const CLIENT_SECRET: &str = "s3cret-canary";

/// The parameters of a query or form. Fails if a parameter is repeated.
pub(crate) fn parameters(text: &str) -> BTreeMap<String, String> {
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(text.as_bytes())
        .into_owned()
        .collect();
    let count = pairs.len();
    let map: BTreeMap<_, _> = pairs.into_iter().collect();
    assert_eq!(map.len(), count, "a parameter came twice in {text}");
    map
}

/// The parameters of a token request. The token request may be JSON, in which every value is a
/// string.
pub(crate) fn token_request(body: &[u8]) -> Result<BTreeMap<String, String>, &'static str> {
    let text = String::from_utf8_lossy(body);
    if text.starts_with('{') {
        serde_json::from_str(&text).map_err(|_error| "the JSON has values that are no strings")
    } else {
        Ok(parameters(&text))
    }
}
