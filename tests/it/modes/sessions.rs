//! Attacks on sessions and their cookies, in each mode.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{MODES, NAVIGATION, Running, WILD, ran};
use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::jar::SameSite;
use crate::support::scene::SESSION;
use crate::support::upstream::Recorded;

impl Running {
    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.mode.origin)
    }

    /// A browser that is signed in, and its session id.
    async fn signed_in(&self) -> (Browser, String) {
        let browser = self.browser();
        let page = browser.visit(&self.url("/oauth2/sign_in")).await;
        let id = browser.cookie(self.mode.origin, SESSION);
        let id = id.unwrap_or_else(|| panic!("{}: {}", self.mode.name, page.describe()));
        (browser, id)
    }

    /// Sends a request with this session id.
    async fn with_id(&self, id: &str) -> (u16, Option<Recorded>) {
        let lines = format!("Cookie: {SESSION}={id}\r\n");
        self.status(b"/x", lines.as_bytes()).await
    }

    #[track_caller]
    fn assert_signed_in(&self, (status, arrived): (u16, Option<Recorded>), context: &str) {
        assert_eq!(status, 200, "{} {context}", self.mode.name);
        self.assert_sees(&arrived.unwrap(), context);
    }
}

/// The ids that an attacker makes from the session id `value`. `other` is another session id.
fn changed(value: &str, other: &str) -> Vec<String> {
    let mut ids = vec![
        format!("{value}A"),
        format!("{value}="),
        value.to_uppercase(),
        format!("{}{}", &value[..20], &other[20..]),
        "n:99999999".to_owned(),
        "x".repeat(8000),
    ];
    ids.extend((0..value.len()).step_by(9).map(|at| value[..at].to_owned()));
    ids.extend((0..value.len()).step_by(9).map(|at| {
        let mut bytes = value.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'Q' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    }));
    ids
}

#[tokio::test]
async fn c_01_c_05_c_06_c_09_c_11_c_14_in_every_mode_only_an_own_session_id_counts() {
    for mode in MODES {
        let running = Running::start(mode).await;
        let (browser, id) = running.signed_in().await;
        let session = browser.cookies(mode.origin).into_iter();
        let session = session.into_iter().find(|cookie| cookie.name == SESSION);
        let session = session.unwrap();
        let attributes = (session.secure, session.http_only, session.same_site);
        assert_eq!(attributes, (true, true, SameSite::Lax), "{}", mode.name);
        assert_eq!(session.path, "/", "{}", mode.name);
        assert!(session.value.len() >= 43, "{}", mode.name);
        let mut ids = BTreeSet::from([id.clone()]);
        for _ in 0..5 {
            assert!(ids.insert(running.session().await), "{}", mode.name);
        }
        let other = ids.iter().find(|other| **other != id).unwrap();
        let changed = changed(&id, other);
        for changed in &changed {
            running.assert_nobody(running.with_id(changed).await, changed);
        }
        for cookies in [";".repeat(10_000), "a=b; ".repeat(3000)] {
            let lines = format!("Cookie: {cookies}\r\n");
            let answer = running.status(b"/x", lines.as_bytes()).await;
            running.assert_nobody(answer, "many cookies");
        }
        let (status, arrived) = running.with_id(&"x".repeat(65_536)).await;
        assert_eq!((status, arrived.is_none()), (431, true), "{}", mode.name);
        running.assert_signed_in(running.with_id(&id).await, "the own id");
        // A login never continues a session id that was there before.
        let planted = "A".repeat(id.len());
        let lines = format!("{SESSION}={planted}; Path=/; Secure");
        let victim = running.browser();
        victim.plant(mode.origin, &lines);
        victim.visit(&running.url("/oauth2/sign_in")).await;
        let own = victim.cookie(mode.origin, SESSION).unwrap();
        assert_ne!(own, planted, "{}", mode.name);
        running.assert_nobody(running.with_id(&planted).await, "planted");
        running.assert_signed_in(running.with_id(&own).await, "after a planted id");
        // A browser that has lost its cookie signs in again.
        browser.forget(SESSION);
        browser.visit(&running.url("/oauth2/sign_in")).await;
        assert!(
            browser.cookie(mode.origin, SESSION).is_some(),
            "{}",
            mode.name
        );
        ran(&mode, changed.len() + 6);
    }
}

#[tokio::test]
async fn c_15_c_20_c_21_every_mode_ends_a_session_at_its_deadline_and_by_an_own_sign_out() {
    for mode in MODES {
        let running = Running::start(mode).await;
        let (browser, id) = running.signed_in().await;
        let address = running.url("/oauth2/sign_out");
        let form: [(&str, &str); 0] = [];
        let foreign = [
            BrowserRequest::navigation(&address)
                .form(&form)
                .from("https://evil.test"),
            BrowserRequest::navigation(&address).from("https://evil.test"),
            BrowserRequest::image(&address).from("https://evil.test"),
            BrowserRequest::fetch(&address)
                .method("POST")
                .field("origin", "null")
                .from("https://evil.test"),
        ];
        let count = foreign.len();
        for request in foreign {
            let page = browser.send(request).await;
            assert!(
                page.set_cookies().is_empty(),
                "{}: {}",
                mode.name,
                page.describe()
            );
        }
        let bare = format!("Cookie: {SESSION}={id}\r\nContent-Length: 0\r\n");
        let bare = running.send("POST", b"/oauth2/sign_out", (bare.as_bytes(), b""));
        assert_eq!(bare.await.0.unwrap().status(), 403, "{}", mode.name);
        running.assert_signed_in(running.with_id(&id).await, "after foreign sign-outs");
        let own = BrowserRequest::navigation(&address)
            .form(&form)
            .from(mode.origin);
        let page = browser.send(own).await;
        let page = browser.follow_all(page).await;
        assert_eq!(page.status, 200, "{}: {}", mode.name, page.describe());
        assert_eq!(browser.cookie(mode.origin, SESSION), None, "{}", mode.name);
        running.assert_nobody(running.with_id(&id).await, "after the sign-out");
        let id = running.session().await;
        running.assert_signed_in(running.with_id(&id).await, "a new session");
        running.gateway.advance(Duration::from_hours(9));
        running.assert_nobody(running.with_id(&id).await, "after the deadline");
        ran(&mode, count + 5);
    }
}

#[tokio::test]
async fn c_23_c_24_every_mode_guards_requests_of_other_sites_as_its_route_says() {
    let foreign = "Sec-Fetch-Site: cross-site\r\nOrigin: https://evil.test\r\n";
    let listed = "Sec-Fetch-Site: same-site\r\nOrigin: https://www.example.com\r\n";
    for mode in MODES {
        let running = Running::start(mode).await;
        let cookie = running.cookie_line().await;
        let path = mode.public_target(b"/x");
        let own = format!("Origin: {}\r\n", mode.origin);
        let same_origin = "Sec-Fetch-Site: same-origin\r\nOrigin: null\r\n";
        let (allows, lists) = match mode.name {
            "cross_site_allow" => (true, true),
            "cross_site_list" => (false, true),
            _ => (false, false),
        };
        let requests = [
            ("POST", foreign, allows),
            ("DELETE", foreign, allows),
            ("PROPFIND", foreign, allows),
            ("POST", "Origin: null\r\n", allows),
            ("POST", "Sec-Fetch-Site: cross-site\r\n", allows),
            ("POST", listed, lists),
            ("POST", &own, true),
            ("POST", same_origin, true),
            ("POST", "", true),
            ("GET", foreign, true),
        ];
        for (method, lines, is_allowed) in requests {
            let context = format!("{method} {lines}");
            let lines = format!("{cookie}{lines}Content-Length: 0\r\n");
            let (response, arrived) = running.send(method, &path, (lines.as_bytes(), b"")).await;
            let status = response.unwrap().status();
            if is_allowed {
                running.assert_signed_in((status, arrived), &context);
            } else if mode.is_public() {
                running.assert_nobody((status, arrived), &context);
            } else {
                let answer = (status, arrived.is_none());
                assert_eq!(answer, (403, true), "{} {context}", mode.name);
            }
        }
        // A preflight has no cookies.
        let lines = format!("{foreign}Access-Control-Request-Method: POST\r\n");
        let preflight = running.send("OPTIONS", &path, (lines.as_bytes(), b""));
        let (response, arrived) = preflight.await;
        let head = response.unwrap().head;
        running.assert_nobody((head.status(), arrived), "preflight");
        for name in [
            "access-control-allow-origin",
            "access-control-allow-credentials",
        ] {
            assert_eq!(head.values(name), [""; 0], "{} {name}", mode.name);
        }
        ran(&mode, requests.len() + 1);
    }
}

/// The names of the cookies of `browser` that begin with `start`.
fn names(browser: &Browser, url: &str, start: &str) -> usize {
    let cookies = browser.cookies(url).into_iter();
    cookies
        .filter(|cookie| cookie.name.starts_with(start))
        .count()
}

#[tokio::test]
async fn c_12_no_mode_fills_a_browser_with_cookies() {
    for mode in MODES {
        let running = Running::start(mode).await;
        let browser = running.browser();
        for number in 0..70 {
            // The oldest page is the page whose login has begun first.
            running.gateway.advance(Duration::from_secs(1));
            let page = running.url(&format!(
                "{}/page?x={}{number}",
                mode.prefix,
                "a".repeat(2000)
            ));
            // A public route begins no login by itself.
            let request = if mode.is_public() {
                let sign_in = running.url("/oauth2/sign_in");
                BrowserRequest::navigation(&sign_in).field("referer", &page)
            } else {
                BrowserRequest::navigation(&page)
            };
            let page = browser.send(request).await;
            assert!(
                matches!(page.status.as_u16(), 303 | 401),
                "{}",
                page.describe()
            );
        }
        let origin = mode.origin;
        let pages = names(&browser, origin, "__Host-sidegate-page-");
        let tabs = names(&browser, origin, "__Host-sidegate-") - pages;
        // With a wildcard, each host has a part of the places.
        let expected = if mode.origin == WILD {
            (2, 10)
        } else {
            (20, 60)
        };
        assert_eq!((pages, tabs), expected, "{}", mode.name);
        let lines = format!("{NAVIGATION}{}", running.cookie_line().await);
        let answer = running.status(b"/x", lines.as_bytes()).await;
        running.assert_signed_in(answer, "afterwards");
        ran(&mode, 70);
    }
}
