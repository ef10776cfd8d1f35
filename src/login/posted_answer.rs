//! Answers that a page of the provider sends by POST (OAuth 2.0 Form Post Response Mode).
//!
//! The form comes from another site, so browsers send no cookie of the gateway with the form. The
//! gateway therefore encrypts the answer, and redirects the browser to the same redirection endpoint
//! with the encrypted answer in the query. Browsers send the cookies with this second request, which
//! is a page load by GET. The second request is handled like an answer in a URL, but nobody can read
//! the code in its URL.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use url::form_urlencoded;

use super::authorization::AuthorizationResponse;
use super::pending::associated_data;
use super::{FailedLogin, Login, MalformedResponse, PublicUrl, parameter};

/// The parameter with the encrypted answer.
const ANSWER: &str = "answer";

/// The longest URL of the second request. Many servers and proxies accept request lines of at most
/// 8 KB.
const MAX_URL: usize = 8000;

impl Login {
    /// Returns the URL of the second request for a `form` that a page has sent to the redirection
    /// endpoint of `provider`.
    ///
    /// # Errors
    ///
    /// Returns a failed login with [`MalformedResponse`] if the form is not an authorization
    /// response, or if the URL would be too long. [`Error::NoRandomness`](super::Error).
    pub(crate) fn forward_answer(
        &self,
        provider: &str,
        form: &[u8],
        public_url: &PublicUrl,
    ) -> Result<String, Box<FailedLogin>> {
        self.forwarded(provider, form, public_url)
            .map_err(|error| Box::new(FailedLogin::new(error, None)))
    }

    fn forwarded(
        &self,
        provider: &str,
        form: &[u8],
        public_url: &PublicUrl,
    ) -> Result<String, super::Error> {
        AuthorizationResponse::parse(form)?;
        let parameters: Vec<_> = form_urlencoded::parse(form)
            .filter(|(name, _)| AuthorizationResponse::reads(name))
            .collect();
        // Serialization does not fail, because all values are strings.
        let plain = serde_json::to_vec(&parameters).unwrap_or_default();
        let sealed = self.keys.seal(&context(provider, public_url), &plain)?;
        let endpoint = self.redirection().redirect_uri(public_url, provider);
        let url = format!("{endpoint}?{ANSWER}={}", URL_SAFE_NO_PAD.encode(sealed));
        if url.len() > MAX_URL {
            return Err(MalformedResponse::TooLong.into());
        }
        Ok(url)
    }

    /// Decrypts the answer in the query of the second request, and returns the answer as a form.
    /// Returns `None` if the query contains no answer that [`Login::forward_answer`] has encrypted
    /// for this endpoint.
    pub(crate) fn forwarded_answer(
        &self,
        provider: &str,
        query: &str,
        public_url: &PublicUrl,
    ) -> Option<Vec<u8>> {
        let sealed = URL_SAFE_NO_PAD.decode(parameter(query, ANSWER)).ok()?;
        let plain = self.keys.open(&context(provider, public_url), &sealed)?;
        let parameters: Vec<(String, String)> = serde_json::from_slice(&plain).ok()?;
        let mut form = form_urlencoded::Serializer::new(String::new());
        Some(form.extend_pairs(parameters).finish().into_bytes())
    }
}

fn context(provider: &str, public_url: &PublicUrl) -> Vec<u8> {
    let fields = [provider.as_bytes(), public_url.origin().as_bytes()];
    associated_data(b"answer", &fields)
}
