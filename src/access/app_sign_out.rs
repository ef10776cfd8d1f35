//! An app's own sign-out, after which the session of the gateway ends, too.

use http::{HeaderMap, Method};

use super::Permit;
use super::cross_site::CrossSite;
use crate::session::SessionKey;

impl Permit {
    /// Returns the key of the session that ends when the app has answered the request. Returns
    /// `None` if the request is not the app's own sign-out, or if the request has no session. A
    /// request that a page of another site caused never ends a session. `path` is the canonical
    /// path of the request, and `public_origin` is the origin to which the request was sent.
    pub(crate) fn session_to_end(
        &self,
        (method, headers): (&Method, &HeaderMap),
        path: &str,
        public_origin: &str,
    ) -> Option<SessionKey> {
        let is_sign_out = self.route.app_sign_out() == Some(path)
            && (method == Method::GET || !method.is_safe())
            && CrossSite::default().permits(headers, public_origin);
        let session = self.session.as_ref().filter(|_session| is_sign_out)?;
        Some(*session.key())
    }
}
