//! A cookie jar: the parts of RFC 6265bis that matter for a gateway.
//!
//! Cookies belong to hosts and ignore ports. Cookies do not expire in this jar. Only `Max-Age=0` or
//! less and `Expires` in 1970 delete a cookie. A test that needs expired cookies removes the
//! cookies itself.

use url::Url;

/// A stored cookie.
#[expect(clippy::struct_excessive_bools, reason = "the attributes are flags")]
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Cookie {
    pub(crate) name: String,
    pub(crate) value: String,
    host: String,
    host_only: bool,
    pub(crate) path: String,
    pub(crate) secure: bool,
    pub(crate) http_only: bool,
    pub(crate) same_site: SameSite,
    pub(crate) max_age: Option<i64>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SameSite {
    Unset,
    Lax,
    None,
    Strict,
}

/// The cause and kind of a request, which determine the cookies of the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Context {
    SameSite,
    /// A top-level navigation by GET that another site has caused.
    CrossSiteNavigation,
    /// Any other request that another site has caused.
    CrossSite,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Jar {
    cookies: Vec<Cookie>,
}

/// Loopback hosts count as secure for `Secure` cookies, as in Chromium.
fn is_trustworthy(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let loopback = host == "localhost" || host.ends_with(".localhost") || host.starts_with("127.");
    url.scheme() == "https" || loopback || host == "[::1]"
}

impl Jar {
    /// Processes one `Set-Cookie` value of a response from `url`. Returns `false` if a browser
    /// would ignore the value. A deletion returns `true`.
    pub(crate) fn take(&mut self, url: &Url, text: &str) -> bool {
        let Some(mut cookie) = parse(url, text) else {
            return false;
        };
        let known = |other: &Cookie| {
            (&other.name, &other.host, &other.path) == (&cookie.name, &cookie.host, &cookie.path)
        };
        let at = self.cookies.iter().position(known);
        // RFC 6265bis section 5.7: a cookie without Secure does not replace a cookie with Secure.
        if !cookie.secure && !is_trustworthy(url) && at.is_some_and(|at| self.cookies[at].secure) {
            return false;
        }
        if cookie.max_age.is_some_and(|age| age <= 0) {
            self.cookies.retain(|other| {
                (&other.name, &other.host, &other.path)
                    != (&cookie.name, &cookie.host, &cookie.path)
            });
            return true;
        }
        match at {
            Some(at) => std::mem::swap(&mut self.cookies[at], &mut cookie),
            None => self.cookies.push(cookie),
        }
        true
    }

    /// The `Cookie` value for a request to `url`, longest path first.
    pub(crate) fn header(&self, url: &Url, context: Context) -> Option<String> {
        let mut matching: Vec<_> = self
            .visible(url)
            .into_iter()
            .filter(|cookie| is_sent(cookie, context))
            .collect();
        matching.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let pairs: Vec<_> = matching
            .iter()
            .map(|c| format!("{}={}", c.name, c.value))
            .collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// The cookies that a request to `url` can contain.
    pub(crate) fn visible(&self, url: &Url) -> Vec<Cookie> {
        let host = url.host_str().unwrap_or_default();
        let visible = |cookie: &&Cookie| {
            let host_matches = cookie.host == host
                || (!cookie.host_only && host.ends_with(&format!(".{}", cookie.host)));
            host_matches
                && (!cookie.secure || is_trustworthy(url))
                && path_matches(url.path(), &cookie.path)
        };
        self.cookies.iter().filter(visible).cloned().collect()
    }

    /// Removes every cookie with this name.
    pub(crate) fn forget(&mut self, name: &str) {
        self.cookies.retain(|cookie| cookie.name != name);
    }
}

fn is_sent(cookie: &Cookie, context: Context) -> bool {
    match cookie.same_site {
        SameSite::None => true,
        SameSite::Lax | SameSite::Unset => context != Context::CrossSite,
        SameSite::Strict => context == Context::SameSite,
    }
}

fn path_matches(path: &str, cookie_path: &str) -> bool {
    path == cookie_path
        || path
            .strip_prefix(cookie_path)
            .is_some_and(|rest| cookie_path.ends_with('/') || rest.starts_with('/'))
}

fn parse(url: &Url, text: &str) -> Option<Cookie> {
    let trim = |text: &str| text.trim_matches([' ', '\t']).to_owned();
    let mut parts = text.split(';');
    let (name, value) = parts.next()?.split_once('=')?;
    let host = url.host_str()?.to_owned();
    let mut cookie = Cookie {
        name: trim(name),
        value: trim(value),
        host: host.clone(),
        host_only: true,
        path: url
            .path()
            .rsplit_once('/')
            .map_or("/", |(dir, _)| if dir.is_empty() { "/" } else { dir })
            .to_owned(),
        secure: false,
        http_only: false,
        same_site: SameSite::Unset,
        max_age: None,
    };
    for part in parts {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let value = trim(value);
        match trim(key).to_ascii_lowercase().as_str() {
            "secure" => cookie.secure = true,
            "httponly" => cookie.http_only = true,
            "path" if value.starts_with('/') => cookie.path = value,
            "domain" if !value.is_empty() => {
                let domain = value.trim_start_matches('.').to_ascii_lowercase();
                let covers = host == domain || host.ends_with(&format!(".{domain}"));
                if !covers || !domain.contains('.') {
                    return None;
                }
                cookie.host = domain;
                cookie.host_only = false;
            }
            "max-age" => cookie.max_age = value.parse().ok().or(cookie.max_age),
            "expires" if value.contains(" 1970 ") && cookie.max_age.is_none() => {
                cookie.max_age = Some(0);
            }
            "samesite" => {
                cookie.same_site = match value.to_ascii_lowercase().as_str() {
                    "strict" => SameSite::Strict,
                    "none" => SameSite::None,
                    _ => SameSite::Lax,
                }
            }
            _ => {}
        }
    }
    is_acceptable(&cookie, url).then_some(cookie)
}

fn is_acceptable(cookie: &Cookie, url: &Url) -> bool {
    let name = cookie.name.to_ascii_lowercase();
    let needs_secure = name.starts_with("__host-")
        || name.starts_with("__secure-")
        || cookie.same_site == SameSite::None;
    let host_prefix_held = !name.starts_with("__host-") || (cookie.host_only && cookie.path == "/");
    let size = cookie.name.len() + cookie.value.len();
    (!cookie.secure || is_trustworthy(url))
        && (!needs_secure || cookie.secure)
        && host_prefix_held
        && !cookie.name.is_empty()
        && size <= 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn the_host_prefix_is_enforced() {
        let page = url("http://localhost:81/a/b");
        let takes = |text: &str| Jar::default().take(&page, text);
        assert!(takes("__Host-a=1; Path=/; Secure; HttpOnly"));
        assert!(!takes("__Host-a=1; Path=/"));
        assert!(!takes("__Host-a=1; Path=/a; Secure"));
        assert!(!takes("__Host-a=1; Secure"));
        assert!(!takes("__HOST-a=1; Path=/"));
        let elsewhere = url("http://app.test/");
        assert!(!Jar::default().take(&elsewhere, "__Host-a=1; Path=/; Secure"));
        assert!(!Jar::default().take(&elsewhere, "a=1; Secure"));
        let domain = "__Host-a=1; Path=/; Secure; Domain=app.test";
        assert!(!Jar::default().take(&url("https://app.test/"), domain));
    }

    #[test]
    fn cookies_go_to_their_host_on_any_port_and_to_their_path() {
        let mut jar = Jar::default();
        assert!(jar.take(&url("http://localhost:81/a/b"), "x=1"));
        assert!(jar.take(&url("http://localhost:81/a/b"), "y=2; Path=/"));
        let header = |jar: &Jar, to: &str| jar.header(&url(to), Context::SameSite);
        assert_eq!(header(&jar, "http://localhost:82/a/c").unwrap(), "x=1; y=2");
        assert_eq!(header(&jar, "http://localhost:82/ab").unwrap(), "y=2");
        assert_eq!(header(&jar, "http://127.0.0.1:81/a/b"), None);
        assert!(jar.take(&url("http://localhost/"), "y=; Path=/; Max-Age=0"));
        assert_eq!(header(&jar, "http://localhost/"), None);
        jar.forget("x");
        assert!(jar.visible(&url("http://localhost/a/b")).is_empty());
    }

    #[test]
    fn a_parent_domain_can_toss_cookies_at_its_children() {
        let mut jar = Jar::default();
        assert!(jar.take(
            &url("https://evil.app.test/"),
            "s=evil; Domain=app.test; Path=/deep"
        ));
        assert!(jar.take(&url("https://app.test/"), "s=good; Path=/"));
        let header = jar.header(&url("https://app.test/deep/x"), Context::SameSite);
        assert_eq!(header.unwrap(), "s=evil; s=good");
        assert!(!jar.take(&url("https://app.test/"), "s=1; Domain=other.test"));
        assert!(!jar.take(&url("https://app.test/"), "s=1; Domain=test"));
    }

    #[test]
    fn same_site_decides_by_context() {
        let mut jar = Jar::default();
        let page = url("https://app.test/");
        for text in [
            "l=1; SameSite=Lax",
            "s=1; SameSite=Strict",
            "n=1; SameSite=None; Secure",
        ] {
            assert!(jar.take(&page, text), "{text}");
        }
        assert!(!jar.take(&page, "m=1; SameSite=None"));
        let header = |context| jar.header(&page, context).unwrap();
        assert_eq!(header(Context::SameSite), "l=1; s=1; n=1");
        assert_eq!(header(Context::CrossSiteNavigation), "l=1; n=1");
        assert_eq!(header(Context::CrossSite), "n=1");
    }
}
