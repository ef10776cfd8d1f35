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
    /// Keys of the route, which has the prefix `/`.
    route: &'static str,
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

const DEFAULT: Mode = Mode {
    name: "default",
    app: "",
    route: "",
    tables: "",
    origin: ORIGIN,
    app_prefix: "",
    sees: &[USER, BEARER],
};

const MODES: [Mode; 16] = [
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
        sees: &[
            USER,
            NO_AUTHORIZATION,
            ("X-Access-Token", Sees::Token("alice.canary.")),
        ],
        ..DEFAULT
    },
    Mode {
        name: "basic",
        route: "basic = { user = { claim = \"preferred_username\" }, password_file = \"PASSWORD\" }",
        // The user name `zoe` and the password `s3cret-canary`.
        sees: &[
            USER,
            (
                "Authorization",
                Sees::Exactly("Basic em9lOnMzY3JldC1jYW5hcnk="),
            ),
        ],
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
        let settings = if mode.app.contains("id_token") {
            openid::settings_without_routes(&provider.url(), &app.url(), &[])
        } else {
            Settings::new(ORIGIN, &provider.url(), &app.url())
        };
        let password = settings.file("password", "s3cret-canary\n");
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let key = settings.file("key", &key);
        let tables = tables.replace("KEY", &key);
        let route = mode.route.replace("PASSWORD", &password);
        let settings = settings
            .public_urls(&[ORIGIN, APP])
            .app(&format!("{}\n", mode.app))
            .with(&format!("{tables}[[routes]]\n{route}\n"));
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
            .leading(APP, address);
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

    /// Sends a GET request. Returns the status, and the request that reached the app.
    async fn status(&self, target: &[u8], lines: &[u8]) -> (u16, Option<Recorded>) {
        let (response, arrived) = self.send("GET", target, (lines, b"")).await;
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
