use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use figment::providers::{Format as _, Toml};
use figment::value::Dict;

use super::layers::{DEFAULTS, defaults};
use super::names::SECTIONS;
use super::*;
use crate::provider::{self, profile};

/// A settings file in a temporary folder, and the files whose paths are in the settings.
pub(super) struct TestSettings {
    folder: tempfile::TempDir,
}

impl TestSettings {
    pub(super) fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let written = Self { folder };
        written.file("secret", "s3cret-canary\n");
        let text = text.replace('@', &written.folder.path().display().to_string());
        written.file("sidegate.toml", &text);
        written
    }

    /// Writes a file that only its owner can read.
    pub(super) fn file(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        let mut options = std::fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// The path of the settings file.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("sidegate.toml")
    }

    pub(super) fn load(&self) -> Result<Config, Problems> {
        Config::load(
            &Source::file(self.path()),
            &Reusable::default(),
            &Clock::system(),
        )
    }

    /// Returns the problems as `key: reason`, in the order in which `Config::load` reports the
    /// problems.
    pub(super) fn problems(&self) -> Vec<String> {
        let problems = self.load().map(|_| ()).unwrap_err().0;
        problems
            .into_iter()
            .map(|problem| format!("{}: {}", problem.key, problem.reason))
            .collect()
    }
}

pub(super) const SMALL: &str = r#"
public_url = "https://app.example.com"
[providers.main]
profile = "oauth2"
authorization_endpoint = "https://id.example.com/authorize"
token_endpoint = "https://id.example.com/token"
client_id = "me"
client_secret_file = "@/secret"
identity.source = "userinfo"
userinfo_endpoint = "https://id.example.com/user"
[upstreams.app]
url = "http://127.0.0.1:8080"
"#;

pub(super) fn keys_of(problems: &[String]) -> Vec<&str> {
    problems
        .iter()
        .map(|problem| problem.split(": ").next().unwrap())
        .collect()
}

#[test]
fn x_08_a_file_with_provider_client_and_upstream_protects_everything() {
    let config = TestSettings::new(SMALL).load().unwrap();
    let routes: Vec<_> = config.site.routes.iter().collect();
    assert_eq!(routes.len(), 1);
    assert_eq!(routes[0].prefix(), "/");
    assert!(routes[0].providers().eq(["main"]));
    assert!(!routes[0].is_public());
    assert!(config.key_file.is_none());
}

#[test]
fn the_reference_file_has_the_defaults_and_loads() {
    let tree = defaults();
    for section in [
        "server",
        "operations",
        "session",
        "login",
        "assertions",
        "log",
    ] {
        assert!(tree.contains_key(section), "{section} is not documented");
    }
    // In the reference file, a comment that is a table header or contains ` = ` is a commented-out
    // setting. All other comments are prose.
    let uncommented: String = DEFAULTS
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.starts_with('[') || rest.contains(" = ") => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let parsed: Dict = Figment::from(Toml::string(&uncommented)).extract().unwrap();
    for section in SECTIONS {
        assert!(parsed.contains_key(section), "{section} is not documented");
    }
}

/// Returns the keys that a table accepts. The parser's error about an unknown key lists the keys of
/// the table.
fn keys_of_table<T: serde::de::DeserializeOwned>() -> &'static [&'static str] {
    let odd = Dict::from([("no such key".to_owned(), Value::from(1))]);
    let Err(error) = Value::from(odd).deserialize::<T>() else {
        panic!("an unknown key was accepted")
    };
    let figment::error::Kind::UnknownField(_, keys) = error.kind else {
        panic!("{error}")
    };
    keys
}

#[test]
fn the_reference_file_documents_every_key_of_every_table() {
    use crate::provider::settings as provider;
    let tables = [
        keys_of_table::<provider::Settings>(),
        keys_of_table::<provider::AuthorizationParameters>(),
        keys_of_table::<provider::TokenRequest>(),
        keys_of_table::<provider::IdentitySettings>(),
        keys_of_table::<provider::ClaimNames>(),
        keys_of_table::<provider::AccessTokenSettings>(),
        keys_of_table::<provider::Refresh>(),
        keys_of_table::<provider::SignOutSettings>(),
        keys_of_table::<provider::ErrorPattern>(),
        keys_of_table::<provider::SignedOutPattern>(),
        keys_of_table::<crate::upstream::Settings>(),
        keys_of_table::<crate::access::RouteSettings>(),
        keys_of_table::<crate::access::RewriteSettings>(),
        keys_of_table::<crate::access::AnswerSettings>(),
        keys_of_table::<ServerSection>(),
        keys_of_table::<OperationsSection>(),
        keys_of_table::<LoginSection>(),
        keys_of_table::<auth_check::AuthCheckSection>(),
        keys_of_table::<auth_check::AskingProxy>(),
        keys_of_table::<telemetry::Settings>(),
        keys_of_table::<session::Settings>(),
        keys_of_table::<session::DiskSettings>(),
        keys_of_table::<AssertionNames>(),
    ];
    let is_documented = |key: &str| {
        DEFAULTS.lines().any(|line| {
            let line = line.trim_start_matches("# ").trim_start_matches('[');
            let table = line.split(']').next().unwrap_or_default();
            line.starts_with(&format!("{key} = "))
                || line.contains(&format!(".{key} = "))
                || table.ends_with(&format!(".{key}"))
        })
    };
    for key in tables.into_iter().flatten() {
        assert!(is_documented(key), "`{key}` is not documented");
    }
}

#[test]
fn the_minimal_file_has_ten_lines_and_loads_once_its_secret_exists() {
    let text = include_str!("../../config/minimal.toml");
    assert_eq!(text.lines().count(), 10);
    let written = TestSettings::new(&text.replace("/run/secrets/sidegate", "@"));
    written.file("client_secret", "s3cret-canary\n");
    written.file(
        "oauth-public.key",
        include_str!("../../tests/data/passport/public_key.pem"),
    );
    let keys = written
        .load()
        .map(|_| ())
        .map_err(|problems| problems.to_string());
    assert_eq!(keys, Ok(()));
}

#[test]
fn every_problem_is_named_at_once_with_its_source() {
    let text = SMALL.replace("[upstreams.app]", "[server]\nlisten = \"nowhere\"\nworker = 1\nidle_secs = 0\n[session]\nidle_secs = 9\nabsolute_secs = 2\n[upstreams.app]");
    let text = format!("{text}\n[[routes]]\nupstream = \"other\"\n");
    let written = TestSettings::new(&text);
    let problems = written.problems();
    assert_eq!(
        keys_of(&problems),
        [
            "server.idle_secs",
            "server.listen",
            "server.worker",
            "session",
            "routes.0.upstream"
        ],
        "{problems:#?}"
    );
    assert!(
        problems[2].contains("did you mean `workers`?"),
        "{problems:#?}"
    );
    assert!(
        problems[3].contains("idle_secs (9) exceeds absolute_secs (2)"),
        "{problems:#?}"
    );
    let first = &written.load().unwrap_err().0[0];
    assert!(first.source.ends_with("sidegate.toml"), "{first:?}");
}

#[test]
fn l_04_a_secret_in_the_settings_is_refused_and_not_shown() {
    let text = SMALL.replace(
        "client_secret_file = \"@/secret\"",
        "client_secret = \"s3cret-canary\"",
    );
    let problems = TestSettings::new(&text).problems();
    assert_eq!(
        keys_of(&problems),
        ["providers.main.client_secret"],
        "{problems:#?}"
    );
    assert!(problems[0].contains("client_secret_file") && !problems[0].contains("canary"));
}

#[test]
fn l_04_an_absent_secret_file_is_named() {
    let problems = TestSettings::new(&SMALL.replace("@/secret", "@/absent")).problems();
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].contains("client_secret_file") && problems[0].contains("absent"));
}

#[test]
fn t_10_plain_http_for_everybody_is_refused() {
    let open = format!("{SMALL}\n[server]\nlisten = \"0.0.0.0:4180\"\n");
    let problems = TestSettings::new(&open).problems();
    assert_eq!(keys_of(&problems), ["server.listen"], "{problems:#?}");
    let behind = format!("{open}trusted_proxies = [\"10.0.0.0/8\"]\n");
    assert!(TestSettings::new(&behind).load().is_ok());
}

#[test]
fn c_10_a_public_url_over_plain_http_is_for_loopback() {
    let plain = SMALL.replace("https://app.example.com", "http://app.example.com");
    let problems = TestSettings::new(&plain).problems();
    assert_eq!(keys_of(&problems), ["public_url"], "{problems:#?}");
    assert!(problems[0].contains("__Host-"), "{problems:#?}");
}

#[test]
fn several_origins_are_a_list() {
    let several = SMALL.replace(
        "\"https://app.example.com\"",
        "[\"https://a.example.com\", \"http://localhost:4180\"]",
    );
    let config = TestSettings::new(&several).load().unwrap();
    assert_eq!(config.site.gateway.public_urls.listed().count(), 2);
}

#[test]
fn x_06_an_unknown_key_is_refused_with_a_suggestion() {
    let problems = TestSettings::new(&format!("{SMALL}\n[sesion]\nidle_secs = 1\n")).problems();
    assert_eq!(keys_of(&problems), ["sesion"], "{problems:#?}");
    assert!(
        problems[0].contains("did you mean `session`?"),
        "{problems:#?}"
    );
}

#[test]
fn x_07_two_routes_for_the_same_requests_are_refused() {
    let routes = "[[routes]]\nprefix = \"/a\"\naccess = \"public\"\n[[routes]]\nprefix = \"/A\"\n";
    let problems = TestSettings::new(&format!("{SMALL}\n{routes}")).problems();
    assert_eq!(keys_of(&problems), ["routes.1.prefix"], "{problems:#?}");
}

/// Returns the settings [`SMALL`] with a second provider.
pub(super) fn two_providers() -> String {
    let (public_url, provider) = SMALL.split_once("[providers.main]").unwrap();
    let (provider, upstream) = provider.split_once("[upstreams.app]").unwrap();
    format!(
        "{public_url}[providers.main]{provider}[providers.work]{provider}[upstreams.app]{upstream}"
    )
}

#[test]
fn a_route_for_a_host_that_is_not_served_is_refused() {
    let routes = "[[routes]]\nhosts = [\"other.example.com\"]\n";
    let problems = TestSettings::new(&format!("{SMALL}\n{routes}")).problems();
    assert_eq!(keys_of(&problems), ["routes.0.hosts"], "{problems:#?}");
}

#[test]
fn an_empty_file_lacks_three_keys() {
    let problems = TestSettings::new("").problems();
    assert_eq!(
        keys_of(&problems),
        ["public_url", "providers", "upstreams"],
        "{problems:#?}"
    );
}

#[test]
fn a_file_that_is_not_toml_is_named() {
    let problems = TestSettings::new("public_url = ").load().unwrap_err();
    assert_eq!(problems.0.len(), 1);
    assert!(problems.to_string().contains("sidegate.toml"), "{problems}");
    let nowhere = Source::file("/nowhere/sidegate.toml");
    let absent = Config::load(&nowhere, &Reusable::default(), &Clock::system());
    assert!(absent.unwrap_err().to_string().contains("cannot be read"));
}

#[test]
fn l_04_a_line_that_is_not_toml_is_named_and_not_shown() {
    for value in [
        "\"s3cret-canary",
        "s3cret-canary",
        "'s3cret-canary\"",
        "\"\\s3cret-canary\"",
    ] {
        let text = format!("public_url = \"https://a.example\"\nclient_secret = {value}\n");
        let said = TestSettings::new(&text).load().unwrap_err().to_string();
        assert!(said.contains("line 2, column"), "{said}");
        assert!(!said.contains("canary"), "{said}");
    }
}

#[test]
fn a_flag_wins_over_the_file() {
    let written = TestSettings::new(&format!("{SMALL}\n[server]\nlisten = \"127.0.0.1:1\"\n"));
    let path = written.folder.path().join("sidegate.toml");
    let flags = Flags {
        listen: Some("127.0.0.1:2".to_owned()),
        ..Flags::default()
    };
    let source = Source {
        flags,
        ..Source::file(path)
    };
    let config = Config::load(&source, &Reusable::default(), &Clock::system()).unwrap();
    assert_eq!(config.listen.port(), 2);
}

#[test]
fn the_examples_in_the_documents_use_known_keys() {
    let documents = [
        include_str!("../../docs/connections.md"),
        include_str!("../../docs/providers.md"),
        include_str!("../../README.md"),
    ];
    let mut count = 0;
    for text in documents {
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            let written = TestSettings::new(block);
            let path = written.folder.path().join("sidegate.toml");
            let text = std::fs::read_to_string(&path).unwrap();
            let merged = Source::file(path).layers(&text);
            let session = merged.extract_inner::<session::Settings>("session");
            let login = merged.extract_inner::<LoginSection>("login");
            assert!(session.is_ok() && login.is_ok(), "{block}");
            if !block.contains("[providers.") {
                continue;
            }
            let providers =
                merged.extract_inner::<BTreeMap<String, provider::Settings>>("providers");
            let profiles = providers
                .unwrap()
                .into_values()
                .map(|settings| settings.profile);
            for profile in profiles {
                assert!(profile::find(&profile.unwrap()).is_some(), "{block}");
                count += 1;
            }
        }
    }
    assert!(count >= 6, "{count}");
}

#[test]
fn sessions_on_disk_need_a_key_file_and_a_session_file() {
    let with = |login: &str, store: &str| {
        let written = TestSettings::new(&format!("{SMALL}[login]\n{login}\n[session]\n{store}\n"));
        written.file("keys", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n");
        written.file("notes.txt", "not sessions");
        written
    };
    let keys = "state_key_file = \"@/keys\"";
    let good = with(keys, "store.disk.file = \"@/sessions.redb\"");
    let config = good.load().unwrap();
    let file = good.folder.path().join("sessions.redb");
    assert!(!file.exists(), "loading settings must not create the file");
    let expected = session::StoreSettings::Disk(session::DiskSettings { file });
    assert_eq!(config.session.0.store, expected);
    assert!(with(keys, "store = \"memory\"").load().is_ok());
    for (login, store, key, reason) in [
        (
            "",
            "store.disk.file = \"@/sessions.redb\"",
            "login.state_key_file",
            "is required: the keys in this file seal the sessions on disk",
        ),
        (
            keys,
            "store.disk.file = \"@/notes.txt\"",
            "session.store.disk.file",
            "notes.txt is not a session file",
        ),
        (
            keys,
            "store.disk.file = \"@/nowhere/sessions.redb\"",
            "session.store.disk.file",
            "nowhere/sessions.redb does not exist; create it",
        ),
        (keys, "store = \"mysql\"", "session.store", "`mysql`"),
        (
            "",
            "store.redis.urls = [\"redis://127.0.0.1\"]",
            "login.state_key_file",
            "is required: the keys in this file seal the sessions in the store",
        ),
        (
            keys,
            "store.redis = { urls = [\"redis://a\"], password_file = \"@/nowhere\" }",
            "session.store.redis",
            "nowhere cannot be read",
        ),
    ] {
        let problems = with(login, store).problems();
        assert_eq!(keys_of(&problems), [key], "{problems:#?}");
        assert!(problems[0].contains(reason), "{problems:#?}");
    }
    let problems = with(keys, "store.disk.fille = \"@/sessions.redb\"").problems();
    assert!(
        problems[0].contains("did you mean `file`?"),
        "{problems:#?}"
    );
}
