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

/// The beginning of the names of the cookies. The name of the endpoint and a number follow. The
/// prefix `__Host-` is not possible, because the cookies have a path. A sibling domain can therefore
/// set or hide cookies with these names, but the sibling domain does not know the name of the
/// endpoint.
const NAME: &str = "__Secure-sidegate-page-";

/// The maximum number of cookies of one saved page.
const PARTS: u8 = 2;

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
    /// Returns [`Error::PageNotKept`] if the cookies would be too large. [`Error::NoRandomness`].
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
        let names = names(&tab);
        let line = others.chain(names.clone().map(|name| name.len()));
        let line = line.fold(text.len(), usize::saturating_add);
        if line > MAX_COOKIE_LINE || text.len() > MAX_VALUE.saturating_mul(PARTS.into()) {
            return Err(Error::PageNotKept);
        }
        let path = self.own().saved_page(&tab);
        let values = text.as_bytes().chunks(MAX_VALUE);
        let values = values.map(|value| std::str::from_utf8(value).unwrap_or_default());
        // After a failed login, the user can start the login again, so the cookies live longer than
        // one login.
        let lifetime = self.settings.timeout.saturating_mul(2);
        let cookies = names
            .zip(values)
            .map(|(name, value)| cookie::set_at(&path, (&name, value), lifetime));
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
        let context = context(&tab, public_url);
        let mut text = Vec::new();
        let mut opened = None;
        for name in names(&tab) {
            if let Found::One(value) = cookies::find(headers, name.as_bytes()) {
                text.extend_from_slice(value);
                let sealed = URL_SAFE_NO_PAD.decode(&text).ok();
                opened = sealed.and_then(|sealed| self.keys.open(&context, &sealed));
            }
            // A second cookie that does not belong to the page is ignored.
            if opened.is_some() {
                break;
            }
        }
        let plain = opened?;
        let page = ReturnTo::parse(std::str::from_utf8(&plain).ok()?, self.own())?;
        let path = self.own().saved_page(&tab);
        let cookies = names(&tab).map(|name| cookie::clear_at(&path, &name));
        Some(SavedPage {
            location: page.absolute(public_url.origin()),
            cookies: cookies.collect(),
        })
    }
}

/// Returns the names of the cookies of a saved page, in the order of their contents.
fn names(tab: &Tab) -> impl Iterator<Item = String> + Clone {
    (0..PARTS).map(move |part| format!("{NAME}{}-{part}", tab.as_str()))
}

fn context(tab: &Tab, public_url: &PublicUrl) -> Vec<u8> {
    let fields = [tab.as_str().as_bytes(), public_url.origin().as_bytes()];
    associated_data(b"page", &fields)
}
