//! Links to the sign-in endpoint.

use url::form_urlencoded;

use super::{Login, PublicUrl, ReturnTo};
use crate::provider::Prompt;

/// The parameters of a link to the sign-in endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignInLink<'a> {
    /// The configured name of the provider. If there are several providers and the link names none,
    /// the user chooses a provider.
    pub(crate) provider: Option<&'a str>,
    /// States whether the provider must ask the user to sign in again.
    pub(crate) prompt: Prompt,
    /// Whether the user wants the browser to keep the session cookie.
    pub(crate) remember: bool,
    /// Parameters for the provider.
    pub(crate) passed: &'a [(String, String)],
    /// The page to which the browser returns after the login.
    pub(crate) return_to: &'a ReturnTo,
}

impl Login {
    /// Returns the path and the query of a link to the sign-in endpoint at `public_url`.
    pub(crate) fn sign_in_link(&self, link: &SignInLink<'_>, public_url: &PublicUrl) -> String {
        let Ok(sealed) = self.seal(link.return_to, public_url) else {
            // Without random bytes from the system, no login can start, so the link leads directly
            // to the return path.
            return link.return_to.as_str().to_owned();
        };
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(link.provider.map(|name| ("provider", name)));
        query.extend_pairs(link.prompt.value().map(|prompt| ("prompt", prompt)));
        let max_age = link.prompt.max_age_secs();
        query.extend_pairs(max_age.map(|seconds| ("max_age", seconds.to_string())));
        query.extend_pairs(link.remember.then_some(("remember", "1")));
        query.extend_pairs(link.passed);
        query.append_pair("to", &sealed);
        format!("{}?{}", self.own().sign_in(), query.finish())
    }
}
