//! The settings files in `config/examples`. `sidegate check` accepts each file as it is. The files
//! in `config/examples/oauth2-proxy` decide as `tests/data/examples.txt` states.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sidegate::provider::profile;
use tempfile::TempDir;
use tokio::process::Command;
use url::Url;

use crate::operations::said;
use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::certificates::Authority;
use crate::support::gateway::{PROGRAM, Process, Settings};
use crate::support::program::project;
use crate::support::provider::{CLIENT, CLIENT_SECRET, StandIn};
use crate::support::upstream::{Answer, RecordingUpstream};

const ROWS: &str = include_str!("../data/examples.txt");
const PAGE: &str = include_str!("../../docs/migrate.md");

/// The origins of the examples.
const ORIGINS: [&str; 4] = [
    "https://app.example.com",
    "https://wiki.example.com",
    "https://git.example.com",
    "https://chat.example.com",
];

/// The files in a folder of `config/`, by their names without the extension.
pub(crate) fn configurations(folder: &str) -> BTreeMap<String, PathBuf> {
    let paths = fs::read_dir(project(folder)).unwrap();
    let paths = paths.map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.is_file());
    let named = files.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path));
    named.collect()
}

/// The variables that replace the paths of secrets in a settings file.
fn secrets(text: &str, file: &str) -> Vec<(&'static str, String)> {
    let key = project("tests/data/passport/public_key.pem");
    let keys = format!("[\"{}\"]", key.display());
    let provider = "SIDEGATE__PROVIDERS__MAIN__CLIENT_SECRET_FILE";
    let known = [
        ("client_secret_file", provider, file),
        ("\"CLIENT_SECRET\"", "CLIENT_SECRET", CLIENT_SECRET),
        (
            "OAUTH2_PROXY_CLIENT_SECRET",
            "OAUTH2_PROXY_CLIENT_SECRET",
            CLIENT_SECRET,
        ),
        (
            "public_key_files",
            "SIDEGATE__PROVIDERS__MAIN__ACCESS_TOKEN__PUBLIC_KEY_FILES",
            &keys,
        ),
        (
            "password_file",
            "SIDEGATE__UPSTREAMS__APP__BASIC__PASSWORD_FILE",
            file,
        ),
    ];
    let needed = known.into_iter().filter(|(key, ..)| text.contains(key));
    needed
        .map(|(_, name, value)| (name, value.to_owned()))
        .collect()
}

/// Fails unless `sidegate check` accepts each file as it is.
async fn assert_accepted(files: &BTreeMap<String, PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, format!("{CLIENT_SECRET}\n")).unwrap();
    let mut refused = Vec::new();
    for (name, path) in files {
        let text = fs::read_to_string(path).unwrap();
        let mut check = Command::new(PROGRAM);
        check.arg("check").arg("--config").arg(path);
        check.envs(secrets(&text, secret.to_str().unwrap()));
        let (code, said) = said(&mut check).await;
        if code != Some(0) {
            refused.push(format!("{name}: {said}"));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[tokio::test]
async fn every_profile_has_an_example_that_check_accepts_as_it_is() {
    let examples = configurations("config/examples");
    let profiles = configurations("config/providers");
    assert!(examples.keys().eq(profiles.keys()), "{examples:?}");
    assert!(profile::names().eq(profiles.keys()), "{profiles:?}");
    for (name, path) in &examples {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        assert!(lines.count() <= 14, "{name} is long");
        let profile = format!("profile = \"{name}\"");
        assert!(text.lines().any(|line| line == profile), "{name}");
    }
    assert_accepted(&examples).await;
}

#[tokio::test]
async fn every_example_from_oauth2_proxy_is_accepted_as_it_is_and_listed() {
    let examples = configurations("config/examples/oauth2-proxy");
    assert!(examples.len() >= 10, "{examples:?}");
    for (name, path) in &examples {
        let text = fs::read_to_string(path).unwrap();
        let (comment, _) = text.split_once("\npublic_url = ").unwrap();
        assert!(comment.lines().all(|line| line.starts_with('#')), "{name}");
        assert!(comment.contains("\n#   --provider="), "{name}");
        let link = format!("| [{name}](../config/examples/oauth2-proxy/{name}.toml) | ");
        assert!(PAGE.contains(&link), "{name} is not in the table");
    }
    assert_eq!(
        PAGE.matches("(../config/examples/oauth2-proxy/").count(),
        examples.len()
    );
    assert_accepted(&examples).await;
}

/// A running gateway with the settings of an example, a provider, and an app for each upstream.
pub(crate) struct Example {
    process: Process,
    provider: StandIn,
    /// The lists of GitHub.
    api: RecordingUpstream,
    apps: BTreeMap<String, RecordingUpstream>,
    authority: Authority,
    _files: TempDir,
}

/// The names of the upstreams in a settings file.
fn upstreams(text: &str) -> Vec<String> {
    let lines = text.lines();
    let rest = lines.filter_map(|line| line.trim_start_matches('[').strip_prefix("upstreams."));
    let end = |c: char| c == '.' || c == ']';
    let names = rest.map(|rest| rest.split(end).next().unwrap().to_owned());
    let mut names: Vec<_> = names.collect();
    names.dedup();
    names
}

/// The variables that replace the endpoints of the provider.
fn endpoints(text: &str, provider: &StandIn, api: &RecordingUpstream) -> Vec<(String, String)> {
    let keys = if text.contains("profile = \"github\"") {
        let lists = json!([
            { "endpoint": format!("{}/user/teams", api.url()), "name": ["org", "slug"] },
        ]);
        vec![
            ("URL", provider.url()),
            ("AUTHORIZATION_ENDPOINT", "/authorize".to_owned()),
            ("TOKEN_ENDPOINT", "/token".to_owned()),
            ("USERINFO_ENDPOINT", "/userinfo".to_owned()),
            ("IDENTITY__GROUPS_ENDPOINTS", lists.to_string()),
        ]
    } else {
        vec![("ISSUER", provider.url())]
    };
    let keys = keys.into_iter().chain([("CLIENT_ID", CLIENT.to_owned())]);
    keys.map(|(key, value)| (format!("SIDEGATE__PROVIDERS__MAIN__{key}"), value))
        .collect()
}

impl Example {
    /// Starts the gateway with the text of an example. Variables replace the addresses of the
    /// servers, the client, and the paths of the secrets.
    pub(crate) async fn start(text: &str) -> Self {
        let (provider, api) = (StandIn::start().await, RecordingUpstream::start().await);
        let (files, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let secret = files.path().join("secret");
        fs::write(&secret, format!("{CLIENT_SECRET}\n")).unwrap();
        let tls = authority.issue(files.path(), &["*.example.com"]);
        let mut variables = endpoints(text, &provider, &api);
        for (name, value) in [
            ("SERVER__LISTEN", "127.0.0.1:0"),
            (
                "SERVER__CERTIFICATE_FILE",
                tls.certificate.to_str().unwrap(),
            ),
            ("SERVER__KEY_FILE", tls.key.to_str().unwrap()),
            ("OPERATIONS__LISTEN", "127.0.0.2:0"),
        ] {
            variables.push((format!("SIDEGATE__{name}"), value.to_owned()));
        }
        for (name, value) in secrets(text, secret.to_str().unwrap()) {
            variables.push((name.to_owned(), value));
        }
        let mut apps = BTreeMap::new();
        for name in upstreams(text) {
            let app = RecordingUpstream::start().await;
            let variable = format!("SIDEGATE__UPSTREAMS__{}__URL", name.to_uppercase());
            variables.push((variable, app.url()));
            apps.insert(name, app);
        }
        let variables: Vec<_> = variables.iter().map(|(n, v)| (&**n, &**v)).collect();
        Self {
            process: Process::start_in(Settings::whole(text), &variables).await,
            provider,
            api,
            apps,
            authority,
            _files: files,
        }
    }

    /// A browser whose user has these claims at the provider.
    fn browser(&self, claims: &Value) -> Browser {
        let claims = claims.clone();
        let teams = claims["teams"].as_array().cloned().unwrap_or_default();
        let teams: Vec<_> = teams
            .iter()
            .map(|team| {
                let (org, slug) = team.as_str().unwrap().split_once('/').unwrap();
                json!({ "org": org, "slug": slug })
            })
            .collect();
        let teams = json!(teams).to_string();
        let json = [("Content-Type", "application/json")];
        self.api
            .answer_by(move |_request| Answer::with(200, &json, &teams));
        let mut all = json!({ "email_verified": true });
        all.as_object_mut()
            .unwrap()
            .extend(claims.as_object().cloned().unwrap_or_default());
        self.provider.user_members(all.clone());
        self.provider.tamper_claims(move |claims| {
            let claims = claims.as_object_mut().unwrap();
            claims.extend(all.as_object().unwrap().clone());
        });
        let browser = Browser::trusting(&self.authority);
        ORIGINS.iter().fold(browser, |browser, origin| {
            browser.leading(origin, self.process.address())
        })
    }

    /// The answer to a request, in the form of the table. `expected` names the fields of interest.
    pub(crate) async fn answer(&self, claims: &str, request: &str, expected: &str) -> String {
        let user: Option<Value> = (claims != "-").then(|| serde_json::from_str(claims).unwrap());
        let browser = self.browser(user.as_ref().unwrap_or(&Value::Null));
        let (purpose, url) = request.split_once(' ').unwrap();
        if purpose == "pages" {
            return self.answers(&browser, url).await;
        }
        if user.is_some() {
            let page = if purpose == "check" { ORIGINS[0] } else { url };
            browser.visit(page).await;
        }
        let counts: Vec<_> = self.apps.values().map(RecordingUpstream::count).collect();
        let fetch = BrowserRequest::fetch(url);
        let page = match purpose {
            "page" => browser.open(url).await,
            "fetch" => {
                let own = fetch.field("authorization", "Basic b3duOmtleQ==");
                browser.send(own).await
            }
            "socket" => browser.send(handshake(fetch, url)).await,
            "check" => return checked(&browser, url, expected).await,
            _ => panic!("{request}"),
        };
        let mut reached = self.apps.iter().zip(counts);
        match reached.find(|((_, app), count)| app.count() > *count) {
            Some(((name, app), _)) => {
                let fields = expected.split("; ").skip(1);
                let fields = fields.map(|field| shown(app, field));
                let parts: Vec<_> = [name.clone()].into_iter().chain(fields).collect();
                parts.join("; ")
            }
            None => self.refusal(&browser, page).await,
        }
    }

    /// The number of sign-ins of a browser that opens these pages, and the upstreams that answer.
    async fn answers(&self, browser: &Browser, urls: &str) -> String {
        let before = self.provider.authorizations().len();
        let mut reached = Vec::new();
        for url in urls.split(' ') {
            let counts: Vec<_> = self.apps.values().map(RecordingUpstream::count).collect();
            let page = browser.visit(url).await;
            assert_eq!(page.url.as_str(), url, "{}", page.describe());
            let apps = self.apps.iter().zip(counts);
            let apps = apps.filter(|((_, app), count)| app.count() > *count);
            reached.extend(apps.map(|((name, _), _)| name.clone()));
        }
        let sign_ins = self.provider.authorizations().len() - before;
        format!("{sign_ins} sign-in; {}", reached.join("; "))
    }

    /// An answer of the gateway itself.
    async fn refusal(&self, browser: &Browser, mut page: Page) -> String {
        // With one sign-in for several hosts, the login begins at the login host.
        let next = page.location();
        if next.is_some_and(|next| next.path() == "/oauth2/ticket_request") {
            page = browser.follow(&page).await;
        }
        let target = page.location().map(String::from).unwrap_or_default();
        if target.starts_with(&format!("{}/authorize?", self.provider.url())) {
            "sign-in".to_owned()
        } else {
            page.status.as_u16().to_string()
        }
    }
}

/// The request with the fields by which a page of the same origin opens a WebSocket.
fn handshake(request: BrowserRequest, url: &str) -> BrowserRequest {
    let origin = Url::parse(url).unwrap().origin().ascii_serialization();
    [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("origin", &origin),
    ]
    .into_iter()
    .fold(request, |request, (name, value)| request.field(name, value))
}

/// The answer to an auth check of nginx: the status, and the expected fields.
async fn checked(browser: &Browser, url: &str, expected: &str) -> String {
    let check = BrowserRequest::navigation(url).field("x-forwarded-uri", "/page");
    let answer = browser.send(check).await;
    let fields = expected.split("; ").skip(1);
    let fields = fields.map(|field| {
        let (name, _) = field.split_once(':').unwrap();
        format!("{name}: {}", answer.field(name).unwrap_or_default())
    });
    let status = answer.status.as_u16().to_string();
    let parts: Vec<_> = [status].into_iter().chain(fields).collect();
    parts.join("; ")
}

/// A field of the last request of an app. The result is the expected field if the value is as
/// expected.
fn shown(app: &RecordingUpstream, expected: &str) -> String {
    let (name, value) = expected.split_once(':').unwrap();
    let values = app.last().head.values(name).join(" and ");
    let value = value.trim_start();
    let as_expected = match value.strip_suffix('*') {
        Some(start) => values.starts_with(start),
        None => values == value,
    };
    if as_expected {
        expected.to_owned()
    } else {
        format!("{name}: {values}")
    }
}

/// Makes each request of a table like `tests/data/examples.txt` with settings that `settings`
/// returns for the text of the example. Fails unless each answer is the expected answer, and each
/// example has a row.
pub(crate) async fn assert_decisions(table: &str, settings: impl Fn(String) -> String) {
    let rows = table.lines().filter(|line| !line.starts_with('#'));
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split('\t').collect()).collect();
    let mut wrong = Vec::new();
    let mut made = 0;
    for (name, path) in configurations("config/examples/oauth2-proxy") {
        let text = fs::read_to_string(path).unwrap();
        let example = Example::start(&settings(text)).await;
        let before = made;
        for row in &rows {
            let [of, claims, request, expected] = row[..] else {
                panic!("not four columns: {row:?}")
            };
            if of == name {
                made += 1;
                let answer = example.answer(claims, request, expected).await;
                if answer != expected {
                    wrong.push(format!(
                        "{name} {claims} {request}: {answer}, not {expected}"
                    ));
                }
            }
        }
        assert!(made > before, "{name} has no row");
    }
    assert_eq!(made, rows.len(), "a row names no example");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[tokio::test]
async fn every_example_from_oauth2_proxy_decides_as_the_table_states() {
    assert_decisions(ROWS, |text| text).await;
}

/// What `sidegate explain` says about a row of the table, in the form of the table. A refusal is
/// `sign-in` or `401` if the user has to sign in.
async fn explained(path: &Path, files: &Path, row: [&str; 3]) -> String {
    let [claims, request, expected] = row;
    let (_, url) = request.split_once(' ').unwrap();
    let text = fs::read_to_string(path).unwrap();
    let secret = files.join("secret");
    let mut explain = Command::new(PROGRAM);
    explain
        .args(["explain", "--json", url, "--config"])
        .arg(path);
    explain.envs(secrets(&text, secret.to_str().unwrap()));
    if claims != "-" {
        let mut all = json!({ "sub": "alice", "id": 1, "email_verified": true });
        let own: Value = serde_json::from_str(claims).unwrap();
        let all = all.as_object_mut().unwrap();
        all.extend(own.as_object().unwrap().clone());
        // The claims of the command contain the lists of GitHub as groups.
        if let Some(teams) = all.remove("teams") {
            all.insert("groups".to_owned(), teams);
        }
        let file = files.join("claims.json");
        fs::write(&file, json!(all).to_string()).unwrap();
        explain.arg("--as").arg(file);
    }
    let output = explain.output().await.unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains(CLIENT_SECRET));
    let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
    match explained["decision"].as_str().unwrap() {
        "challenge" if expected == "401" => "401".to_owned(),
        "challenge" => "sign-in".to_owned(),
        "permit" => {
            let upstream = explained["route"]["upstream"].as_str().unwrap().to_owned();
            let fields = expected.split("; ").skip(1);
            let fields = fields.map(|field| explained_field(&explained["app_request"], field));
            [upstream]
                .into_iter()
                .chain(fields)
                .collect::<Vec<_>>()
                .join("; ")
        }
        _ => explained["status"].to_string(),
    }
}

/// Returns the expected field if the explanation says the same about the field. The explanation
/// contains no secret and no field of the client.
fn explained_field(app_request: &Value, expected: &str) -> String {
    let (name, value) = expected.split_once(':').unwrap();
    let (name, value) = (name.to_lowercase(), value.trim_start());
    let mut written = app_request["written_fields"].as_array().unwrap().iter();
    let field = written.find(|field| field["name"] == name);
    let as_expected = match field {
        // The row with this value is about a field of the client, or about a handshake.
        None => value.is_empty() || value == "Basic b3duOmtleQ==" || name == "upgrade",
        Some(field) if field["values"].is_null() => !value.is_empty(),
        Some(field) => field["values"] == json!([value]),
    };
    if as_expected {
        expected.to_owned()
    } else {
        format!("{name}: {field:?}")
    }
}

#[tokio::test]
async fn explain_decides_as_the_table_of_the_examples_states() {
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("secret"), format!("{CLIENT_SECRET}\n")).unwrap();
    let configurations = configurations("config/examples/oauth2-proxy");
    let mut wrong = Vec::new();
    for row in ROWS.lines().filter(|line| !line.starts_with('#')) {
        let [name, claims, request, expected] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("not four columns: {row:?}")
        };
        // The command explains one request.
        if request.starts_with("pages ") {
            continue;
        }
        let path = &configurations[name];
        let said = explained(path, files.path(), [claims, request, expected]).await;
        if said != expected {
            wrong.push(format!("{name} {claims} {request}: {said}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
