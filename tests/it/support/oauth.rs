//! What every stand-in for an authorization server knows: the client and the form of its requests.

use std::collections::BTreeMap;

/// A value that must never leave the gateway: part of every token.
pub(crate) const CANARY: &str = "canary";

/// The client secret that the gateway is given.
pub(crate) const CLIENT_SECRET: &str = "s3cret-canary";

/// The parameters of a query or form, each once.
pub(crate) fn parameters(text: &str) -> BTreeMap<String, String> {
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(text.as_bytes())
        .into_owned()
        .collect();
    let count = pairs.len();
    let map: BTreeMap<_, _> = pairs.into_iter().collect();
    assert_eq!(map.len(), count, "a parameter came twice in {text}");
    map
}

/// The parameters of a token request, which may be JSON: every value is a string.
pub(crate) fn token_request(body: &[u8]) -> Result<BTreeMap<String, String>, &'static str> {
    let text = String::from_utf8_lossy(body);
    if text.starts_with('{') {
        serde_json::from_str(&text).map_err(|_error| "the JSON has values that are no strings")
    } else {
        Ok(parameters(&text))
    }
}
