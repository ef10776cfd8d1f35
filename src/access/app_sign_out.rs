//! An app's own sign-out, after which the session of the gateway ends, too.

use http::{HeaderMap, Method, header};

use super::Permit;
use super::cross_site::CrossSite;
use crate::fields::{OnlyValue, SEC_FETCH_DEST, SEC_FETCH_SITE, View as _};
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
            && if method == Method::GET {
                is_own_get(headers, public_origin)
            } else {
                !method.is_safe() && CrossSite::default().permits(headers, public_origin)
            };
        let session = self.session.as_ref().filter(|_session| is_sign_out)?;
        Some(*session.key())
    }
}

/// Returns true if the user, or a link or a script of a page of `public_origin`, has caused a GET
/// request. An image, a frame or a style sheet of a page ends no session, because apps show such
/// parts of pages that other users have written. A browser without `Sec-Fetch-Site` sends no
/// `Origin` with a GET request, so `Referer` decides about its request.
fn is_own_get(headers: &HeaderMap, public_origin: &str) -> bool {
    match headers.only_value(&SEC_FETCH_SITE) {
        OnlyValue::One(b"same-origin" | b"none") => matches!(
            headers.only_value(&SEC_FETCH_DEST),
            OnlyValue::Absent | OnlyValue::One(b"document" | b"empty")
        ),
        OnlyValue::One(_) | OnlyValue::Several => false,
        OnlyValue::Absent => match headers.only_value(&header::REFERER) {
            OnlyValue::One(page) => {
                let path = page.strip_prefix(public_origin.as_bytes());
                path.is_some_and(|path| path.is_empty() || path.starts_with(b"/"))
            }
            OnlyValue::Absent | OnlyValue::Several => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const ORIGIN: &str = "https://gw.test";

    fn is_own(fields: &[(&'static str, &'static str)]) -> bool {
        let fields = fields.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        is_own_get(&fields.collect(), ORIGIN)
    }

    #[test]
    fn c_21_only_the_user_and_own_pages_sign_out_at_the_app_with_get() {
        for site in ["same-origin", "none"] {
            assert!(is_own(&[("sec-fetch-site", site)]));
            for dest in ["document", "empty"] {
                let fields = [("sec-fetch-site", site), ("sec-fetch-dest", dest)];
                assert!(is_own(&fields), "{fields:?}");
            }
            for dest in ["image", "script", "style", "iframe", ""] {
                let fields = [("sec-fetch-site", site), ("sec-fetch-dest", dest)];
                assert!(!is_own(&fields), "{fields:?}");
            }
        }
        for site in ["same-site", "cross-site", ""] {
            let fields = [("sec-fetch-site", site), ("referer", "https://gw.test/")];
            assert!(!is_own(&fields), "{fields:?}");
        }
        // Older browsers send only `Referer`.
        for page in ["https://gw.test/", "https://gw.test", "https://gw.test/a?b"] {
            assert!(is_own(&[("referer", page)]), "{page}");
        }
        for page in [
            "https://gw.test.evil/",
            "https://gw.test@evil.test/",
            "http://gw.test/",
            "https://evil.test/?https://gw.test/",
            "",
        ] {
            assert!(!is_own(&[("referer", page)]), "{page}");
        }
        let twice = [("referer", "https://gw.test/"); 2];
        assert!(!is_own(&twice));
        assert!(!is_own(&[]));
    }
}
