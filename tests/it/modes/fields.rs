//! Attacks on the fields and on the head of a request or of an answer, in each mode.

use serde_json::json;

use super::{MODES, Mode, NAVIGATION, Running, latin1, ran};
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, SESSION};
use crate::support::upstream::{Answer, Recorded};

impl Running {
    /// Sends a GET request for `/x` that has to reach the app. Returns the request of the app.
    async fn forwarded(&self, lines: &str) -> Recorded {
        let (status, arrived) = self.status(b"/x", lines.as_bytes()).await;
        assert_eq!(status, 200, "{} {lines}", self.mode.name);
        arrived.unwrap()
    }
}

#[tokio::test]
async fn h_10_h_11_h_13_h_14_h_39_no_mode_believes_the_credentials_or_claims_of_a_client() {
    for mode in MODES {
        let running = Running::start(mode).await;
        let cookie = running.cookie_line().await;
        let gets_own = mode.is_public() && !mode.writes_authorization();
        let credentials = [
            "Authorization: Bearer forged\r\n",
            "authorization: basic forged\r\n",
            "Authorization: Negotiate forged\r\n",
            "Authorization: Bearer forged\r\nAuthorization: Bearer forged2\r\n",
        ];
        for lines in credentials {
            let arrived = running.forwarded(&format!("{lines}{cookie}")).await;
            let forged = latin1(&arrived.head.bytes).contains("forged");
            assert_eq!(forged, gets_own, "{} {lines}", mode.name);
            if !gets_own {
                running.assert_sees(&arrived, lines);
            }
        }
        // Credentials of a client never count as a session.
        let others = [
            ("/x?access_token=forged", ""),
            ("/x?token=forged", "Authorization: Basic Zm9yZ2Vk\r\n"),
            ("/x", "User-Agent: kube-probe/1.30\r\n"),
            ("/x", "User-Agent: GoogleHC/1.0\r\n"),
        ];
        let all = credentials.map(|lines| ("/x", lines));
        for (target, lines) in all.into_iter().chain(others) {
            let answer = running.status(target.as_bytes(), lines.as_bytes()).await;
            if gets_own && lines.starts_with("Authorization: B") {
                let (_, value) = lines.split_once(": ").unwrap();
                let first = value.split("\r\n").next().unwrap();
                let values = answer.1.as_ref().unwrap().head.values("authorization");
                assert_eq!(values[0], first, "{}", mode.name);
            }
            running.assert_nobody(answer, lines);
        }
        // A field of a claim that the user does not have stays away.
        let absent = json!({
            "email": null, "preferred_username": null, "org": null, "groups": null,
        });
        running.provider.user_members(absent);
        running.provider.tamper_claims(|claims| {
            let claims = claims.as_object_mut().unwrap();
            claims.retain(|name, _| !matches!(&**name, "email" | "groups"));
        });
        let cookie = running.cookie_line().await;
        let lines = "X-Forwarded-Email: forged\r\nX-Unit: forged\r\nX-Forwarded-Groups: forged\r\n";
        let arrived = running.forwarded(&format!("{cookie}{lines}")).await;
        let mut fields = vec!["x-forwarded-email", "x-forwarded-groups"];
        if mode.writes("X-Unit") {
            fields.push("x-unit");
        }
        if mode.name.ends_with("basic") {
            fields.push("authorization");
        }
        for name in fields {
            assert_eq!(arrived.head.values(name), [""; 0], "{} {name}", mode.name);
        }
        ran(&mode, 13);
    }
}

/// Fields in which proxies state the client, the public URL or the original request.
const OF_PROXIES: &str = "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\n\
    X-Forwarded-Host: forged\r\nX-Forwarded-Port: 99\r\nX-Forwarded-Prefix: /forged\r\n\
    X-Forwarded-Uri: /forged\r\nX-Forwarded-Server: forged\r\nX-Forwarded-Ssl: forged\r\n\
    X-Forwarded-Client-Cert: forged\r\nFront-End-Https: forged\r\nX-Url-Scheme: forged\r\n\
    X-Real-Ip: 1.2.3.4\r\nForwarded: for=1.2.3.4;host=forged;proto=https\r\n\
    Proxy: forged\r\nProxy-Authorization: Basic forged\r\nX-Original-URL: /forged\r\n\
    X-Rewrite-URL: /forged\r\nX-Original-URI: /forged\r\nX-Envoy-Original-Path: /forged\r\n\
    X-HTTP-Method-Override: DELETE\r\n";

#[tokio::test]
async fn h_15_to_h_20_in_no_mode_do_fields_of_proxies_choose_client_host_path_or_method() {
    for mode in MODES {
        let running = Running::start(mode).await;
        let cookie = running.cookie_line().await;
        let arrived = running.forwarded(&format!("{OF_PROXIES}{cookie}")).await;
        running.assert_sees(&arrived, "fields of proxies");
        let head = &arrived.head;
        let text = latin1(&head.bytes);
        let forged = text.contains("forged") || text.contains("1.2.3.4");
        assert!(!forged, "{}: {text}", mode.name);
        for (name, expected) in [
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", running.host()),
        ] {
            assert_eq!(head.values(name), [expected], "{} {name}", mode.name);
        }
        let start = format!("GET {}/x ", mode.app_prefix);
        assert!(head.start_line().starts_with(&start), "{}", mode.name);
        // Without a session, no field chooses the URL of the login.
        running.assert_nobody(running.status(b"/x", OF_PROXIES.as_bytes()).await, "fields");
        let lines = format!("{OF_PROXIES}{NAVIGATION}");
        let sign_in = running.send("GET", b"/oauth2/sign_in", (lines.as_bytes(), b""));
        let (response, arrived) = sign_in.await;
        let response = response.unwrap();
        assert_eq!(
            (response.status(), arrived.is_none()),
            (303, true),
            "{}",
            mode.name
        );
        assert!(
            !latin1(&response.head.bytes).contains("forged"),
            "{}",
            mode.name
        );
        let location = response.head.value("location").unwrap();
        let expected = if mode.origin == ORIGIN {
            let uri = "redirect_uri=http%3A%2F%2Flocalhost%2Foauth2%2Fcallback";
            assert!(location.contains(uri), "{}: {location}", mode.name);
            format!("{}/authorize?", running.provider.url())
        } else {
            format!("{ORIGIN}/oauth2/ticket_request?")
        };
        assert!(location.starts_with(&expected), "{}: {location}", mode.name);
        ran(&mode, 3);
    }
}

/// Names that a client nominates in `Connection`.
const NOMINATED: [&str; 11] = [
    "close, Authorization",
    "x-forwarded-user",
    "X-FORWARDED-USER",
    "x_forwarded_user",
    "keep-alive,,x-forwarded-user ,",
    "x-forwarded-user\r\nConnection: authorization\r\nConnection: x-forwarded-email",
    "host",
    "cookie",
    "x-forwarded-for",
    "via",
    "content-length, transfer-encoding",
];

#[tokio::test]
async fn h_12_h_24_h_25_h_30_to_h_38_every_mode_forwards_fields_and_trailers_as_written() {
    for mode in MODES {
        let running = Running::start(mode).await;
        let cookie = running.cookie_line().await;
        let with_other = cookie.replace("\r\n", "; other=1\r\n");
        for nominated in NOMINATED {
            let lines = format!("{with_other}Connection: {nominated}\r\n");
            let arrived = running.forwarded(&lines).await;
            running.assert_sees(&arrived, nominated);
            let head = &arrived.head;
            for (name, expected) in [
                ("host", running.host()),
                ("x-forwarded-for", "127.0.0.1"),
                ("cookie", "other=1"),
            ] {
                assert_eq!(head.values(name), [expected], "{} {nominated}", mode.name);
            }
            assert!(head.value("via").is_some(), "{} {nominated}", mode.name);
        }
        let long = "v".repeat(8000);
        let lines = format!(
            "{cookie}X-Long: {long}\r\nX-Latin: \u{e4}\r\nA: 1\r\nB: 2\r\nx-User-Agent: z\r\n\
             Via: 1.0 other\r\nKeep-Alive: timeout=5\r\nTE: trailers, deflate\r\nTrailer: X\r\n\
             Connection: upgrade, X-Mine\r\nUpgrade: h2c\r\nX-Mine: y\r\n"
        );
        let head = running.forwarded(&lines).await.head;
        for (name, expected) in [
            ("x-long", &*long),
            ("x-latin", "\u{c3}\u{a4}"),
            ("a", "1"),
            ("b", "2"),
            ("x-user-agent", "z"),
            ("te", "trailers"),
            ("connection", "te"),
        ] {
            assert_eq!(head.values(name), [expected], "{} {name}", mode.name);
        }
        for name in ["keep-alive", "trailer", "upgrade", "x-mine"] {
            assert_eq!(head.values(name), [""; 0], "{} {name}", mode.name);
        }
        let via = head.values("via").join(", ");
        let own = via.rsplit(' ').next().unwrap();
        let looping = format!("{cookie}{}", format!("Via: 1.1 {own}\r\n").repeat(20));
        let (status, _) = running.status(b"/x", looping.as_bytes()).await;
        assert_eq!(status, 508, "{}", mode.name);
        let many = format!("{cookie}{}", "A: b\r\n".repeat(150));
        let (status, _) = running.status(b"/x", many.as_bytes()).await;
        assert_eq!(status, 431, "{}", mode.name);
        running.drops_trailers(&cookie).await;
        ran(&mode, NOMINATED.len() + 5);
    }
}

impl Running {
    /// Fails unless the gateway drops trailers, and answers OPTIONS without remaining hops itself.
    async fn drops_trailers(&self, cookie: &str) {
        let mode = self.mode.name;
        let lines = format!("{cookie}Transfer-Encoding: chunked\r\nTrailer: X-Forwarded-User\r\n");
        let body = "3\r\nabc\r\n0\r\nX-Forwarded-User: forged\r\nAuthorization: Bearer forged\r\n\
                    Host: forged\r\nX-Other: forged\r\n\r\n";
        let sent = (lines.as_bytes(), body.as_bytes());
        let path = self.mode.public_target(b"/x");
        let (response, arrived) = self.send("POST", &path, sent).await;
        let arrived = arrived.unwrap();
        assert_eq!(response.unwrap().status(), 200, "{mode}");
        let received = (&*arrived.body, &*arrived.trailers);
        assert_eq!(received, (&b"abc"[..], &[][..]), "{mode}");
        self.assert_sees(&arrived, "trailers");
        assert!(!latin1(&arrived.head.bytes).contains("forged"), "{mode}");
        let lines = format!("{cookie}Max-Forwards: 0\r\n");
        let options = self.send("OPTIONS", &path, (lines.as_bytes(), b""));
        let (response, arrived) = options.await;
        let answer = (response.unwrap().status(), arrived.is_none());
        assert_eq!(answer, (204, true), "{mode}");
    }
}

#[tokio::test]
async fn h_06_h_21_h_22_p_40_p_43_every_mode_refuses_other_hosts_and_malformed_heads() {
    for mode in MODES {
        let running = Running::start(mode).await;
        let cookie = running.cookie_line().await;
        let before = running.app.count();
        let hosts = [
            ("evil.test", 421),
            ("127.0.0.1", 421),
            ("localhost:81", 421),
            ("localhost.evil.test", 421),
            ("evil.localhost", 421),
            ("other.app.localhost", 421),
            ("localhost@evil.test", 400),
            ("", 400),
        ];
        for (host, expected) in hosts {
            let request = format!("GET /x HTTP/1.1\r\nHost: {host}\r\n{cookie}{NAVIGATION}\r\n");
            let outcome = exchange(running.gateway.address(), request.as_bytes(), 1).await;
            let head = &outcome.responses[0].head;
            assert_eq!(head.status(), expected, "{} {host}", mode.name);
            for name in ["location", "set-cookie"] {
                assert_eq!(head.values(name), [""; 0], "{} {host}", mode.name);
            }
        }
        for (method, length, expected) in [("get", 2, 400), ("Post", 2, 400), ("GET", 8193, 414)] {
            let target = format!("/{}", "a".repeat(length - 1));
            let target = mode.public_target(target.as_bytes());
            let sent = (cookie.as_bytes(), &b""[..]);
            let (response, arrived) = running.send(method, &target, sent).await;
            let status = response.unwrap().status();
            let answer = (status, arrived.is_none());
            assert_eq!(answer, (expected, true), "{} {method}", mode.name);
        }
        // A space before the colon hides the name of a field from some parsers.
        let lines = format!("{cookie}X-Forwarded-User : forged\r\n");
        let (status, _) = running.status(b"/x", lines.as_bytes()).await;
        assert_eq!(status, 400, "{}", mode.name);
        assert_eq!(running.app.count(), before, "{}", mode.name);
        ran(&mode, hosts.len() + 4);
    }
}

#[tokio::test]
async fn h_27_h_29_c_22_every_mode_removes_the_fields_of_an_answer_that_act_for_the_gateway() {
    for mode in MODES {
        let running = Running::start(mode).await;
        let cookie = running.cookie_line().await;
        let planted = format!("{SESSION}=forged; Path=/; Secure");
        running.app.next(Answer::with(
            200,
            &[
                ("Set-Cookie", &planted),
                (
                    "Set-Cookie",
                    "__Host-sidegate-0123456789abcdef=forged; Path=/; Secure",
                ),
                ("Set-Cookie", "app=1"),
                ("Strict-Transport-Security", "max-age=0"),
                ("Clear-Site-Data", "\"cookies\""),
                ("Alt-Svc", "h3=\":443\""),
                ("Public-Key-Pins", "forged"),
                ("X-Accel-Redirect", "/forged"),
                ("Connection", "close, X-Frame-Options"),
                ("Keep-Alive", "timeout=5"),
                ("X-Frame-Options", "DENY"),
                ("X-App", "y"),
            ],
            "body",
        ));
        let path = mode.public_target(b"/x");
        let sent = (cookie.as_bytes(), &b""[..]);
        let (response, _) = running.send("GET", &path, sent).await;
        let response = response.unwrap();
        let answer = (response.status(), response.text());
        assert_eq!(answer, (200, "body".to_owned()), "{}", mode.name);
        assert_eq!(
            response.head.values("set-cookie"),
            ["app=1"],
            "{}",
            mode.name
        );
        for (name, value) in [("x-app", "y"), ("x-frame-options", "DENY")] {
            assert_eq!(response.head.values(name), [value], "{}", mode.name);
        }
        for name in [
            "strict-transport-security",
            "clear-site-data",
            "alt-svc",
            "public-key-pins",
            "x-accel-redirect",
            "keep-alive",
        ] {
            assert_eq!(response.head.values(name), [""; 0], "{} {name}", mode.name);
        }
        let challenge = [("WWW-Authenticate", "Basic realm=\"app\"")];
        running.app.next(Answer::with(401, &challenge, "no"));
        let (response, arrived) = running.send("GET", &path, sent).await;
        let answer = (response.unwrap().status(), arrived.is_some());
        assert_eq!(answer, (401, true), "{}", mode.name);
        ran(&mode, 2);
    }
}

#[test]
fn each_mode_has_its_own_name_and_settings() {
    let text = |mode: &Mode| [mode.app, mode.route, mode.tables].concat();
    for (index, mode) in MODES.iter().enumerate() {
        for other in &MODES[index + 1..] {
            assert_ne!(mode.name, other.name);
            assert_ne!(text(mode), text(other), "{} and {}", mode.name, other.name);
        }
    }
}
