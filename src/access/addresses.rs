//! Replaces the addresses in the answers of an app that does not know its public address.
//!
//! An app writes its address into `Location`, `Content-Location`, `Refresh` and `Set-Cookie`. If the
//! app knows neither its public origin nor its public prefix, a browser cannot use this address.
//! [`Addresses::replace`] replaces an address only if the address has an origin of the app and a
//! path below the app's prefix. All other addresses stay unchanged. A replaced address is always a
//! complete URL with the public origin of the request. A browser therefore never reads a path such
//! as `//evil.test` as a host.
//!
//! Some apps write public addresses, for example an address of the gateway's own endpoints. The path
//! of a public address stays unchanged.

use http::header::{CONTENT_LOCATION, Entry, LOCATION, REFRESH, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, percent_encode};
use url::{Origin, ParseError, Url};

use crate::fields::cookie::name_set_by;
use crate::target::Prefix;

/// The addresses by which an app knows itself, and the prefix by which browsers know the app.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    /// The URL `/` of the app.
    root: Url,
    /// The origins that the app has, besides the public origin of the request.
    origins: Vec<Origin>,
    /// The names of the hosts in `origins`.
    hosts: Vec<Box<str>>,
    replaced: Replaced,
    fields: ReplacedFields,
}

/// The prefix that browsers see instead of the prefix of the app.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Replaced {
    /// The prefix as the app knows it.
    pub(super) app: Prefix,
    /// The prefix as browsers know it.
    pub(super) public: Prefix,
}

/// The fields in which addresses are replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ReplacedFields {
    /// `Location`, `Content-Location` and `Refresh`.
    pub(super) locations: bool,
    /// `Path` and `Domain` of `Set-Cookie`.
    pub(super) cookies: bool,
}

/// The addresses of the gateway for one request.
struct Public<'a> {
    /// The public origin of the request.
    origin: &'a str,
    /// The URL `/` of the public origin.
    root: Url,
    /// Returns true if the gateway itself answers requests for a path.
    is_own: &'a dyn Fn(&str) -> bool,
}

impl Replaced {
    /// Returns the public path of a path of the app. Returns `None` if the path is not below the
    /// prefix of the app.
    fn path(&self, path: &str) -> Option<String> {
        if !is_below(&self.app, path) {
            return None;
        }
        let public = format!("{}{}", self.public.without_slash(), self.app.rest(path));
        Some(if public.is_empty() {
            "/".to_owned()
        } else {
            public
        })
    }

    /// Returns the public value of a cookie's `Path`. A browser sends a cookie with the path `/app`
    /// to `/app` and to all paths below `/app`, but does not send a cookie with the path `/app/` to
    /// `/app`. A cookie whose path is above the prefix of the app gets the public prefix, because
    /// the cookie is for all paths of the app.
    fn cookie_path(&self, path: &str) -> Option<String> {
        let short = path.strip_suffix('/').filter(|short| !short.is_empty());
        let above = Prefix::parse(short.unwrap_or(path));
        if !above.is_ok_and(|above| above.matches(self.app.as_str())) {
            return self.path(path);
        }
        let public = Some(self.public.without_slash()).filter(|public| !public.is_empty());
        Some(public.unwrap_or("/").to_owned())
    }
}

/// Returns true if a path is the prefix or a path below the prefix. A slash at the end of the prefix
/// makes no difference.
fn is_below(prefix: &Prefix, path: &str) -> bool {
    let is_prefix = !path.is_empty() && path == prefix.without_slash();
    // An app may encode a slash in its path. `matches` reads an encoded slash as a slash, but
    // `covers` compares whole segments.
    is_prefix || (prefix.matches(path) && prefix.covers(path))
}

impl Addresses {
    /// Creates the addresses of an app. `root` is the URL `/` of the app, and `others` are the
    /// other origins by which the app knows itself.
    pub(super) fn new(
        root: Url,
        others: impl IntoIterator<Item = Url>,
        replaced: Replaced,
        fields: ReplacedFields,
    ) -> Self {
        let urls: Vec<Url> = std::iter::once(root.clone()).chain(others).collect();
        let hosts = urls.iter().filter_map(|url| Some(url.host_str()?.into()));
        Self {
            hosts: hosts.collect(),
            origins: urls.iter().map(Url::origin).collect(),
            root,
            replaced,
            fields,
        }
    }

    /// Replaces the addresses in the fields of an answer. `public_origin` is the public origin of
    /// the request. `is_own` returns true if the gateway itself answers requests for a path. The
    /// caller has already removed the cookies that an app must not set.
    pub(crate) fn replace(
        &self,
        headers: &mut HeaderMap,
        public_origin: &str,
        is_own: impl Fn(&str) -> bool,
    ) {
        let has_any = |names: &[HeaderName]| names.iter().any(|name| headers.contains_key(name));
        let locations = self.fields.locations && has_any(&[LOCATION, CONTENT_LOCATION, REFRESH]);
        let cookies = self.fields.cookies && has_any(&[SET_COOKIE]);
        if !locations && !cookies {
            return;
        }
        let Ok(root) = Url::parse(public_origin) else {
            return;
        };
        let public = Public {
            origin: public_origin,
            root,
            is_own: &is_own,
        };
        let location = |text: &str| self.location(text, &public);
        if locations {
            for name in [LOCATION, CONTENT_LOCATION] {
                replace_values(headers, name, |value| location(&ascii(value)));
            }
            replace_values(headers, REFRESH, |value| refresh(&ascii(value), location));
        }
        if cookies {
            let host = public.root.host_str().unwrap_or_default();
            replace_values(headers, SET_COOKIE, |value| self.cookie(value, host));
        }
    }

    /// Returns the public URL of an address. Returns `None` if the address stays unchanged.
    fn location(&self, text: &str, public: &Public<'_>) -> Option<String> {
        let (url, is_path) = self.absolute(text)?;
        let has_public_authority = has_authority_of(&url, &public.root);
        if !has_public_authority && !self.origins.contains(&url.origin()) {
            return None;
        }
        let path = url.path();
        let prefix = &self.replaced.public;
        let is_own = (is_path || has_public_authority) && (public.is_own)(path);
        let has_public_prefix = has_public_authority && !is_path && is_below(prefix, path);
        let is_public = is_own || (has_public_prefix && !prefix.without_slash().is_empty());
        let path = match (is_public, is_path) {
            (true, true) => return None,
            (true, false) => path.to_owned(),
            (false, _) => self.replaced.path(path)?,
        };
        let query = url.query().map(|query| format!("?{query}"));
        let fragment = url.fragment().map(|fragment| format!("#{fragment}"));
        let (query, fragment) = (query.unwrap_or_default(), fragment.unwrap_or_default());
        Some(format!("{}{path}{query}{fragment}", public.origin))
    }

    /// Reads an address as a browser reads it (WHATWG URL), and returns whether the address is a
    /// path without a host. Returns `None` for an address that is relative to the path of the
    /// request. Such an address has the same meaning for the app and for the browser.
    fn absolute(&self, text: &str) -> Option<(Url, bool)> {
        // A browser ignores tabs in a URL.
        let text = text.trim_matches(|c: char| c <= ' ').replace('\t', "");
        match Url::parse(&text) {
            Ok(url) => Some((url, false)),
            Err(ParseError::RelativeUrlWithoutBase) => {
                let rest = text.strip_prefix(['/', '\\'])?;
                let url = self.root.join(&text).ok()?;
                Some((url, !rest.starts_with(['/', '\\'])))
            }
            Err(_) => None,
        }
    }

    /// Returns a `Set-Cookie` value with the public path, and without a domain of the app. Returns
    /// `None` if the value stays unchanged.
    fn cookie(&self, value: &[u8], public_host: &str) -> Option<Vec<u8>> {
        let mut changed = false;
        let mut parts = value.split(|byte| *byte == b';');
        let mut cookie = parts.next()?.to_owned();
        let name = name_set_by(value);
        // A browser accepts a cookie with the prefix `__Host-` only with the path `/`.
        let prefix = name.get(..HOST_PREFIX.len()).unwrap_or_default();
        let keeps_path = prefix.eq_ignore_ascii_case(HOST_PREFIX);
        for part in parts {
            let mut halves = part.splitn(2, |byte| *byte == b'=');
            let (attribute, text) = (halves.next(), halves.next().unwrap_or_default());
            let attribute = attribute.unwrap_or_default();
            // The value of another attribute may have other bytes than UTF-8.
            let text = str::from_utf8(text.trim_ascii()).unwrap_or_default();
            let is = |wanted: &[u8]| attribute.trim_ascii().eq_ignore_ascii_case(wanted);
            if is(b"domain") && self.is_foreign(text, public_host) {
                changed = true;
                continue;
            }
            let path = Some(text).filter(|_| is(b"path") && !keeps_path);
            cookie.push(b';');
            match path.and_then(|path| self.replaced.cookie_path(path)) {
                Some(path) => {
                    changed = true;
                    cookie.extend([attribute, b"=", path.as_bytes()].concat());
                }
                None => cookie.extend_from_slice(part),
            }
        }
        changed.then_some(cookie)
    }

    /// Returns true if a cookie with this domain is for a host of the app and not for the public
    /// host. A browser refuses such a cookie.
    fn is_foreign(&self, domain: &str, public_host: &str) -> bool {
        let domain = domain.strip_prefix('.').unwrap_or(domain);
        let domain = domain.to_ascii_lowercase();
        let belongs = |host: &str| {
            let before = host.strip_suffix(&*domain);
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let is_of_app = self.hosts.iter().any(|host| belongs(host));
        !domain.is_empty() && is_of_app && !belongs(public_host)
    }
}

/// The prefix of a cookie name that demands the path `/` (RFC 6265bis section 4.1.3.2).
const HOST_PREFIX: &[u8] = b"__Host-";

/// Returns true if `url` has the host and the port of the public origin. An app that gets the public
/// `Host` may not know that browsers use TLS, so the scheme may be the other one.
fn has_authority_of(url: &Url, public: &Url) -> bool {
    let is_http = matches!(url.scheme(), "http" | "https");
    is_http && url.host() == public.host() && url.port() == public.port()
}

/// Returns the value of a field as text. Octets outside ASCII are percent-encoded, as a browser
/// encodes them in a path.
fn ascii(value: &[u8]) -> String {
    percent_encode(value, &AsciiSet::EMPTY).to_string()
}

/// Replaces the address in a `Refresh` value, such as `5; url=/next`. Returns `None` if the value
/// stays unchanged.
fn refresh(text: &str, location: impl Fn(&str) -> Option<String>) -> Option<String> {
    let (time, rest) = text.split_at_checked(text.find([';', ','])?)?;
    let rest = rest.get(1..)?.trim_start();
    let address = match rest.split_at_checked(3) {
        Some((key, after)) if key.eq_ignore_ascii_case("url") => {
            let value = after.trim_start().strip_prefix('=');
            value.map_or(rest, str::trim_start)
        }
        Some(_) | None => rest,
    };
    let quote = address.chars().next().filter(|c| matches!(c, '"' | '\''));
    let address = match quote {
        None => address,
        Some(quote) => {
            let inner = address.get(1..)?;
            inner.split(quote).next().unwrap_or(inner)
        }
    };
    Some(format!("{}; url={}", time.trim(), location(address)?))
}

/// Replaces each value of a field for which `replace` returns a new value.
fn replace_values<T: Into<Vec<u8>>>(
    headers: &mut HeaderMap,
    name: HeaderName,
    replace: impl Fn(&[u8]) -> Option<T>,
) {
    let replaced = |value: &HeaderValue| {
        let new = replace(value.as_bytes())?.into();
        let mut new = HeaderValue::try_from(new).ok()?;
        new.set_sensitive(value.is_sensitive());
        Some(new)
    };
    if let Entry::Occupied(mut entry) = headers.entry(name) {
        for value in entry.iter_mut() {
            if let Some(new) = replaced(value) {
                *value = new;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The addresses of a row, which has the origins of the app, the prefix of the app, the public
    /// origin and the public prefix.
    fn addresses(origins: &str, app: &str, public: &str) -> Addresses {
        let mut urls = origins.split(' ').map(|text| Url::parse(text).unwrap());
        let root = urls.next().unwrap();
        let prefix = |text: &str| Prefix::parse(text).unwrap();
        let replaced = Replaced {
            app: prefix(app),
            public: prefix(public),
        };
        let fields = ReplacedFields {
            locations: true,
            cookies: true,
        };
        Addresses::new(root, urls, replaced, fields)
    }

    fn is_own(path: &str) -> bool {
        path.starts_with("/oauth2/")
    }

    #[test]
    fn e_05_e_06_e_07_every_row_of_the_table_of_addresses_holds() {
        let table = include_str!("../../tests/data/addresses.txt");
        let mut count = 0;
        let mut scene = None;
        for row in table.lines().filter(|line| !line.starts_with('#')) {
            let row = row.replace("\\t", "\u{9}");
            match row.split(" | ").collect::<Vec<_>>()[..] {
                ["app", origins, app, origin, public] => {
                    scene = Some((addresses(origins, app, public), origin.to_owned()));
                }
                [name, given, wanted] => {
                    let (addresses, origin) = scene.as_ref().unwrap();
                    let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                    let given = HeaderValue::from_bytes(given.as_bytes()).unwrap();
                    let mut headers = HeaderMap::from_iter([(name.clone(), given.clone())]);
                    addresses.replace(&mut headers, origin, is_own);
                    let wanted = match wanted {
                        "=" => given,
                        wanted => HeaderValue::from_bytes(wanted.as_bytes()).unwrap(),
                    };
                    assert_eq!(headers.get(&name), Some(&wanted), "{row}");
                    count += 1;
                }
                _ => panic!("three or five columns: {row}"),
            }
        }
        assert!(count >= 80, "{count}");
    }

    #[test]
    fn every_value_of_a_field_is_replaced_and_a_secret_stays_marked() {
        let addresses = addresses("http://app:8080", "/", "/wiki");
        let mut secret = HeaderValue::from_static("s=1; Path=/");
        secret.set_sensitive(true);
        let mut headers = HeaderMap::new();
        for value in [secret, HeaderValue::from_static("t=2; Path=/b")] {
            headers.append(SET_COOKIE, value);
        }
        headers.insert("link", HeaderValue::from_static("</a>; rel=next"));
        addresses.replace(&mut headers, "https://gw.test", is_own);
        let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(cookies, ["s=1; Path=/wiki", "t=2; Path=/wiki/b"]);
        assert!(cookies[0].is_sensitive() && !cookies[1].is_sensitive());
        assert_eq!(headers["link"], "</a>; rel=next");
    }

    #[test]
    fn a_value_with_octets_that_are_not_utf8_is_replaced() {
        let addresses = addresses("http://app:8080", "/", "/wiki");
        for (name, given, wanted) in [
            (
                LOCATION,
                &b"/caf\xe9?\xff"[..],
                &b"https://gw.test/wiki/caf%E9?%FF"[..],
            ),
            (REFRESH, b"5; url=/\xe9", b"5; url=https://gw.test/wiki/%E9"),
            (
                SET_COOKIE,
                b"s=\xe9; Path=/; x=\xff",
                b"s=\xe9; Path=/wiki; x=\xff",
            ),
            (SET_COOKIE, b"s=1; Path=/\xe9", b"s=1; Path=/\xe9"),
            (LOCATION, b"//evil.test/\xe9", b"//evil.test/\xe9"),
        ] {
            let given = HeaderValue::from_bytes(given).unwrap();
            let mut headers = HeaderMap::from_iter([(name.clone(), given)]);
            addresses.replace(&mut headers, "https://gw.test", is_own);
            assert_eq!(headers[&name].as_bytes(), wanted);
        }
    }

    #[test]
    fn only_the_chosen_fields_are_replaced() {
        for (locations, cookies) in [(true, false), (false, true)] {
            let mut addresses = addresses("http://app:8080", "/", "/wiki");
            addresses.fields = ReplacedFields { locations, cookies };
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, HeaderValue::from_static("/a"));
            headers.insert(SET_COOKIE, HeaderValue::from_static("t=2; Path=/"));
            addresses.replace(&mut headers, "https://gw.test", is_own);
            assert_eq!(headers[LOCATION] != "/a", locations);
            assert_eq!(headers[SET_COOKIE] != "t=2; Path=/", cookies);
        }
    }
}
