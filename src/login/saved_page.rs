//! Pages that the browser saves during a login.
//!
//! Many servers and proxies accept request lines of at most 8 KB, and the URL of an authorization
//! request contains the state. A long return path is therefore encrypted and saved in cookies of
//! the browser. The login returns to an endpoint of the gateway, which reads the cookies and
//! redirects the browser to the page. Each saved page has its own endpoint, and the cookies have
//! the path of this endpoint. No other request contains the cookies, so the saved pages of many
//! tabs do not add up to a head that is too large.
//!
//! If a route keeps fragments, a script also saves the encrypted return path and the fragment in
//! the storage of the browser tab ([`TabPage`]). The gateway never gets the fragment, because
//! browsers do not send fragments to servers.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use url::form_urlencoded;

use super::pending::{Tab, associated_data};
use super::{Error, Login, PublicUrl, ReturnTo};
use crate::fields::cookie::{self as cookies, Found};
use crate::secret::NoRandomness;
use crate::session::cookie;

/// The beginning of the names of the cookies. The name of the endpoint and a number follow. The
/// prefix `__Host-` is not possible, because the cookies have a path. A sibling domain can therefore
/// set or hide cookies with these names, but the sibling domain does not know the name of the
/// endpoint.
const NAME: &str = "__Secure-sidegate-page-";

/// The beginning of the names of the marker cookies. The browser sends the marker cookies with
/// every request, so the gateway knows for which saved pages the browser has cookies.
const MARKER: &str = "__Host-sidegate-page-";

/// The maximum number of saved pages that one answer deletes, so that the head of the answer stays
/// small.
const MAX_DELETED: usize = 2;

/// The maximum number of cookies of one saved page.
const PARTS: u8 = 2;

/// The longest value of one cookie. Browsers accept at most 4096 bytes for name and value together.
const MAX_VALUE: usize = 4000;

/// The longest time for which a browser can keep a page. The storage of a tab has no time limit of
/// its own.
const MAX_AGE: Duration = Duration::from_hours(24);

/// The longest `Cookie` line of the request that reads a saved page. Many servers accept lines of
/// at most 8 KB.
const MAX_COOKIE_LINE: usize = 8000;

/// A page that was read from the browser.
#[derive(Debug)]
pub(crate) struct SavedPage {
    /// The page, as an absolute URL.
    pub(crate) location: String,
    /// The `Set-Cookie` values that delete the cookies.
    pub(crate) cookies: Vec<HeaderValue>,
}

/// A page that a script saves in the storage of a browser tab, together with the fragment.
#[derive(Debug)]
pub(crate) struct TabPage {
    /// The name of the saved page.
    pub(crate) name: Box<str>,
    /// The encrypted return path of the page.
    pub(crate) sealed: String,
    /// The return path for a pending login: the endpoint that restores the page.
    pub(crate) return_to: ReturnTo,
    /// The `Set-Cookie` values that save the page for a browser without scripts. If the page is too
    /// large for cookies, there are no values.
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
        origin: (&PublicUrl, &HeaderMap),
    ) -> Result<(ReturnTo, Vec<HeaderValue>), Error> {
        if page.is_short() {
            return Ok((page, Vec::new()));
        }
        let (tab, sealed) = self.seal_page(&page, origin.0)?;
        let cookies = self.page_cookies(&tab, &sealed, origin);
        let cookies = cookies.ok_or(Error::PageNotKept)?;
        Ok((ReturnTo::saved(&self.own().saved_page(&tab)), cookies))
    }

    /// Encrypts a page for the storage of a browser tab.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`].
    pub(crate) fn save_in_tab(
        &self,
        page: &ReturnTo,
        origin: (&PublicUrl, &HeaderMap),
    ) -> Result<TabPage, NoRandomness> {
        let (tab, sealed) = self.seal_page(page, origin.0)?;
        let cookies = self.page_cookies(&tab, &sealed, origin);
        Ok(TabPage {
            return_to: ReturnTo::saved(&self.own().tab_page(&tab)),
            cookies: cookies.unwrap_or_default(),
            name: tab.as_str().into(),
            sealed,
        })
    }

    fn seal_page(
        &self,
        page: &ReturnTo,
        public_url: &PublicUrl,
    ) -> Result<(Tab, String), NoRandomness> {
        let tab = Tab::random(self.process.clock.now())?;
        let context = context(&tab, public_url);
        let sealed = self.keys.seal(&context, page.as_str().as_bytes())?;
        Ok((tab, URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// Returns the `Set-Cookie` values that save the encrypted page `sealed`. Returns `None` if the
    /// cookies would be too large.
    fn page_cookies(
        &self,
        tab: &Tab,
        sealed: &str,
        (public_url, headers): (&PublicUrl, &HeaderMap),
    ) -> Option<Vec<HeaderValue>> {
        let others = headers.get_all(COOKIE).iter().map(HeaderValue::len);
        let names = names(tab);
        let marker = marker(tab);
        let added = names.clone().chain([marker.clone()]).map(|name| name.len());
        let line = others.chain(added);
        let line = line.fold(sealed.len(), usize::saturating_add);
        if line > MAX_COOKIE_LINE || sealed.len() > MAX_VALUE.saturating_mul(PARTS.into()) {
            return None;
        }
        let path = self.own().saved_page(tab);
        let values = sealed.as_bytes().chunks(MAX_VALUE);
        let values = values.map(|value| std::str::from_utf8(value).unwrap_or_default());
        // After a failed login, the user can start the login again, so the cookies live longer than
        // one login.
        let lifetime = self.settings.timeout.saturating_mul(2);
        let cookies = names
            .zip(values)
            .map(|(name, value)| cookie::set_at(&path, (&name, value), lifetime));
        let cookies = cookies.chain([cookie::set(&marker, "1", lifetime)]);
        let most = self.settings.cookie_limits.pages(public_url);
        let surplus = surplus_pages(headers, most).flat_map(|tab| self.deletions(&tab));
        Some(cookies.chain(surplus).collect())
    }

    /// Returns the `Set-Cookie` values that delete the cookies of a saved page.
    fn deletions(&self, tab: &Tab) -> Vec<HeaderValue> {
        let path = self.own().saved_page(tab);
        let parts = names(tab).map(|name| cookie::clear_at(&path, &name));
        parts.chain([cookie::clear(&marker(tab))]).collect()
    }

    /// Reads the saved page whose endpoint has the name `name` from the cookies of a request.
    /// Returns `None` if the browser sent no valid cookies for this endpoint.
    pub(crate) fn saved_page(
        &self,
        name: &str,
        (public_url, headers): (&PublicUrl, &HeaderMap),
    ) -> Option<SavedPage> {
        let tab = Tab::parse(name)?;
        let mut text = Vec::new();
        for name in names(&tab) {
            if let Found::One(value) = cookies::find(headers, name.as_bytes()) {
                text.extend_from_slice(value);
                // A second cookie that does not belong to the page is ignored.
                if let Some(page) = self.open_page(&tab, &text, public_url) {
                    return Some(page);
                }
            }
        }
        None
    }

    /// Reads the saved page whose endpoint has the name `name` from a form that a script has sent.
    /// Returns `None` if the form contains no valid page for this endpoint.
    pub(crate) fn posted_page(
        &self,
        name: &str,
        form: &[u8],
        public_url: &PublicUrl,
    ) -> Option<SavedPage> {
        let mut pages = form_urlencoded::parse(form).filter(|(field, _)| field == "page");
        let (_, sealed) = pages.next()?;
        self.open_page(&Tab::parse(name)?, sealed.as_bytes(), public_url)
    }

    fn open_page(&self, tab: &Tab, sealed: &[u8], public_url: &PublicUrl) -> Option<SavedPage> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        // The page is sealed for the name of the tab, so the time in the name is authentic.
        let plain = self.keys.open(&context(tab, public_url), &sealed)?;
        if tab.age(self.process.clock.now()) > MAX_AGE {
            return None;
        }
        let page = ReturnTo::parse(std::str::from_utf8(&plain).ok()?, self.own())?;
        Some(SavedPage {
            location: page.absolute(public_url.origin()),
            cookies: self.deletions(tab),
        })
    }

    /// Returns the path of the endpoint of the saved page with the name `name`. Returns `None` if
    /// no saved page can have this name.
    pub(crate) fn saved_page_path(&self, name: &str) -> Option<String> {
        Some(self.own().saved_page(&Tab::parse(name)?))
    }
}

/// Returns the names of the cookies of a saved page, in the order of their contents.
fn names(tab: &Tab) -> impl Iterator<Item = String> + Clone {
    (0..PARTS).map(move |part| format!("{NAME}{}-{part}", tab.as_str()))
}

/// Returns the name of the marker cookie of a saved page.
fn marker(tab: &Tab) -> String {
    format!("{MARKER}{}", tab.as_str())
}

/// Returns the oldest saved pages that a browser must forget, so that it has at most `most` saved
/// pages after the next page is saved, but not more than [`MAX_DELETED`] saved pages.
fn surplus_pages(headers: &HeaderMap, most: usize) -> impl Iterator<Item = Tab> {
    let tab_of = |name: &[u8]| {
        let text = name.strip_prefix(MARKER.as_bytes())?;
        std::str::from_utf8(text).ok().and_then(Tab::parse)
    };
    let markers = cookies::matching(headers, cookie::is_own);
    let mut tabs: Vec<Tab> = markers.filter_map(|(name, _)| tab_of(name)).collect();
    tabs.sort_unstable();
    // The caller saves one more page, so `surplus` also counts this page.
    let surplus = tabs.len().saturating_add(1).saturating_sub(most);
    tabs.into_iter().take(surplus.min(MAX_DELETED))
}

fn context(tab: &Tab, public_url: &PublicUrl) -> Vec<u8> {
    let fields = [tab.as_str().as_bytes(), public_url.origin().as_bytes()];
    associated_data(b"page", &fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_12_a_browser_with_too_many_saved_pages_forgets_the_oldest() {
        let tab = |number: u32| Tab::parse(&format!("{number:08x}00000000")).unwrap();
        let line = |count: u32| {
            let markers = (1..=count).rev().map(|number| marker(&tab(number)));
            let pairs: Vec<_> = markers.map(|name| format!("{name}=1")).collect();
            let line = format!("a=b; __Host-sidegate-page-x=1; {}", pairs.join("; "));
            [(COOKIE, HeaderValue::from_str(&line).unwrap())]
        };
        let surplus = |count| {
            let headers = line(count).into_iter().collect();
            surplus_pages(&headers, 20).collect::<Vec<_>>()
        };
        assert_eq!(surplus(19), []);
        assert_eq!(surplus(20), [tab(1)]);
        assert_eq!(surplus(22), [tab(1), tab(2)]);
    }
}
