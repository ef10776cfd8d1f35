//! Different spellings of a path at real web servers and frameworks. The app of each test answers
//! `protected` for each path that the app itself reads as `/kiosk` or `/café`, or as a path below
//! them, and `other` for all other paths.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::support::browser::Browser;
use crate::support::gateway::{Gateway, Settings};
use crate::support::program::{Program, peer};
use crate::support::provider::StandIn;
use crate::support::raw::{Response, get};
use crate::support::scene::{ORIGIN, SESSION, url};

const PROTECTED: &str = "protected";
const OTHER: &str = "other";

/// The characters of a path that stay as they are.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'.')
    .remove(b'%')
    .remove(b';')
    .remove(b':')
    .remove(b'$');

/// Texts that some program reads as the character.
fn alternatives(character: char) -> &'static [&'static str] {
    match character {
        'k' => &["K", "\u{212a}", "\u{ff4b}", "\u{1d4f}", "%6B", "%256b"],
        'i' => &[
            "I", "\u{130}", "\u{131}", "i\u{307}", "I\u{307}", "\u{ff49}", "\u{2071}", "%69",
        ],
        'o' => &["O", "\u{ff4f}", "\u{ba}", "\u{2134}"],
        's' => &["S", "\u{17f}", "\u{ff33}", "\u{2e2}", "%73", "%2573"],
        'c' => &["C", "\u{ff43}", "\u{217d}"],
        'f' => &["F", "\u{ff46}"],
        '\u{e9}' => &[
            "\u{c9}",
            "e\u{301}",
            "E\u{301}",
            "\u{ff45}\u{301}",
            "e",
            "\u{e8}",
        ],
        _ => &[],
    }
}

/// The name with one or all characters replaced, and with additions.
fn spellings(name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::from([name.to_owned()]);
    let characters: Vec<char> = name.chars().collect();
    let letter = |at: usize, one: usize, number: usize| {
        let others = alternatives(characters[at]);
        let other = others
            .get(number)
            .filter(|_| one == at || one == usize::MAX);
        other.map_or_else(|| characters[at].to_string(), |other| (*other).to_owned())
    };
    for one in (0..characters.len()).chain([usize::MAX]) {
        for number in 0..8 {
            let letters = (0..characters.len()).map(|at| letter(at, one, number));
            found.insert(letters.collect());
        }
    }
    for ignored in ["\u{200b}", "\u{ad}", "\u{feff}", "\u{fe0f}", "\u{200d}"] {
        for at in name.char_indices().map(|(at, _)| at).chain([name.len()]) {
            found.insert(format!("{}{ignored}{}", &name[..at], &name[at..]));
        }
    }
    for space in ["%20", "\u{a0}", "\u{3000}", "\u{2003}", "%20\u{a0}"] {
        found.extend([format!("{space}{name}"), format!("{name}{space}")]);
    }
    let ends = [
        ".",
        "..",
        ". .",
        "\u{ff0e}",
        ";",
        ";x=1",
        "%3Bx",
        "\u{ff1b}x",
        "\u{37e}x",
        "%3Fx",
        "%23x",
        "\u{ff1f}x",
        "::$DATA",
        "\u{ff0f}x",
        "\u{ff3c}x",
        "s",
        "-x",
        "\u{301}",
    ];
    found.extend(ends.map(|end| format!("{name}{end}")));
    found.insert(name.to_uppercase());
    found
}

/// Paths that some app reads as a path of the protected names, and similar paths.
fn corpus() -> BTreeSet<String> {
    let mut paths = BTreeSet::from(["/".to_owned(), "/open/x".to_owned()]);
    for name in ["kiosk", "caf\u{e9}"] {
        for spelled in spellings(name) {
            for path in ["/NAME", "/NAME/", "/NAME/x", "/open/NAME"] {
                paths.insert(path.replace("NAME", &spelled));
            }
        }
        for path in [
            "/open/\u{ff0e}\u{ff0e}/NAME",
            "/open/\u{2025}/NAME/x",
            "/open\u{ff0f}..\u{ff0f}NAME",
            "/open/\u{a0}../NAME",
            "/open/..\u{3000}/NAME",
            "/open/%20../NAME",
            "/\u{200b}/NAME",
            "/\u{3000}/NAME",
            "/\u{ff0e}/NAME",
            "/\u{ff0f}NAME",
            "/\u{ff3c}NAME/x",
            "/open/..\u{200b}/NAME",
        ] {
            paths.insert(path.replace("NAME", name));
        }
    }
    let encode = |path: String| utf8_percent_encode(&path, KEPT).to_string();
    paths.into_iter().map(encode).collect()
}

async fn ask(address: SocketAddr, path: &str, cookie: &str) -> Response {
    let answer = get(address, path, cookie).await;
    answer.unwrap_or_else(|| panic!("no answer to {path}"))
}

/// Returns true if the answer comes from the handler of the app with this text.
fn is(response: &Response, text: &str) -> bool {
    response.status() == 200 && response.text().trim() == text
}

/// The answers of an app to the paths of the corpus, without a gateway.
async fn direct(app: &Program) -> BTreeMap<String, Response> {
    let address = app.address().strip_prefix("http://").unwrap();
    let address = address.parse().unwrap();
    let mut answers = BTreeMap::new();
    for path in corpus() {
        let answer = ask(address, &path, "").await;
        answers.insert(path, answer);
    }
    answers
}

/// A gateway in front of an app, and a user without any group.
struct Front {
    gateway: Gateway,
    cookie: String,
    _provider: StandIn,
}

impl Front {
    /// Starts a gateway with these routes. The user may use the path `permitted`.
    async fn start(app: &Program, routes: &str, permitted: &str) -> Self {
        let provider = StandIn::start().await;
        let settings = Settings::new(ORIGIN, &provider.url(), app.address());
        let gateway = Gateway::start(settings.with(routes));
        let browser = Browser::new().leading(ORIGIN, gateway.address());
        browser.plant(&provider.url(), "user=alice; Path=/");
        let page = browser.visit(&url(permitted)).await;
        let cookie = browser.cookie(ORIGIN, SESSION);
        let cookie = cookie.unwrap_or_else(|| panic!("{}", page.describe()));
        Self {
            gateway,
            cookie: format!("Cookie: {SESSION}={cookie}\r\n"),
            _provider: provider,
        }
    }

    async fn ask(&self, path: &str) -> Response {
        ask(self.gateway.address(), path, &self.cookie).await
    }
}

const STRICT: &str = "access.any_of.groups = [\"admins\"]\n";

/// The routes of both protected names, with this rule.
fn named(rule: &str) -> String {
    ["/kiosk", "/caf%C3%A9"]
        .map(|prefix| format!("[[routes]]\nprefix = \"{prefix}\"\n{rule}"))
        .concat()
}

/// A user without the group never gets an answer of a handler that only a member of the group may
/// use. `least` is the number of spellings that the app reads as a protected path, at least.
async fn protects(app: &Program, least: usize) {
    let direct = direct(app).await;
    let is_protected = |path: &String| is(&direct[path], PROTECTED);
    let hidden = direct.keys().filter(|path| is_protected(path)).count();
    assert!(hidden >= least, "the app knows only {hidden} spellings");
    // A rule for a group under a rule for all users who are signed in, and under a public route.
    for broad in ["[[routes]]\n", "[[routes]]\naccess = \"public\"\n"] {
        let routes = format!("{broad}{}[[routes]]\nprefix = \"/in\"\n", named(STRICT));
        let front = Front::start(app, &routes, "/in").await;
        let (mut refused, mut forwarded) = (0, 0);
        for path in direct.keys() {
            let response = front.ask(path).await;
            assert!(!is(&response, PROTECTED), "{broad}{path}");
            refused += usize::from(response.status() == 403 && is_protected(path));
            forwarded += usize::from(is(&response, OTHER));
        }
        assert!(
            refused >= least.min(8) && forwarded >= 8,
            "{refused} {forwarded}"
        );
        front.gateway.drain().await;
    }
    // A rule for all users who are signed in under a rule for a group.
    let routes = format!("[[routes]]\n{STRICT}{}", named(""));
    let front = Front::start(app, &routes, "/kiosk").await;
    let mut forwarded = 0;
    for path in direct.keys() {
        let response = front.ask(path).await;
        assert!(!is(&response, OTHER), "{path}");
        forwarded += usize::from(is(&response, PROTECTED));
    }
    assert!(forwarded >= 4, "{forwarded}");
    front.gateway.drain().await;
}

async fn python_app(name: &str) -> Program {
    peer("spelled_apps.py", &[name]).await
}

#[tokio::test]
async fn p_62_django_never_serves_a_spelling_of_a_protected_path() {
    protects(&python_app("django").await, 60).await;
}

#[tokio::test]
async fn p_62_flask_never_serves_a_spelling_of_a_protected_path() {
    protects(&python_app("flask").await, 40).await;
    protects(&python_app("flask-exact").await, 6).await;
}

#[tokio::test]
async fn p_62_starlette_never_serves_a_spelling_of_a_protected_path() {
    protects(&python_app("starlette").await, 40).await;
}

#[tokio::test]
async fn p_62_an_app_with_names_of_hfs_never_serves_a_spelling_of_a_protected_path() {
    protects(&python_app("hfs").await, 60).await;
}

#[tokio::test]
async fn p_62_an_app_that_decodes_two_times_never_serves_a_spelling_of_a_protected_path() {
    protects(&python_app("decoding").await, 20).await;
}

#[tokio::test]
async fn p_62_an_app_that_normalizes_paths_never_serves_a_spelling_of_a_protected_path() {
    protects(&python_app("normalizing").await, 100).await;
}

#[tokio::test]
async fn p_62_nginx_never_serves_a_spelling_of_a_protected_path() {
    protects(&python_app("nginx").await, 30).await;
}

#[tokio::test]
async fn p_62_node_never_serves_a_spelling_of_a_protected_path() {
    for (name, least) in [
        ("regex", 30),
        ("lower", 30),
        ("upper", 30),
        ("compatible", 60),
    ] {
        protects(&peer("spelled_app.mjs", &[name]).await, least).await;
    }
}

#[tokio::test]
async fn p_62_tomcat_never_serves_a_spelling_of_a_protected_path() {
    protects(&peer("SpelledApp.java", &[]).await, 60).await;
}
