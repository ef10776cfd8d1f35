//! The command `explain` and the running gateway say the same.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use sidegate::config::{Config, Reusable, Source};
use sidegate::gateway::{Question, QuestionError};
use sidegate::instance::Explainer;
use tokio::process::Command;

use crate::support::gateway::{PROGRAM, Settings};
use crate::support::raw::exchange;
use crate::support::scene::{ORIGIN, Scene};
use crate::support::upstream::Recorded;

const TARGETS: &str = include_str!("../data/targets.txt");
const UNUSUAL: &str = include_str!("../data/unusual_targets.txt");
const EXPLANATIONS: &str = include_str!("../data/explanations.txt");

/// Routes with each kind of rule, destination and path.
const ROUTES: &str = r#"
[[auth_check.proxies]]
networks = ["127.0.0.9"]
kind = "nginx"
[[routes]]
allow_in_path = ["encoded_slash", "empty_segment"]
[[routes]]
prefix = "/public"
access = "public"
allow_in_path = ["encoded_slash", "non_utf8"]
[[routes]]
prefix = "/admin"
access.any_of.groups = ["admins"]
allow_in_path = ["encoded_slash", "empty_segment", "backslash", "non_utf8"]
[[routes]]
prefix = "/staff"
access.any_of.groups = ["admins", "staff"]
bearer = "none"
[[routes]]
prefix = "/trial"
access.any_of.email_domains = ["example.org"]
enforce = false
[[routes]]
prefix = "/wiki"
rewrite.app_prefix = "/w/"
[[routes]]
prefix = "/gone"
access = "public"
answer.status = 410
[[routes]]
prefix = "/note"
answer = { body_file = "NOTE", content_type = "text/plain" }
[[routes]]
prefix = "/checked"
upstream = ""
"#;

/// The claims that the provider sends about the user `alice`.
fn claims() -> Map<String, Value> {
    let claims = json!({
        "sub": "alice", "name": "alice of Example", "email": "alice@example.com",
        "email_verified": true, "preferred_username": "alice", "groups": ["staff"],
    });
    claims.as_object().unwrap().clone()
}

/// A running gateway, and an explainer with the same settings.
struct Pair {
    scene: Scene,
    offline: Explainer,
    cookie: String,
}

impl Pair {
    async fn new() -> Self {
        let scene = Scene::with_settings(|settings| {
            let note = settings.file("note.txt", "note");
            settings.with(&ROUTES.replace("NOTE", &note))
        })
        .await;
        let (path, clock) = (scene.gateway.settings().write(), scene.gateway.clock());
        let config = Config::load(&Source::file(path), &Reusable::default(), clock).unwrap();
        let offline = Explainer::offline(config, clock).unwrap();
        scene.provider.user_members(Value::from(claims()));
        let cookie = scene.cookie("alice").await;
        Self {
            scene,
            offline,
            cookie,
        }
    }

    /// Explains a request, offline and by the running gateway.
    fn explain(&self, (method, path): (&str, &str), is_user: bool) -> Option<Value> {
        let (url, claims) = (format!("{ORIGIN}{path}"), claims());
        let question = Question {
            method,
            url: &url,
            claims: is_user.then_some(&claims),
            provider: None,
        };
        let running = self.scene.gateway.explainer();
        let [offline, running] = [&self.offline, &running].map(|explainer| {
            let explanation = explainer.explain(&question);
            explanation.map(|explanation| serde_json::to_value(&explanation).unwrap())
        });
        assert_eq!(offline, running, "{method} {path}");
        match offline {
            Err(QuestionError::Url) => None,
            explained => Some(explained.unwrap()),
        }
    }

    /// Sends a request. Returns the status, the text of the answer, and the request that the app
    /// has got.
    async fn send(
        &self,
        (method, path): (&str, &str),
        fields: &str,
    ) -> (u16, String, Option<Recorded>) {
        let before = self.scene.app.count();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\
             Connection: close\r\n{fields}\r\n"
        );
        let outcome = exchange(self.scene.gateway.address(), request.as_bytes(), 1).await;
        let mut arrived = self.scene.app.requests().split_off(before);
        let answer = &outcome.responses[0];
        (answer.status(), answer.text(), arrived.pop())
    }

    /// Fails unless the explanation and the gateway say the same. Returns the decision.
    async fn compare(&self, request: (&str, &str), is_user: bool) -> String {
        let cookie = format!("Cookie: {}\r\n", self.cookie);
        let fields = if is_user { cookie } else { String::new() };
        let (status, text, arrived) = self.send(request, &fields).await;
        let Some(explained) = self.explain(request, is_user) else {
            assert_eq!((status, arrived.is_none()), (400, true), "{request:?}");
            return "not a URL".to_owned();
        };
        let context = format!("{request:?} {is_user} {status} {text}: {explained:#}");
        let decision = explained["decision"].as_str().unwrap();
        if let Some(expected) = explained["status"].as_u64() {
            assert_eq!(u64::from(status), expected, "{context}");
            assert!(arrived.is_none(), "{context}");
            let reason = explained["reason"].as_str().unwrap_or_default();
            assert!(text.contains(reason), "{context}");
        } else if decision == "own" {
            assert!(arrived.is_none(), "{context}");
        } else if explained["route"]["upstream"].is_null() {
            assert_eq!((status, arrived.is_none()), (404, true), "{context}");
        } else {
            assert_eq!(status, 200, "{context}");
            compare_fields(&explained["app_request"], &arrived.unwrap(), &context);
        }
        decision.to_owned()
    }
}

/// Fails unless the app has got the path and the fields of the explanation.
fn compare_fields(explained: &Value, arrived: &Recorded, context: &str) {
    assert_eq!(explained["path"], arrived.target(), "{context}");
    let written = explained["written_fields"].as_array().unwrap();
    for field in written {
        let name = field["name"].as_str().unwrap();
        let values = arrived.head.values(name);
        assert!(!values.is_empty(), "{name}: {context}");
        if !field["values"].is_null() {
            assert_eq!(field["values"], json!(values), "{name}: {context}");
        }
    }
    for name in [
        "authorization",
        "x-forwarded-user",
        "x-forwarded-email",
        "x-forwarded-groups",
    ] {
        let is_written = written.iter().any(|field| field["name"] == name);
        let is_received = !arrived.head.values(name).is_empty();
        assert_eq!(is_written, is_received, "{name}: {context}");
    }
}

/// Segments of random paths: the prefixes of the routes, and other spellings of these prefixes.
const SEGMENTS: &str = "public admin staff trial wiki gone note checked oauth2 Admin PUBLIC \
                        %61dmin sta%66f admin. x caf%C3%A9 a%E9";

/// Numbers that look random and are the same in each run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    /// A path that different programs may read as different paths.
    fn path(&mut self) -> String {
        let routes: Vec<&str> = SEGMENTS.split(' ').collect();
        let joints = [
            "//", "%2f", "%2F", "\\", "%5c", "/./", "/../", "/%2e%2e/", "/..;/", ";x=1/", "%252f",
            "%00", "%E9", "%20/", "/..%2f", "%", "?q=/../", ".", "%5C..%5c",
        ];
        let mut path = "/".to_owned();
        for _ in 0..=self.below(3) {
            path.push_str(self.pick(&routes));
            let joint = if self.below(4) == 0 {
                self.pick(&joints)
            } else {
                "/"
            };
            path.push_str(joint);
        }
        path
    }
}

#[tokio::test]
async fn explain_and_the_gateway_agree_on_random_requests() {
    let pair = Pair::new().await;
    let mut numbers = Numbers(20);
    let mut decisions = BTreeMap::<String, usize>::new();
    for _ in 0..1000 {
        let method = numbers.pick(&[
            "GET", "GET", "GET", "POST", "DELETE", "OPTIONS", "get", "TRACE",
        ]);
        let (path, is_user) = (numbers.path(), numbers.below(2) == 1);
        let decision = pair.compare((method, &path), is_user).await;
        *decisions.entry(decision).or_default() += 1;
    }
    for decision in [
        "permit",
        "challenge",
        "forbid",
        "own",
        "refuse",
        "would_forbid",
    ] {
        let count = decisions.get(decision).copied().unwrap_or_default();
        assert!(count >= 10, "{decision}: {decisions:?}");
    }
}

/// The targets of a table that are text. `\\` is a backslash, and `\xNN` is a byte.
fn targets(table: &str) -> impl Iterator<Item = String> {
    let rows = table.lines().filter(|line| !line.starts_with('#'));
    let targets = rows.filter_map(|row| row.split('\t').nth(1));
    let text = targets.filter(|target| target.starts_with('/') && !target.contains("\\x"));
    text.map(|target| target.replace("\\\\", "\\"))
}

#[tokio::test]
async fn explain_and_the_gateway_agree_on_the_tables_of_targets() {
    let pair = Pair::new().await;
    let mut count = 0;
    for target in targets(TARGETS).chain(targets(UNUSUAL)) {
        // The raw client sends the target unchanged, so it must be one word.
        if target.len() < 8000 && !target.contains([' ', '\r', '\n']) {
            pair.compare(("GET", &target), true).await;
            count += 1;
        }
    }
    assert!(count > 150, "{count}");
}

#[tokio::test]
async fn each_part_of_a_decision_is_explained() {
    let pair = Pair::new().await;
    let rows = EXPLANATIONS.lines().filter(|line| !line.starts_with('#'));
    let mut count = 0;
    for row in rows {
        let [request, user, decision, status, why] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("not five columns: {row:?}")
        };
        let (request, is_user) = (request.split_once(' ').unwrap(), user != "-");
        assert_eq!(pair.compare(request, is_user).await, decision, "{row}");
        let explained = pair.explain(request, is_user).unwrap();
        let found = explained["status"]
            .as_u64()
            .map(|status| status.to_string());
        assert_eq!(found.as_deref().unwrap_or("-"), status, "{row}");
        let said = explained["why"].as_str().unwrap();
        assert!(said.contains(why), "{row}: {said}");
        count += 1;
    }
    assert!(count >= 18, "{count}");
}

#[tokio::test]
async fn each_reading_names_its_routes_and_the_forms_that_they_refuse() {
    let pair = Pair::new().await;
    let explained = pair.explain(("GET", "/admin%5Cx"), false).unwrap();
    let readings = explained["readings"].as_array().unwrap();
    let read = |path: &str| {
        let mut found = readings.iter().filter(|reading| reading["path"] == path);
        found.next().unwrap()["routes"].clone()
    };
    assert_eq!(
        read("/admin/x"),
        json!([{ "name": "/admin", "refused_forms": "" }])
    );
    let outside = json!([{ "name": "/", "refused_forms": "backslash" }]);
    assert_eq!(read("/adminx"), outside);
    assert_eq!(explained["reason"], "target_hidden_separator");
}

#[tokio::test]
async fn p_37_p_60_another_spelling_names_its_normal_form_and_all_its_routes() {
    let pair = Pair::new().await;
    let explained = pair.explain(("GET", "/ADM%C4%B1N;x/y"), true).unwrap();
    assert_eq!(explained["route"]["covers"], "/admin/y");
    let routes = ["/admin", "/"].map(|name| json!({ "name": name, "refused_forms": "" }));
    assert_eq!(explained["readings"][0]["routes"], json!(routes));
    let exact = pair.explain(("GET", "/admin/y"), true).unwrap();
    assert_eq!(exact["route"]["covers"], Value::Null);
    // The rule of the route `/` does not contain the rule of the route `/a`.
    let settings = Settings::new(ORIGIN, "http://127.0.0.1:1", "http://127.0.0.1:1").with(
        "[[routes]]\naccess.any_of.groups = [\"b\"]\n\
         [[routes]]\nprefix = \"/a\"\naccess.any_of.groups = [\"a\"]\n",
    );
    let (code, said, errors) = run(&settings.write(), &["/%C2%A0A"]).await;
    assert_eq!((code, &*errors), (2, ""), "{said}");
    for line in [
        "  reading   /%C2%A0A -> route /a, /",
        "  decision  no_route (404, reason no_route): apps may read the path as a path of several \
         routes, and no rule of these routes is as strict as all others",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\n{said}");
    }
}

#[tokio::test]
async fn a_path_is_for_the_first_public_url_and_an_unknown_host_is_refused() {
    let pair = Pair::new().await;
    let question = |url| Question {
        method: "GET",
        url,
        claims: None,
        provider: None,
    };
    for (url, reason) in [("http://other.test/x", "unknown_host"), ("/x", "no_cookie")] {
        let explanation = pair.offline.explain(&question(url)).unwrap();
        let explained = serde_json::to_value(&explanation).unwrap();
        assert_eq!(explained["reason"], reason, "{url}");
        assert!(!explanation.is_permitted());
    }
}

#[tokio::test]
async fn every_field_that_explain_lists_is_removed() {
    let pair = Pair::new().await;
    let explained = pair.explain(("GET", "/public/x"), false).unwrap();
    let removed = explained["app_request"]["removed_fields"]
        .as_array()
        .unwrap();
    assert!(removed.len() > 30, "{removed:?}");
    let mut fields = String::new();
    for name in removed {
        let name = name.as_str().unwrap().replace('*', "more");
        // These fields change the framing or the connection.
        if ![
            "connection",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
        ]
        .contains(&&*name)
        {
            fields.extend([&*name, ": canary\r\n"]);
        }
    }
    let (status, _, arrived) = pair.send(("GET", "/public/x"), &fields).await;
    assert_eq!(status, 200);
    let head = format!("{:?}", arrived.unwrap().head);
    assert!(!head.contains("canary"), "{head}");
}

/// Runs `sidegate explain`. Returns the exit code, the output and the error output.
async fn run(settings: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(PROGRAM);
    command.args(["explain", "--config"]).arg(settings);
    let output = command.args(arguments).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

fn settings() -> Settings {
    let nowhere = "http://127.0.0.1:1";
    let settings = Settings::new("https://app.test", nowhere, nowhere);
    let (key, password, keys) = (
        settings.file("key", &rcgen::KeyPair::generate().unwrap().serialize_pem()),
        settings.file("password", "canary\n"),
        settings.file("keys", "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
    );
    settings.file("claims.json", &Value::from(claims()).to_string());
    settings.with(&format!(
        "[session]\nstore.disk.file = \"{keys}.sessions\"\n\
         [login]\nstate_key_file = \"{keys}\"\n\
         [assertions]\nsigned = {{}}\nfields.X-Name = {{ claim = \"name\" }}\n\
         fields.X-Key = {{ constant = \"canary\" }}\n[signing]\nkey_files = [\"{key}\"]\n\
         [[routes]]\n[[routes]]\nprefix = \"/basic\"\n\
         basic = {{ user = {{ claim = \"email\" }}, password_file = \"{password}\" }}\n\
         [[routes]]\nprefix = \"/admin\"\naccess.any_of.groups = [\"admins\"]\n"
    ))
}

#[tokio::test]
async fn the_command_prints_the_explanation_and_no_secret() {
    let settings = settings();
    let path = settings.write();
    let claims = path.with_file_name("claims.json").display().to_string();
    let user = ["--as", &*claims];
    let (code, said, errors) = run(&path, &[&["/x?q=1"][..], &user].concat()).await;
    assert_eq!((code, &*errors), (0, ""), "{said}");
    assert!(!path.with_file_name("keys.sessions").exists());
    for line in [
        "GET /x?q=1",
        "  user      alice of the provider main, email alice@example.com, groups staff",
        "  target    app.test/x?q=1",
        "  reading   /x -> route /",
        "  route     / (prefix /, upstream app, providers main)",
        "  rule      signed-in",
        "  decision  permit: the route admits every user who is signed in",
        "  path      /x?q=1",
        "  writes    authorization (the value is secret)",
        "  writes    x-forwarded-user: alice",
        "  writes    x-key",
        "  writes    x-name: alice of Example",
        "  writes    x-sidegate-assertion (the value is secret)",
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\n{said}");
    }
    let (_, said, _) = run(&path, &["/ADM%C4%B1N/x"]).await;
    let line = "  covers    apps may read the path as /admin/x, so the prefix /admin covers it";
    assert!(said.lines().any(|said| said == line), "{line}\n{said}");
    let (code, json, _) = run(
        &path,
        &[&["https://app.test/basic", "--json"][..], &user].concat(),
    )
    .await;
    let explained: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &explained["decision"]), (0, &json!("permit")));
    for text in [said, json] {
        for secret in [
            "canary",
            "Basic ",
            "Bearer ",
            "eyJ",
            "access-token",
            "id-token",
        ] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
}

#[tokio::test]
async fn the_exit_code_says_whether_the_request_is_permitted() {
    let settings = settings();
    let path = settings.write();
    let claims = path.with_file_name("claims.json").display().to_string();
    let other = settings.file("other.json", "{\"name\": \"nobody\"}");
    let list = settings.file("list.json", "[]");
    for (arguments, expected, said) in [
        (
            &["/x", "--anonymous"][..],
            2,
            "decision  challenge (401, reason no_cookie)",
        ),
        (
            &["/admin", "--as", &claims],
            2,
            "decision  forbid (403, reason rule)",
        ),
        (
            &["http://app.test/x"],
            2,
            "(403, reason insecure_transport)",
        ),
        (&["/x//y"], 2, "does not allow empty_segment"),
        (&["/oauth2/sign_in"], 0, "decision  own"),
        (&["x"], 1, "the URL is not valid"),
        (&["/x", "--method", "G T"], 1, "the method is not valid"),
        (&["/x", "--as", &other], 1, "the claims contain no subject"),
        (&["/x", "--as", &list], 1, "not a JSON object"),
        (
            &["/x", "--as", &claims, "--provider", "b"],
            1,
            "there is no provider `b`",
        ),
        (
            &["/x", "--as", &claims, "--anonymous"],
            64,
            "cannot be used with",
        ),
    ] {
        let (code, output, errors) = run(&path, arguments).await;
        assert_eq!(code, expected, "{arguments:?} {output} {errors}");
        let shown = if matches!(code, 0 | 2) {
            output
        } else {
            errors
        };
        assert!(shown.contains(said), "{arguments:?} {shown}");
    }
}
