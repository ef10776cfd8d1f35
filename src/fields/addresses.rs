//! Replaces the addresses in the answers of an app that does not know its public address.
//!
//! An app writes its address into `Location`, `Content-Location`, `Refresh` and `Set-Cookie`. If the
//! app knows neither its public origin nor its public prefix, a browser cannot use this address.
//! [`Addresses::replace`] replaces an address only if the address has an origin of the app and a
//! path below the app's prefix. All other addresses stay unchanged. A replaced address is always a
//! complete URL with the public origin of the request. A browser therefore never reads a path such
//! as `//evil.test` as a host.

use http::header::{CONTENT_LOCATION, LOCATION, REFRESH, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use url::{Origin, ParseError, Url};

use super::cookie::name_set_by;

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

/// The prefix that browsers see instead of the prefix of the app. Both texts begin with a slash and
/// do not end with a slash, or are empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Replaced {
    /// The prefix as the app knows it.
    pub(crate) app: Box<str>,
    /// The prefix as browsers know it.
    pub(crate) public: Box<str>,
}

/// The fields in which addresses are replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ReplacedFields {
    /// `Location`, `Content-Location` and `Refresh`.
    pub(crate) locations: bool,
    /// `Path` and `Domain` of `Set-Cookie`.
    pub(crate) cookies: bool,
}

impl Replaced {
    /// Returns the public path of a path of the app. Returns `None` if the path is not below the
    /// prefix of the app.
    fn path(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix(&*self.app)?;
        if !path.starts_with('/') || !(rest.is_empty() || rest.starts_with('/')) {
            return None;
        }
        let public = format!("{}{rest}", self.public);
        Some(if public.is_empty() {
            "/".to_owned()
        } else {
            public
        })
    }

    /// Returns the public value of a cookie's `Path`. The path `/app` of a cookie matches `/app` and
    /// all paths below `/app`, but the path `/app/` does not match `/app`.
    fn cookie_path(&self, path: &str) -> Option<String> {
        let public = self.path(path)?;
        let whole = path.strip_prefix(&*self.app) == Some("/");
        let short = public.strip_suffix('/').filter(|short| !short.is_empty());
        let short = short.filter(|_| whole).map(str::to_owned);
        Some(short.unwrap_or(public))
    }
}

impl Addresses {
    /// Creates the addresses of an app. `root` is the URL `/` of the app, and `others` are the
    /// other origins by which the app knows itself.
    pub(crate) fn new(
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
    /// the request. The caller has already removed the cookies that an app must not set.
    pub(crate) fn replace(&self, headers: &mut HeaderMap, public_origin: &str) {
        let Ok(public) = Url::parse(public_origin) else {
            return;
        };
        let location = |text: &str| self.location(text, public_origin, &public);
        if self.fields.locations {
            for name in [LOCATION, CONTENT_LOCATION] {
                replace_values(headers, &name, location);
            }
            replace_values(headers, &REFRESH, |text| refresh(text, location));
        }
        if self.fields.cookies {
            let host = public.host_str().unwrap_or_default();
            replace_values(headers, &SET_COOKIE, |text| self.cookie(text, host));
        }
    }

    /// Returns the public URL of an address. Returns `None` if the address stays unchanged.
    fn location(&self, text: &str, public_origin: &str, public: &Url) -> Option<String> {
        let url = self.absolute(text)?;
        if !self.origins.contains(&url.origin()) && !has_authority_of(&url, public) {
            return None;
        }
        let path = self.replaced.path(url.path())?;
        let query = url.query().map(|query| format!("?{query}"));
        let fragment = url.fragment().map(|fragment| format!("#{fragment}"));
        let (query, fragment) = (query.unwrap_or_default(), fragment.unwrap_or_default());
        Some(format!("{public_origin}{path}{query}{fragment}"))
    }

    /// Reads an address as a browser reads it (WHATWG URL). Returns `None` for an address that is
    /// relative to the path of the request. Such an address has the same meaning for the app and
    /// for the browser.
    fn absolute(&self, text: &str) -> Option<Url> {
        let text = text.trim_matches(|c: char| c <= ' ');
        match Url::parse(text) {
            Ok(url) => Some(url),
            Err(ParseError::RelativeUrlWithoutBase) if text.starts_with(['/', '\\']) => {
                self.root.join(text).ok()
            }
            Err(_) => None,
        }
    }

    /// Returns a `Set-Cookie` value with the public path, and without a domain of the app. Returns
    /// `None` if the value stays unchanged.
    fn cookie(&self, text: &str, public_host: &str) -> Option<String> {
        let mut changed = false;
        let mut parts = text.split(';');
        let mut cookie = parts.next()?.to_owned();
        let name = name_set_by(text.as_bytes());
        // A browser accepts a cookie with the prefix `__Host-` only with the path `/`.
        let prefix = name.get(..HOST_PREFIX.len()).unwrap_or_default();
        let keeps_path = prefix.eq_ignore_ascii_case(HOST_PREFIX);
        for part in parts {
            let (attribute, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim_matches([' ', '\t']);
            let is = |wanted| (attribute.trim_matches([' ', '\t'])).eq_ignore_ascii_case(wanted);
            if is("domain") && self.is_foreign(value, public_host) {
                changed = true;
                continue;
            }
            let path = Some(value).filter(|_| is("path") && !keeps_path);
            cookie.push(';');
            match path.and_then(|path| self.replaced.cookie_path(path)) {
                Some(path) => {
                    changed = true;
                    cookie.extend([attribute, "=", &path]);
                }
                None => cookie.push_str(part),
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
fn replace_values(
    headers: &mut HeaderMap,
    name: &HeaderName,
    replace: impl Fn(&str) -> Option<String>,
) {
    let replaced = |value: &HeaderValue| {
        let text = replace(str::from_utf8(value.as_bytes()).ok()?)?;
        let mut new = HeaderValue::try_from(text).ok()?;
        new.set_sensitive(value.is_sensitive());
        Some(new)
    };
    if let http::header::Entry::Occupied(mut entry) = headers.entry(name) {
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
        let text = |prefix: &str| prefix.trim_end_matches('/').into();
        let replaced = Replaced {
            app: text(app),
            public: text(public),
        };
        let fields = ReplacedFields {
            locations: true,
            cookies: true,
        };
        Addresses::new(root, urls, replaced, fields)
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
                    addresses.replace(&mut headers, origin);
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
        addresses.replace(&mut headers, "https://gw.test");
        let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(cookies, ["s=1; Path=/wiki", "t=2; Path=/wiki/b"]);
        assert!(cookies[0].is_sensitive() && !cookies[1].is_sensitive());
        assert_eq!(headers["link"], "</a>; rel=next");
    }

    #[test]
    fn only_the_chosen_fields_are_replaced() {
        for (locations, cookies) in [(true, false), (false, true)] {
            let mut addresses = addresses("http://app:8080", "/", "/wiki");
            addresses.fields = ReplacedFields { locations, cookies };
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, HeaderValue::from_static("/a"));
            headers.insert(SET_COOKIE, HeaderValue::from_static("t=2; Path=/"));
            addresses.replace(&mut headers, "https://gw.test");
            assert_eq!(headers[LOCATION] != "/a", locations);
            assert_eq!(headers[SET_COOKIE] != "t=2; Path=/", cookies);
        }
    }
}
