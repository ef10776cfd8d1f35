//! One request of a browser: its purpose, its origin, and the fields that depend on the purpose and
//! the origin.

use http::Method;
use url::Url;

use super::jar::Context;

/// The purpose of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Purpose {
    Fetch,
    Image,
    Navigation,
}

/// A request that has not been sent yet.
#[derive(Clone, Debug)]
pub(crate) struct BrowserRequest {
    pub(super) method: Method,
    pub(super) url: Url,
    purpose: Purpose,
    /// The page that causes the request; `None` if a user typed the URL.
    pub(super) from: Option<Url>,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl BrowserRequest {
    fn new(url: &str, purpose: Purpose) -> Self {
        let url = Url::parse(url).unwrap();
        Self {
            method: Method::GET,
            url,
            purpose,
            from: None,
            fields: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Opening a page in a tab.
    pub(crate) fn navigation(url: &str) -> Self {
        Self::new(url, Purpose::Navigation)
    }

    /// A script's `fetch` from the page's own origin.
    pub(crate) fn fetch(url: &str) -> Self {
        Self::new(url, Purpose::Fetch).from(url)
    }

    /// An image of a page of the same origin.
    pub(crate) fn image(url: &str) -> Self {
        Self::new(url, Purpose::Image).from(url)
    }

    /// The request that follows a redirect to `url`. The page that caused the first request also
    /// causes the next request.
    pub(super) fn redirected(&self, url: &str) -> Self {
        let from = self.from.clone();
        Self {
            from,
            ..Self::navigation(url)
        }
    }

    /// Sets the page that causes the request.
    pub(crate) fn from(mut self, url: &str) -> Self {
        self.from = Some(Url::parse(url).unwrap());
        self
    }

    pub(crate) fn method(mut self, method: &str) -> Self {
        self.method = Method::from_bytes(method.as_bytes()).unwrap();
        self
    }

    /// Adds a field, or replaces a field that the browser sends.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A POST of form fields.
    pub(crate) fn form<N: AsRef<str>, V: AsRef<str>>(self, fields: &[(N, V)]) -> Self {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        text.extend_pairs(fields);
        let kind = "application/x-www-form-urlencoded";
        self.method("POST").body(kind, text.finish().as_bytes())
    }

    pub(crate) fn body(mut self, kind: &str, bytes: &[u8]) -> Self {
        self.body = bytes.to_vec();
        self.field("content-type", kind)
    }

    fn site(&self) -> &'static str {
        match &self.from {
            None => "none",
            Some(from) if from.origin() == self.url.origin() => "same-origin",
            Some(from) if same_site(from, &self.url) => "same-site",
            Some(_) => "cross-site",
        }
    }

    pub(super) fn context(&self) -> Context {
        match (self.site(), self.purpose, &self.method) {
            ("cross-site", Purpose::Navigation, &Method::GET) => Context::CrossSiteNavigation,
            ("cross-site", _, _) => Context::CrossSite,
            _ => Context::SameSite,
        }
    }

    pub(super) fn own_fields(&self) -> Vec<(&'static str, String)> {
        let (mode, dest, accept) = match self.purpose {
            Purpose::Navigation => (
                "navigate",
                "document",
                "text/html,application/xhtml+xml,*/*;q=0.8",
            ),
            Purpose::Fetch => ("cors", "empty", "*/*"),
            Purpose::Image => ("no-cors", "image", "image/avif,image/webp,*/*;q=0.8"),
        };
        let mut fields = vec![
            (
                "user-agent",
                "Mozilla/5.0 (X11; Linux x86_64) Kit/1.0".to_owned(),
            ),
            ("accept", accept.to_owned()),
            ("accept-language", "en-GB,en;q=0.9".to_owned()),
        ];
        // Browsers send fetch metadata only to trustworthy origins. Loopback hosts are trustworthy.
        fields.push(("sec-fetch-site", self.site().to_owned()));
        fields.push(("sec-fetch-mode", mode.to_owned()));
        fields.push(("sec-fetch-dest", dest.to_owned()));
        if self.purpose == Purpose::Navigation {
            fields.push(("sec-fetch-user", "?1".to_owned()));
            fields.push(("upgrade-insecure-requests", "1".to_owned()));
        }
        let sends_origin = !matches!(self.method, Method::GET | Method::HEAD);
        if let (true, Some(from)) = (sends_origin, &self.from) {
            fields.push(("origin", from.origin().ascii_serialization()));
        }
        fields
    }
}

/// Whether the scheme and the registrable domain are equal. Without a list of public suffixes, the
/// registrable domain is the last two labels, or the whole address.
fn same_site(one: &Url, other: &Url) -> bool {
    let site = |url: &Url| match url.host() {
        Some(url::Host::Domain(name)) => {
            let labels: Vec<&str> = name.rsplit('.').take(2).collect();
            labels.join(".")
        }
        host => format!("{host:?}"),
    };
    one.scheme() == other.scheme() && site(one) == site(other)
}
