//! Pages whose URL is too long for the `state` parameter.
//!
//! Many servers and proxies accept request lines of at most 8 KB, and the URL of an authorization
//! request contains the state. A long return path is therefore encrypted and saved in cookies of
//! the browser. The login returns to an endpoint of the gateway, which reads the cookies and
//! redirects the browser to the page. Each saved page has its own endpoint, and the cookies have
//! the path of this endpoint. No other request contains the cookies, so the saved pages of many
//! tabs do not add up to a head that is too large.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

use super::pending::{Tab, associated_data};
use super::{Error, Login, PublicUrl, ReturnTo};
use crate::fields::cookie::{self as cookies, Found};
use crate::session::cookie;

/// The names of the cookies, in the order of their contents.
const COOKIES: [&str; 2] = ["__Secure-sidegate-page-0", "__Secure-sidegate-page-1"];

/// The longest value of one cookie. Browsers accept at most 4096 bytes for name and value together.
const MAX_VALUE: usize = 4000;

/// The longest `Cookie` line of the request that reads a saved page. Many servers accept lines of
/// at most 8 KB.
const MAX_COOKIE_LINE: usize = 8000;

/// A page that was read from the cookies of a browser.
#[derive(Debug)]
pub(crate) struct SavedPage {
    /// The page, as an absolute URL.
    pub(crate) location: String,
    /// The `Set-Cookie` values that delete the cookies.
    pub(crate) cookies: Vec<HeaderValue>,
}

impl Login {
    /// Saves a page in cookies if its return path is long. Returns the return path for a pending
    /// login, and the `Set-Cookie` values.
    ///
    /// # Errors
    ///
    /// Returns [`Error::PageTooLong`] if the cookies would be too large. [`Error::NoRandomness`].
    pub(crate) fn save_page(
        &self,
        page: ReturnTo,
        (public_url, headers): (&PublicUrl, &HeaderMap),
    ) -> Result<(ReturnTo, Vec<HeaderValue>), Error> {
        if page.is_short() {
            return Ok((page, Vec::new()));
        }
        let tab = Tab::random(self.process.clock.now())?;
        let sealed = self
            .keys
            .seal(&context(&tab, public_url), page.as_str().as_bytes())?;
        let text = URL_SAFE_NO_PAD.encode(sealed);
        let others = headers.get_all(COOKIE).iter().map(HeaderValue::len);
        let names = COOKIES.iter().map(|name| name.len());
        let line = others.chain(names).fold(text.len(), usize::saturating_add);
        if line > MAX_COOKIE_LINE || text.len() > MAX_VALUE.saturating_mul(COOKIES.len()) {
            return Err(Error::PageTooLong);
        }
        let path = self.own().saved_page(&tab);
        let values = text.as_bytes().chunks(MAX_VALUE);
        let values = values.map(|value| std::str::from_utf8(value).unwrap_or_default());
        let cookies = COOKIES
            .iter()
            .zip(values)
            .map(|(name, value)| cookie::set_at(&path, (name, value), self.settings.timeout));
        let cookies = cookies.collect();
        Ok((ReturnTo::saved(&path), cookies))
    }

    /// Reads the saved page whose endpoint has the name `tab`. Returns `None` if the browser sent no
    /// valid cookies for this endpoint.
    pub(crate) fn saved_page(
        &self,
        tab: &str,
        (public_url, headers): (&PublicUrl, &HeaderMap),
    ) -> Option<SavedPage> {
        let tab = Tab::parse(tab)?;
        let mut text = Vec::new();
        for name in COOKIES {
            match cookies::find(headers, name.as_bytes()) {
                Found::One(value) => text.extend_from_slice(value),
                Found::Absent => {}
                Found::Conflicting => return None,
            }
        }
        let sealed = URL_SAFE_NO_PAD.decode(text).ok()?;
        let plain = self.keys.open(&context(&tab, public_url), &sealed)?;
        let page = ReturnTo::parse(std::str::from_utf8(&plain).ok()?, self.own())?;
        let path = self.own().saved_page(&tab);
        let cookies = COOKIES.iter().map(|name| cookie::clear_at(&path, name));
        Some(SavedPage {
            location: page.absolute(public_url.origin()),
            cookies: cookies.collect(),
        })
    }
}

fn context(tab: &Tab, public_url: &PublicUrl) -> Vec<u8> {
    let fields = [tab.as_str().as_bytes(), public_url.origin().as_bytes()];
    associated_data(b"page", &fields)
}
