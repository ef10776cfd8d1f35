//! A browser without a screen. The cookie jar, the `Sec-Fetch-*` fields and the forms of this
//! browser are like those of a real browser. The browser uses a new connection for each request.
//! Every host name leads to 127.0.0.1 and to the port of the URL, unless [`Browser::leading`]
//! changes this.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::time::timeout;
use url::Url;

use super::browser_request::BrowserRequest;
use super::certificates::Authority;
use super::form::{Form, forms};
use super::jar::{Cookie, Jar};
use super::wire::{Stream, TEST_TIMEOUT};

/// A browser. Clones are tabs with the same cookie jar.
#[derive(Clone)]
pub(crate) struct Browser {
    jar: Arc<watch::Sender<Jar>>,
    tls: Option<Arc<rustls::ClientConfig>>,
    /// The addresses of hosts and ports.
    host_addresses: Vec<(String, SocketAddr)>,
    /// The address from which the browser connects.
    source: Ipv4Addr,
}

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) url: Url,
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    pub(crate) body: Bytes,
    visit: BrowserRequest,
}

/// Host and port.
fn place(url: &Url) -> String {
    format!(
        "{}:{:?}",
        url.host_str().unwrap(),
        url.port_or_known_default()
    )
}

impl Page {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {}", self.describe()))
    }

    /// The single value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let values: Vec<_> = self.fields.get_all(name).iter().collect();
        assert!(values.len() < 2, "{name} came {} times", values.len());
        values.first().map(|value| value.to_str().unwrap())
    }

    /// The `Set-Cookie` values.
    pub(crate) fn set_cookies(&self) -> Vec<String> {
        let values = self.fields.get_all("set-cookie").iter();
        values
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    /// The redirect target, resolved as browsers do.
    pub(crate) fn location(&self) -> Option<Url> {
        self.field("location")
            .map(|location| self.url.join(location).unwrap())
    }

    /// The URL that the page opens by itself.
    pub(crate) fn refresh_target(&self) -> String {
        let html = self.text();
        let (_, rest) = html.split_once("content=\"0;url=").expect("no refresh");
        let (target, _) = rest.split_once('"').unwrap();
        target.replace("&amp;", "&")
    }

    /// The first form with a password field, or the first form if no form has a password field.
    pub(crate) fn login_form(&self) -> Form {
        let forms = forms(&self.text());
        let login = forms.iter().find(|form| form.password_field().is_some());
        let form = login.or_else(|| forms.first()).cloned();
        form.unwrap_or_else(|| panic!("no form in {}", self.describe()))
    }

    /// Status, URL and body, for the message of a failure.
    pub(crate) fn describe(&self) -> String {
        let location = self.fields.get("location");
        format!(
            "{} {} -> {location:?}\n{}",
            self.status,
            self.url,
            self.text()
        )
    }
}

impl Browser {
    pub(crate) fn new() -> Self {
        Self {
            jar: Arc::new(watch::Sender::new(Jar::default())),
            tls: None,
            host_addresses: Vec::new(),
            source: Ipv4Addr::UNSPECIFIED,
        }
    }

    /// Trusts only `authority`.
    pub(crate) fn trusting(authority: &Authority) -> Self {
        Self {
            tls: Some(authority.client(&["http/1.1"])),
            ..Self::new()
        }
    }

    /// Connects to `address` for `origin`, so that a gateway on any port can have a public URL
    /// without a port.
    pub(crate) fn leading(mut self, origin: &str, address: SocketAddr) -> Self {
        self.host_addresses
            .push((place(&Url::parse(origin).unwrap()), address));
        self
    }

    /// Connects from `source`, an address of the loopback network.
    pub(crate) fn at_address(mut self, source: Ipv4Addr) -> Self {
        self.source = source;
        self
    }

    /// Opens `url` like a user. Redirects are not followed.
    pub(crate) async fn open(&self, url: &str) -> Page {
        self.send(BrowserRequest::navigation(url)).await
    }

    /// Opens `url` and follows all redirects.
    pub(crate) async fn visit(&self, url: &str) -> Page {
        let page = self.open(url).await;
        self.follow_all(page).await
    }

    /// Runs `fetch(url)` like a script of the same origin. Redirects are not followed.
    pub(crate) async fn fetch(&self, url: &str) -> Page {
        self.send(BrowserRequest::fetch(url)).await
    }

    /// Submits a form of `page`. Redirects are not followed.
    pub(crate) async fn submit(&self, page: &Page, form: &Form, filled: &[(&str, &str)]) -> Page {
        let mut url = page.url.join(&form.action).unwrap();
        let fields = form.filled(filled);
        let visit = if form.method == "POST" {
            BrowserRequest::navigation(url.as_str()).form(&fields)
        } else {
            url.query_pairs_mut().clear().extend_pairs(fields);
            BrowserRequest::navigation(url.as_str())
        };
        self.send(visit.from(page.url.as_str())).await
    }

    /// Follows one redirect.
    ///
    /// # Panics
    ///
    /// Panics if the answer is not a redirect, or makes a browser repeat a POST (307, 308). A
    /// repeated POST would send a password to the next server.
    pub(crate) async fn follow(&self, page: &Page) -> Page {
        let status = page.status.as_u16();
        assert!(
            matches!(status, 301 | 302 | 303 | 307 | 308),
            "no redirect: {}",
            page.describe()
        );
        let repeats = matches!(status, 307 | 308) && page.visit.method != Method::GET;
        assert!(
            !repeats,
            "a redirect that repeats the request: {}",
            page.describe()
        );
        let url = page
            .location()
            .unwrap_or_else(|| panic!("no Location in {}", page.describe()));
        self.send(page.visit.redirected(url.as_str())).await
    }

    /// Follows all redirects.
    pub(crate) async fn follow_all(&self, mut page: Page) -> Page {
        for _ in 0..20 {
            if !page.status.is_redirection() || !page.fields.contains_key("location") {
                return page;
            }
            page = self.follow(&page).await;
        }
        panic!("endless redirects: {}", page.describe())
    }

    /// Opens `url`, fills in the login form to which `url` leads, and returns to the requested
    /// page.
    pub(crate) async fn sign_in(&self, url: &str, user: &str, password: &str) -> Page {
        let callback = self.sign_in_until_callback(url, user, password).await;
        let page = self.follow(&callback).await;
        self.follow_all(page).await
    }

    /// Like [`Browser::sign_in`], but stops at the provider's redirect with the code.
    pub(crate) async fn sign_in_until_callback(
        &self,
        url: &str,
        user: &str,
        password: &str,
    ) -> Page {
        let start = self.open(url).await;
        let own = start.url.origin();
        let mut page = start;
        for _ in 0..20 {
            let leads_back = page.location().is_some_and(|to| to.origin() == own);
            if leads_back && page.url.origin() != own {
                return page;
            }
            page = if page.status.is_redirection() {
                self.follow(&page).await
            } else {
                let form = page.login_form();
                let fields = form.user_field().zip(form.password_field());
                let (user_field, password_field) =
                    fields.unwrap_or_else(|| panic!("no login form in {}", page.describe()));
                let filled = [(user_field, user), (password_field, password)];
                self.submit(&page, &form, &filled).await
            };
        }
        panic!("the login did not end: {}", page.describe())
    }

    /// Sends one request and stores the cookies of the answer.
    pub(crate) async fn send(&self, visit: BrowserRequest) -> Page {
        let cookies = self.jar.borrow().header(&visit.url, visit.context());
        let mut request = Request::new(Full::new(Bytes::from(visit.body.clone())));
        *request.method_mut() = visit.method.clone();
        let query = visit
            .url
            .query()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        *request.uri_mut() = format!("{}{query}", visit.url.path()).parse().unwrap();
        let fields = request.headers_mut();
        let host = visit.url.host_str().unwrap();
        let port = visit
            .url
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        fields.insert("host", format!("{host}{port}").parse().unwrap());
        for (name, value) in visit.own_fields() {
            fields.insert(name, value.parse().unwrap());
        }
        if let Some(cookies) = cookies {
            fields.insert("cookie", cookies.parse().unwrap());
        }
        for (name, value) in &visit.fields {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            fields.insert(
                name,
                http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let page = timeout(TEST_TIMEOUT, self.exchange(request, visit)).await;
        let page = page.expect("no answer in time");
        for text in page.set_cookies() {
            self.jar.send_modify(|jar| {
                let kept = jar.take(&page.url, &text);
                assert!(kept, "no browser keeps the cookie {text:?} of {}", page.url);
            });
        }
        page
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, visit: BrowserRequest) -> Page {
        let stream = self.connect(&visit.url).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await;
        let response = response.unwrap_or_else(|error| panic!("{error:?} from {}", visit.url));
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        connection.abort();
        let (status, fields) = (parts.status, parts.headers);
        Page {
            url: visit.url.clone(),
            status,
            fields,
            body,
            visit,
        }
    }

    async fn connect(&self, url: &Url) -> Box<dyn Stream> {
        let known = self
            .host_addresses
            .iter()
            .find(|(known, _)| *known == place(url));
        let port = url.port_or_known_default().unwrap();
        let loopback = SocketAddr::from(([127, 0, 0, 1], port));
        let socket = TcpSocket::new_v4().unwrap();
        if !self.source.is_unspecified() {
            socket.bind(SocketAddr::from((self.source, 0))).unwrap();
        }
        let stream = socket
            .connect(known.map_or(loopback, |(_, address)| *address))
            .await;
        let stream = stream.unwrap_or_else(|error| panic!("{error} for {url}"));
        if url.scheme() != "https" {
            return Box::new(stream);
        }
        let config = self.tls.clone().expect("https needs `Browser::trusting`");
        let host = url.host_str().unwrap().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).unwrap();
        Box::new(
            tokio_rustls::TlsConnector::from(config)
                .connect(name, stream)
                .await
                .unwrap(),
        )
    }

    /// The cookies that a request to `url` can contain.
    pub(crate) fn cookies(&self, url: &str) -> Vec<Cookie> {
        self.jar.borrow().visible(&Url::parse(url).unwrap())
    }

    /// The value of a cookie.
    pub(crate) fn cookie(&self, url: &str, name: &str) -> Option<String> {
        let found = self
            .cookies(url)
            .into_iter()
            .find(|cookie| cookie.name == name);
        found.map(|cookie| cookie.value)
    }

    /// Puts a cookie into the jar as if `url` had set it.
    pub(crate) fn plant(&self, url: &str, set_cookie: &str) {
        let url = Url::parse(url).unwrap();
        self.jar
            .send_modify(|jar| assert!(jar.take(&url, set_cookie), "{set_cookie}"));
    }

    /// Removes every cookie with this name.
    pub(crate) fn forget(&self, name: &str) {
        self.jar.send_modify(|jar| jar.forget(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::upstream::{Answer, Recorded, RecordingUpstream};

    #[tokio::test]
    async fn cookies_and_metadata_go_along_as_in_a_browser() {
        let server = RecordingUpstream::start().await;
        let port = server.address().port();
        let origin = format!("http://localhost:{port}");
        let cookies = "a=1; Path=/; SameSite=Lax\r\nSet-Cookie: b=2; Path=/; SameSite=Strict";
        server.next(Answer::with(200, &[("Set-Cookie", cookies)], "hello"));
        let browser = Browser::new();
        let page = browser.open(&format!("{origin}/x?y")).await;
        assert_eq!(
            (page.text().as_str(), page.set_cookies().len()),
            ("hello", 2)
        );
        let field = |name: &str| server.last().head.value(name).unwrap_or_default();
        assert_eq!(server.last().target(), "/x?y");
        assert_eq!(
            (field("sec-fetch-site"), field("sec-fetch-mode")),
            ("none".into(), "navigate".into())
        );
        assert_eq!(field("host"), format!("localhost:{port}"));
        let tab = browser.clone();
        tab.fetch(&format!("{origin}/api")).await;
        assert_eq!(
            (field("sec-fetch-site"), field("sec-fetch-dest")),
            ("same-origin".into(), "empty".into())
        );
        assert_eq!(field("cookie"), "a=1; b=2");
        let evil = BrowserRequest::navigation(&origin).from("http://127.0.0.1/");
        browser.send(evil.clone()).await;
        assert_eq!(
            (field("sec-fetch-site"), field("cookie")),
            ("cross-site".into(), "a=1".into())
        );
        browser.send(evil.form(&[("q", "ä b")])).await;
        assert_eq!(
            (field("origin"), field("cookie")),
            ("http://127.0.0.1".into(), String::new())
        );
        assert_eq!(server.last().body, b"q=%C3%A4+b");
        browser.forget("a");
        assert_eq!(browser.cookie(&origin, "a"), None);
        browser.plant(&origin, "c=3");
        assert_eq!(browser.cookie(&origin, "c").unwrap(), "3");
    }

    #[tokio::test]
    async fn a_login_form_is_walked_and_leads_back() {
        let app = RecordingUpstream::start().await;
        let provider = RecordingUpstream::start().await;
        let here = format!("http://localhost:{}", app.address().port());
        let there = provider.url();
        app.next(Answer::with(
            303,
            &[("Location", &format!("{there}/authorize"))],
            "",
        ));
        let form = "<form method=post><input type=hidden name=t value=1><input name=user>\
                    <input type=password name=pw></form>";
        provider.next(Answer::ok(form));
        provider.next(Answer::with(
            302,
            &[("Location", &format!("{here}/callback?code=c"))],
            "",
        ));
        app.next(Answer::with(
            303,
            &[("Location", "/page"), ("Set-Cookie", "s=1; Path=/")],
            "",
        ));
        app.next(Answer::ok("welcome"));
        let page = Browser::new()
            .sign_in(&format!("{here}/page"), "alice", "pass word")
            .await;
        assert_eq!(page.text(), "welcome");
        assert_eq!(provider.last().body, b"t=1&user=alice&pw=pass+word");
        let targets: Vec<_> = app.requests().iter().map(Recorded::target).collect();
        assert_eq!(targets, ["/page", "/callback?code=c", "/page"]);
        let last = app.last();
        assert_eq!(last.head.value("cookie").as_deref(), Some("s=1"));
        assert_eq!(
            last.head.value("sec-fetch-site").as_deref(),
            Some("cross-site")
        );
    }
}
