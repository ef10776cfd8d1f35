//! The attacks on fields, paths, return addresses and sessions in every mode. A mode is a set of
//! settings that changes what an app gets, which requests the gateway accepts, or how users sign in.
//! For each mode, a test starts one gateway and sends all its requests to this gateway.
//!
//! `tests/data/modes.txt` lists, for each attack of the sections H, P, R and C, the test of this
//! folder that runs the attack in every mode, or the reason why no mode changes its outcome.

mod fields;
mod ids;
mod rows;
mod sessions;

use serde_json::json;
use sidegate::clock::Clock;

use crate::support::browser::Browser;
use crate::support::gateway::{Gateway, Settings};
use crate::support::openid;
use crate::support::program::record;
use crate::support::provider::StandIn;
use crate::support::raw::{Response, exchange};
use crate::support::scene::{ORIGIN, SESSION};
use crate::support::upstream::{Recorded, RecordingUpstream};

/// A host that gets its sessions from the login host.
const APP: &str = "http://app.localhost";

/// A wildcard in `public_url`, and a host of the wildcard. The host gets its sessions from the login
/// host.
const WILDCARD: &str = "http://*.apps.localhost";
const WILD: &str = "http://one.apps.localhost";

/// The fields of a page load.
const NAVIGATION: &str =
    "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nAccept: text/html\r\n";

/// The value that an app gets in a field.
#[derive(Clone, Copy, Debug)]
enum Sees {
    Nothing,
    Exactly(&'static str),
    /// A value that begins with this text.
    Token(&'static str),
}

/// Settings that change what an app gets, or which requests the gateway accepts.
#[derive(Clone, Copy, Debug)]
struct Mode {
    name: &'static str,
    /// Keys of the app.
    app: &'static str,
    /// Keys of the route.
    route: &'static str,
    /// The prefix of the route, with which each path of a client begins. Empty: `/`.
    prefix: &'static str,
    /// The path in the URL of the app.
    app_path: &'static str,
    /// Other tables.
    tables: &'static str,
    /// The origin to which the requests are sent.
    origin: &'static str,
    /// The text that the app gets before each path.
    app_prefix: &'static str,
    /// The fields that the app gets about the user `alice`.
    sees: &'static [(&'static str, Sees)],
}

const USER: (&str, Sees) = ("X-Forwarded-User", Sees::Exactly("alice"));
const BEARER: (&str, Sees) = ("Authorization", Sees::Token("Bearer alice.canary."));
const NO_AUTHORIZATION: (&str, Sees) = ("Authorization", Sees::Nothing);
const ACCESS_TOKEN: (&str, Sees) = ("X-Access-Token", Sees::Token("alice.canary."));
/// The user name `zoe` and the password `s3cret-canary`.
const BASIC: (&str, Sees) = (
    "Authorization",
    Sees::Exactly("Basic em9lOnMzY3JldC1jYW5hcnk="),
);

const DEFAULT: Mode = Mode {
    name: "default",
    app: "",
    route: "",
    prefix: "",
    app_path: "",
    tables: "",
    origin: ORIGIN,
    app_prefix: "",
    sees: &[USER, BEARER],
};

const MODES: [Mode; 19] = [
    DEFAULT,
    Mode {
        name: "id_token",
        app: "bearer = \"id_token\"",
        sees: &[USER, ("Authorization", Sees::Token("Bearer ey"))],
        ..DEFAULT
    },
    Mode {
        name: "no_token",
        route: "bearer = \"none\"",
        sees: &[USER, NO_AUTHORIZATION],
        ..DEFAULT
    },
    Mode {
        name: "token_field",
        route: "token_field = \"X-Access-Token\"",
        sees: &[USER, NO_AUTHORIZATION, ACCESS_TOKEN],
        ..DEFAULT
    },
    Mode {
        name: "basic",
        route: "basic = { user = { claim = \"preferred_username\" }, password_file = \"PASSWORD\" }",
        sees: &[USER, BASIC],
        ..DEFAULT
    },
    Mode {
        name: "assertion_fields",
        tables: "[upstreams.app.assertions]\nuser = \"X-Remote-User\"\n\
                 fields.\"X-Unit\" = { claim = \"org.unit\", encoding = \"percent\" }\n\
                 fields.\"X-Role\" = { constant = \"viewer\" }\n",
        sees: &[
            BEARER,
            ("X-Remote-User", Sees::Exactly("alice")),
            ("X-Forwarded-User", Sees::Nothing),
            ("X-Unit", Sees::Exactly("K%C3%BCche")),
            ("X-Role", Sees::Exactly("viewer")),
        ],
        ..DEFAULT
    },
    Mode {
        name: "signed_assertion",
        tables: "[assertions]\nsigned.field = \"X-Sidegate-Assertion\"\n\
                 [signing]\nkey_files = [\"KEY\"]\n",
        sees: &[USER, BEARER, ("X-Sidegate-Assertion", Sees::Token("ey"))],
        ..DEFAULT
    },
    Mode {
        name: "app_prefix",
        route: "rewrite.app_prefix = \"/base\"",
        app_prefix: "/base",
        ..DEFAULT
    },
    Mode {
        name: "rewrite",
        route: "rewrite = { app_prefix = \"/base\", locations = true, cookies = true }",
        app_prefix: "/base",
        ..DEFAULT
    },
    Mode {
        name: "allow_in_path",
        route: "allow_in_path = [\"encoded_slash\", \"empty_segment\", \"backslash\", \"non_utf8\"]",
        ..DEFAULT
    },
    Mode {
        name: "login_host",
        tables: "[login]\nhost = \"http://localhost\"\n",
        origin: APP,
        ..DEFAULT
    },
    Mode {
        name: "cross_site_allow",
        route: "cross_site = \"allow\"",
        ..DEFAULT
    },
    Mode {
        name: "cross_site_list",
        route: "cross_site = [\"https://www.example.com\"]",
        ..DEFAULT
    },
    Mode {
        name: "public",
        route: "access = \"public\"",
        sees: &[USER],
        ..DEFAULT
    },
    Mode {
        name: "public_with_token",
        route: "access = \"public\"\nbearer = \"access_token\"",
        ..DEFAULT
    },
    Mode {
        name: "keep_fragment",
        route: "keep_fragment = true",
        ..DEFAULT
    },
    Mode {
        name: "removed_prefix",
        app: "title_case_fields = true",
        route: "rewrite = { app_prefix = \"/\", \
                prefix_fields = [\"X-Forwarded-Prefix\", \"X-Script-Name\"] }",
        prefix: "/wiki/base",
        app_path: "/base",
        // The other paths lead to the same app.
        tables: "[[routes]]\nprefix = \"/\"\n",
        app_prefix: "/base",
        sees: &[
            USER,
            BEARER,
            ("X-Forwarded-Prefix", Sees::Exactly("/wiki")),
            ("X-Script-Name", Sees::Exactly("/wiki")),
        ],
        ..DEFAULT
    },
    Mode {
        name: "app_basic",
        app: "basic = { user = { claim = \"preferred_username\" }, password_file = \"PASSWORD\" }",
        tables: "[upstreams.app.assertions]\n\
                 fields.\"X-Unit\" = { claim = \"org.unit\", encoding = \"rfc2047\" }\n\
                 [login]\nhost = \"http://localhost\"\n",
        origin: WILD,
        sees: &[
            USER,
            BASIC,
            ("X-Unit", Sees::Exactly("=?utf-8?b?S8O8Y2hl?=")),
        ],
        ..DEFAULT
    },
    Mode {
        name: "app_token_field",
        app: "token_field = \"X-Access-Token\"\ntitle_case_fields = true",
        sees: &[USER, NO_AUTHORIZATION, ACCESS_TOKEN],
        ..DEFAULT
    },
];

impl Mode {
    fn is_public(&self) -> bool {
        self.route.contains("\"public\"")
    }

    /// Whether the app gets credentials that the gateway writes into `Authorization`.
    fn writes_authorization(&self) -> bool {
        let written = |(name, sees): &(&str, Sees)| {
            *name == "Authorization" && !matches!(sees, Sees::Nothing)
        };
        self.sees.iter().any(written)
    }

    /// Whether the app gets this field from the gateway.
    fn writes(&self, name: &str) -> bool {
        self.sees.iter().any(|(written, _)| *written == name)
    }

    /// Whether the field names of requests to the app begin each word with a capital letter.
    fn has_title_case(&self) -> bool {
        self.app.contains("title_case_fields")
    }

    /// The target by which a client reaches the path of `target` at the app.
    fn public_target(&self, target: &[u8]) -> Vec<u8> {
        let origin = target.windows(3).position(|window| window == b"://");
        let at = match origin {
            _ if target.starts_with(b"/") => 0,
            Some(at) => {
                let authority = &target[at + 3..];
                let end = authority.iter().position(|byte| b"/?#".contains(byte));
                at + 3 + end.unwrap_or(authority.len())
            }
            // The target has no path.
            None => return target.to_vec(),
        };
        let (before, after) = target.split_at(at);
        let has_root = self.prefix.is_empty() || after.starts_with(b"/");
        let root = if has_root { "" } else { "/" };
        [before, self.prefix.as_bytes(), root.as_bytes(), after].concat()
    }

    /// Whether the route allows all unusual forms of a path.
    fn allows_forms(&self) -> bool {
        self.route.contains("allow_in_path")
    }
}

/// A gateway in one mode.
struct Running {
    mode: Mode,
    gateway: Gateway,
    provider: StandIn,
    app: RecordingUpstream,
}

impl Running {
    async fn start(mode: Mode) -> Self {
        Self::start_with(mode, mode.tables).await
    }

    /// Starts a gateway with other tables than those of the mode.
    async fn start_with(mode: Mode, tables: &str) -> Self {
        let clock = Clock::manual(Clock::system().now());
        let provider = StandIn::at_time_of(&clock).await;
        provider.user_members(json!({
            "preferred_username": "zoe", "org": { "unit": "Küche" },
        }));
        let app = RecordingUpstream::start().await;
        let url = [&*app.url(), mode.app_path].concat();
        let settings = if mode.app.contains("id_token") {
            openid::settings_without_routes(&provider.url(), &url, &[])
        } else {
            Settings::new(ORIGIN, &provider.url(), &url)
        };
        let password = settings.file("password", "s3cret-canary\n");
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let key = settings.file("key", &key);
        let tables = tables.replace("KEY", &key);
        let app_keys = mode.app.replace("PASSWORD", &password);
        let route = mode.route.replace("PASSWORD", &password);
        let prefix = match mode.prefix {
            "" => "/",
            prefix => prefix,
        };
        let mut origins = vec![ORIGIN, APP];
        if mode.origin == WILD {
            origins.push(WILDCARD);
        }
        let settings = settings
            .public_urls(&origins)
            .app(&format!("{app_keys}\n"))
            .with(&format!(
                "{tables}[[routes]]\nprefix = \"{prefix}\"\n{route}\n"
            ));
        Self {
            mode,
            gateway: Gateway::with_clock(settings, clock),
            provider,
            app,
        }
    }

    fn host(&self) -> &'static str {
        self.mode.origin.trim_start_matches("http://")
    }

    /// A browser whose user at the provider is `alice`.
    fn browser(&self) -> Browser {
        let address = self.gateway.address();
        let browser = Browser::new()
            .leading(ORIGIN, address)
            .leading(APP, address)
            .leading(WILD, address);
        browser.plant(&self.provider.url(), "user=alice; Path=/");
        browser
    }

    /// The session cookie of a signed-in user.
    async fn session(&self) -> String {
        let browser = self.browser();
        let sign_in = format!("{}/oauth2/sign_in", self.mode.origin);
        let page = browser.visit(&sign_in).await;
        browser
            .cookie(self.mode.origin, SESSION)
            .unwrap_or_else(|| panic!("{}: {}", self.mode.name, page.describe()))
    }

    /// The `Cookie` line of a signed-in user.
    async fn cookie_line(&self) -> String {
        format!("Cookie: {SESSION}={}\r\n", self.session().await)
    }

    /// Sends a request. Returns the answer, and the request that reached the app.
    async fn send(
        &self,
        method: &str,
        target: &[u8],
        (lines, body): (&[u8], &[u8]),
    ) -> (Option<Response>, Option<Recorded>) {
        let before = self.app.count();
        let host = format!(" HTTP/1.1\r\nHost: {}\r\n", self.host());
        let start = [method.as_bytes(), b" ", target, host.as_bytes()].concat();
        let request = [&*start, lines, b"\r\n", body].concat();
        let mut outcome = exchange(self.gateway.address(), &request, 1).await;
        let arrived = self.app.count() - before;
        assert!(arrived < 2, "{}", latin1(target));
        let arrived = (arrived == 1).then(|| self.app.last());
        (outcome.responses.pop(), arrived)
    }

    /// Sends a GET request for a path of the app. Returns the status, and the request that reached
    /// the app.
    async fn status(&self, target: &[u8], lines: &[u8]) -> (u16, Option<Recorded>) {
        let sent = self.mode.public_target(target);
        let (response, arrived) = self.send("GET", &sent, (lines, b"")).await;
        let context = format!("{}: {}", self.mode.name, latin1(target));
        (response.expect(&context).status(), arrived)
    }

    /// Fails unless the gateway treated a request as the request of nobody. A public route forwards
    /// such a request without a user.
    #[track_caller]
    fn assert_nobody(&self, (status, arrived): (u16, Option<Recorded>), context: &str) {
        let mode = self.mode.name;
        if !self.mode.is_public() {
            assert_eq!((status, arrived.is_none()), (401, true), "{mode} {context}");
            return;
        }
        assert_eq!(status, 200, "{mode} {context}");
        let head = arrived.unwrap().head;
        for (name, _) in self.mode.sees {
            let values = head.values(name);
            let of_client = *name == "Authorization" && !self.mode.writes_authorization();
            assert!(
                values.is_empty() || of_client,
                "{mode} {context}: {name} is {values:?}"
            );
        }
    }

    /// Fails unless the app gets exactly the expected fields of a signed-in user.
    #[track_caller]
    fn assert_sees(&self, request: &Recorded, context: &str) {
        for (name, expected) in self.mode.sees {
            let values = request.head.values(name);
            let held = match (expected, values.as_slice()) {
                (Sees::Nothing, []) => true,
                (Sees::Exactly(expected), [value]) => value == expected,
                (Sees::Token(start), [value]) => value.starts_with(start),
                (Sees::Nothing | Sees::Exactly(_) | Sees::Token(_), _) => false,
            };
            let mode = self.mode.name;
            assert!(held, "{mode} {context}: {name} is {values:?}");
            let as_written = latin1(&request.head.bytes).contains(&format!("\r\n{name}: "));
            let expected = self.mode.has_title_case() && !values.is_empty();
            assert_eq!(as_written, expected, "{mode} {context}: {name}");
        }
    }
}

/// A text whose characters are the bytes, as in [`crate::support::wire::Head`].
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// Reports to `tests/run` that all rows of a table have passed in a mode.
fn passed(mode: &Mode, rows: usize) {
    assert!(rows > 25, "{}: only {rows} rows", mode.name);
    ran(mode, rows);
}

/// Reports to `tests/run` that a test with this number of rows has passed in a mode.
fn ran(mode: &Mode, rows: usize) {
    record("modes.txt", &[mode.name, &format!("rows={rows}")]);
}
