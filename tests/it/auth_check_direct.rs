//! Auth checks that the test itself sends, as a proxy would send them.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::gateway::{Process, Settings};
use crate::support::provider::StandIn;
use crate::support::raw::{Outcome, Raw, exchange};
use crate::support::scene::{ORIGIN, ROUTES, SESSION, Scene, url};
use crate::support::upstream::RecordingUpstream;

const CHECK: &str = "/_sidegate/auth";

/// A kind of proxy, with the target and the fields of its auth check for `GET /public/x`.
struct Kind {
    name: &'static str,
    target: &'static str,
    fields: &'static [(&'static str, &'static str)],
}

const ORIGINAL: &[(&str, &str)] = &[
    ("x-original-method", "GET"),
    ("x-original-uri", "/public/x"),
];

const FORWARDED: &[(&str, &str)] = &[
    ("x-forwarded-method", "GET"),
    ("x-forwarded-proto", "http"),
    ("x-forwarded-host", "localhost"),
    ("x-forwarded-uri", "/public/x"),
];

const KINDS: [Kind; 6] = [
    Kind {
        name: "nginx",
        target: CHECK,
        fields: ORIGINAL,
    },
    Kind {
        name: "haproxy",
        target: CHECK,
        fields: ORIGINAL,
    },
    Kind {
        name: "ingress_nginx",
        target: CHECK,
        fields: &[
            ("x-original-method", "GET"),
            ("x-original-url", "http://localhost/public/x"),
        ],
    },
    Kind {
        name: "traefik",
        target: CHECK,
        fields: FORWARDED,
    },
    Kind {
        name: "caddy",
        target: CHECK,
        fields: FORWARDED,
    },
    Kind {
        name: "envoy",
        target: "/_sidegate/auth/public/x",
        fields: &[],
    },
];

fn listed(kind: &str) -> String {
    format!("[[auth_check.proxies]]\nnetworks = [\"127.0.0.1\"]\nkind = \"{kind}\"\n")
}

/// An auth check. `more` contains further lines.
fn check(target: &str, fields: &[(&str, &str)], more: &str) -> String {
    let lines = fields.iter();
    let lines: Vec<_> = lines
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let fields = lines.concat();
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}{more}\r\n")
}

const CLOSE: &str = "Connection: close\r\n";

/// The warnings in a log about parts of auth checks.
fn warnings(log: &str) -> Vec<Value> {
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events
        .filter(|event| event["level"] == "WARN" && event["reason"] == "auth_check_field")
        .collect()
}

/// A gateway process whose proxies have one kind.
struct Asked {
    process: Process,
    app: RecordingUpstream,
    _provider: StandIn,
}

impl Asked {
    async fn start(kind: &str) -> Self {
        let (provider, app) = (StandIn::start().await, RecordingUpstream::start().await);
        let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
        let settings = settings.with(&listed(kind)).with(ROUTES);
        Self {
            process: Process::start_with(settings, "level = \"info\"\n").await,
            app,
            _provider: provider,
        }
    }

    async fn send(&self, target: &str, fields: &[(&str, &str)]) -> Outcome {
        let head = check(target, fields, CLOSE);
        exchange(self.process.address(), head.as_bytes(), 1).await
    }

    /// Fails unless the gateway refuses the check with one more warning about the part `key`.
    async fn expect_refused(&self, target: &str, fields: &[(&str, &str)], key: &str) {
        let before = warnings(&self.process.log()).len();
        let answer = self.send(target, fields).await;
        let context = format!("{key}: {target} {fields:?}");
        assert_eq!(answer.statuses(), [403], "{context}");
        self.process
            .wait_for_log(|log| warnings(log).len() > before)
            .await;
        let warnings = warnings(&self.process.log());
        assert_eq!(warnings.len(), before + 1, "{context}");
        let error = warnings[before]["error"].as_str().unwrap();
        assert!(error.contains(&format!("`{key}`")), "{context}: {error}");
    }
}

#[tokio::test]
async fn p_44_the_log_names_each_missing_or_doubled_field_of_an_auth_check() {
    for kind in KINDS {
        let asked = Asked::start(kind.name).await;
        let complete = asked.send(kind.target, kind.fields).await;
        assert_eq!(complete.statuses(), [200], "{}", kind.name);
        for (at, field) in kind.fields.iter().enumerate() {
            let mut without = kind.fields.to_vec();
            without.remove(at);
            asked.expect_refused(kind.target, &without, field.0).await;
            let doubled = [kind.fields, &[*field]].concat();
            asked.expect_refused(kind.target, &doubled, field.0).await;
        }
        // The path of Envoy's auth check contains the original path.
        if kind.fields.is_empty() {
            for target in [CHECK, "/_sidegate/authpublic"] {
                asked.expect_refused(target, &[], "path").await;
            }
        }
        assert_eq!(asked.app.count(), 0, "{}", kind.name);
    }
}

/// GHSA-7x63-xv5r-3p2x: the proxy does not write `X-Forwarded-Uri`, so the field is from the client.
#[tokio::test]
async fn adv_cve_2026_40575_a_forwarded_uri_of_a_client_never_counts() {
    for kind in KINDS {
        if kind.fields == FORWARDED {
            continue;
        }
        let asked = Asked::start(kind.name).await;
        // The proxy does not report the request.
        let key = kind.fields.first().map_or("path", |(name, _)| name);
        asked.expect_refused(CHECK, FORWARDED, key).await;
        // The proxy reports a private path.
        let private = |text: &str| text.replace("/public/x", "/private");
        let target = private(kind.target);
        let reported = kind.fields.iter();
        let reported: Vec<_> = reported
            .map(|(name, value)| (*name, private(value)))
            .collect();
        let mut fields: Vec<_> = reported
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        fields.extend(FORWARDED);
        let answer = asked.send(&target, &fields).await;
        assert_eq!(answer.statuses(), [401], "{}", kind.name);
    }
    // At the path for oauth2-proxy, only the start page counts.
    let refused = "access.any_of.groups = [\"admins\"]\n";
    for (start, other, status) in [(refused, "", 403), ("", refused, 202)] {
        let routes = format!(
            "[auth_check]\noauth2_proxy = [\"127.0.0.1\"]\n[[routes]]\nprefix = \"/\"\n{start}\
             [[routes]]\nprefix = \"/other\"\n{other}[[routes]]\nprefix = \"/sign-in\"\n"
        );
        let scene = Scene::with_routes(&routes, "").await;
        let browser = scene.browser_of("alice");
        browser.visit(&url("/sign-in")).await;
        let cookie = format!("{SESSION}={}", browser.cookie(ORIGIN, SESSION).unwrap());
        let fields = [("Cookie", &*cookie), ("X-Forwarded-Uri", "/other")];
        let head = check("/oauth2/auth", &fields, CLOSE);
        let answer = exchange(scene.gateway.address(), head.as_bytes(), 1).await;
        assert_eq!(answer.statuses(), [status], "{routes}");
    }
}

/// Numbers that look random and are the same in each run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    /// A byte that a field can contain.
    fn byte(&mut self) -> u8 {
        const USUAL: &[u8] = b"ABCxyz019-_.=+/%;, \"'\\:|~\t\x80\xff";
        USUAL[self.below(USUAL.len())]
    }
}

/// Changes a `Cookie` field at one to three places.
fn changed(cookie: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut text = cookie.to_vec();
    for _ in 0..=numbers.below(3) {
        let at = numbers.below(text.len());
        match numbers.below(9) {
            0 => text[at] = numbers.byte(),
            1 => text.insert(at, numbers.byte()),
            2 => drop(text.remove(at)),
            3 => text.truncate(at),
            4 => text[at] ^= 0x20,
            5 => text.push(numbers.byte()),
            6 => {
                let other = numbers.below(text.len());
                text.swap(at, other);
            }
            7 => {
                let coded = format!("%{:02X}", text[at]);
                text.splice(at..=at, coded.bytes());
            }
            _ => {
                let repeated = text[at..].to_vec();
                text.extend(repeated);
            }
        }
        if text.is_empty() {
            text.push(b'x');
        }
    }
    text
}

/// Whether a `Cookie` field can be sent, and does not contain the unchanged cookie `valid`.
fn is_other(text: &[u8], valid: &[u8]) -> bool {
    let can_be_sent = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    let mut pairs = text.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    text.iter().all(can_be_sent) && pairs.all(|pair| pair != valid)
}

async fn status(client: &mut Raw, cookie: &[u8]) -> u16 {
    let private = [("x-original-method", "GET"), ("x-original-uri", "/private")];
    let head = check(CHECK, &private, "Cookie: ");
    let head = head.strip_suffix("\r\n").unwrap();
    client
        .send([head.as_bytes(), cookie, b"\r\n\r\n"].concat())
        .await;
    client.response("GET").await.unwrap().status()
}

#[tokio::test]
async fn adv_cve_2026_25748_ten_thousand_changed_cookies_open_nothing() {
    let scene = Scene::with(|settings| settings.with(&listed("nginx"))).await;
    let valid = scene.cookie("alice").await.into_bytes();
    let mut client = Raw::connect(scene.gateway.address()).await;
    assert_eq!(status(&mut client, &valid).await, 200);
    let (mut numbers, mut sent) = (Numbers(0x5eed_cafe), BTreeSet::new());
    while sent.len() < 10_000 {
        let cookie = changed(&valid, &mut numbers);
        if !is_other(&cookie, &valid) || !sent.insert(cookie.clone()) {
            continue;
        }
        let shown = String::from_utf8_lossy(&cookie);
        assert_eq!(status(&mut client, &cookie).await, 401, "{shown}");
    }
    // The session itself is not changed.
    assert_eq!(status(&mut client, &valid).await, 200);
}

#[tokio::test]
async fn an_auth_check_renews_the_session_without_a_new_cookie() {
    let settings = |kind: &str| {
        let proxies = listed(kind);
        format!(
            "[auth_check]\noauth2_proxy = [\"127.0.0.1\"]\n{proxies}[session]\nrefresh_wait_secs = 10\n"
        )
    };
    for kind in KINDS {
        let scene = Scene::with(|with| with.with(&settings(kind.name))).await;
        scene.provider.token_members(json!({ "expires_in": 60 }));
        let cookie = scene.cookie("alice").await;
        let ask = async |target: &str, fields: &[(&str, &str)]| {
            let more = format!("Cookie: {cookie}\r\n{CLOSE}");
            let head = check(target, fields, &more);
            let answer = exchange(scene.gateway.address(), head.as_bytes(), 1).await;
            let [response] = <[_; 1]>::try_from(answer.responses).unwrap();
            assert!(
                response.head.values("set-cookie").is_empty(),
                "{}",
                kind.name
            );
            (response.status(), response.head.value("authorization"))
        };
        let page = |text: &str| text.replace("/public/x", "/page");
        let fields = kind.fields.iter();
        let fields: Vec<_> = fields.map(|(name, value)| (*name, page(value))).collect();
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        let (status, before) = ask(&page(kind.target), &fields).await;
        assert_eq!((status, before.is_some()), (200, true), "{}", kind.name);
        scene.gateway.advance(Duration::from_secs(61));
        let (status, after) = ask(&page(kind.target), &fields).await;
        assert_eq!((status, after.is_some()), (200, true), "{}", kind.name);
        assert_ne!(before, after, "{}", kind.name);
        assert_eq!(scene.provider.refreshes().len(), 1, "{}", kind.name);
        scene.gateway.advance(Duration::from_secs(61));
        let (status, _) = ask("/oauth2/auth", &[]).await;
        assert_eq!(status, 202, "{}", kind.name);
        assert_eq!(scene.provider.refreshes().len(), 2, "{}", kind.name);
    }
}
