//! `DokuWiki`, a wiki in PHP. A plugin reads the user from a field.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::form::{forms, links};
use crate::support::program::{Program, installed, with_errors_in_output};
use crate::support::provider::base64url;

use super::{Front, finish_sign_out, forged, nameless, passed, recipe, settings, url};

/// Debian's package.
const HOME: &str = "/usr/share/dokuwiki";

/// The folders of pages and caches, which the installation of `DokuWiki` creates.
const DATA: [&str; 11] = [
    "attic",
    "cache",
    "index",
    "locks",
    "log",
    "media",
    "media_attic",
    "media_meta",
    "meta",
    "pages",
    "tmp",
];

/// Only users of the group `staff` can read and write.
const PERMISSIONS: &str = "*\t@ALL\t0\n*\t@staff\t8\n";

/// Starts `DokuWiki` with the plugin of the recipe and these settings. All files that `DokuWiki`
/// changes are in the folder of the program.
async fn start(settings: &str) -> Program {
    let prepare = |folder: &Path| {
        let [conf, data, plugins] = ["conf", "data", "plugins"].map(|name| folder.join(name));
        fs::create_dir(&conf).unwrap();
        let savedir = format!("$conf['savedir'] = '{}';\n", data.display());
        let local = ["<?php\n", &savedir, settings].concat();
        fs::write(conf.join("local.php"), local).unwrap();
        fs::write(conf.join("acl.auth.php"), PERMISSIONS).unwrap();
        fs::write(conf.join("users.auth.php"), "").unwrap();
        for name in DATA {
            fs::create_dir_all(data.join(name)).unwrap();
        }
        let own = plugins.join("authsidegate");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("auth.php"), recipe("DokuWiki", "php")[0]).unwrap();
        let home = installed(Path::new(HOME));
        for plugin in fs::read_dir(home.join("lib/plugins")).unwrap() {
            let plugin = plugin.unwrap();
            symlink(plugin.path(), plugins.join(plugin.file_name())).unwrap();
        }
        let places = format!(
            "<?php\ndefine('DOKU_CONF', '{}/');\ndefine('DOKU_PLUGIN', '{}/');\n",
            conf.display(),
            plugins.display()
        );
        let prepend = folder.join("places.php");
        fs::write(&prepend, places).unwrap();
        let mut command = with_errors_in_output(installed(Path::new("/usr/bin/php")));
        command
            .arg("-d")
            .arg(format!("auto_prepend_file={}", prepend.display()))
            .args(["-S", "127.0.0.1:0", "-t", HOME]);
        command
    };
    Program::start("Development Server (", prepare).await
}

/// The gateway in front of `DokuWiki`, as in the recipe.
async fn front(wiki: &Program) -> Front {
    let address = wiki.address().trim_end_matches(") started");
    Front::start(&settings("DokuWiki", &[("http://127.0.0.1:8081", address)])).await
}

/// The name of the user in a page of `DokuWiki`.
fn shown_user(page: &Page) -> String {
    let text = page.text();
    let (_, rest) = text
        .split_once("Logged in as: <bdi>")
        .unwrap_or_else(|| panic!("nobody is logged in: {}", page.describe()));
    rest.split_once("</bdi>").unwrap().0.to_owned()
}

/// Fails unless the page of `DokuWiki` refuses access.
fn assert_denied(page: &Page) {
    assert!(
        page.text().contains("Permission Denied"),
        "{}",
        page.describe()
    );
}

/// Writes a page of the wiki with the editor. Returns the page.
async fn write(browser: &Browser, name: &str, text: &str) -> Page {
    let page = url(&format!("/doku.php?id={name}"));
    let editor = browser.open(&format!("{page}&do=edit")).await;
    let all = forms(&editor.text());
    let form = all
        .iter()
        .find(|form| form.fields.iter().any(|field| field.name == "wikitext"))
        .unwrap_or_else(|| panic!("no editor: {}", editor.describe()));
    let mut fields = form.filled(&[("wikitext", text)]);
    fields.push(("do[save]".to_owned(), "1".to_owned()));
    let save = BrowserRequest::navigation(&page)
        .form(&fields)
        .from(editor.url.as_str());
    let saved = browser.send(save).await;
    browser.follow_all(saved).await
}

#[tokio::test]
async fn dokuwiki_knows_the_user_and_the_groups_and_nobody_poses_as_another_user() {
    let wiki = start(recipe("DokuWiki", "php")[1]).await;
    let front = front(&wiki).await;
    let (alice, page) = front.sign_in("alice", "/doku.php").await;
    assert_eq!(shown_user(&page), "alice");
    let written = write(&alice, "plan", "The plan of **alice**.").await;
    assert_eq!(written.status, 200, "{}", written.describe());
    assert!(
        written
            .text()
            .contains("The plan of <strong>alice</strong>"),
        "{}",
        written.describe()
    );
    let revisions = alice.open(&url("/doku.php?id=plan&do=revisions")).await;
    assert!(
        revisions.text().contains("<bdi>alice</bdi>"),
        "{}",
        revisions.describe()
    );
    let (mallory, page) = front.sign_in("mallory", "/doku.php").await;
    assert_eq!(shown_user(&page), "mallory");
    let request = BrowserRequest::navigation(&url("/doku.php?id=plan"));
    let requests = forged(&request, "X-Remote-User", "alice");
    for request in requests.clone() {
        assert_eq!(shown_user(&mallory.send(request).await), "mallory");
    }
    front
        .assert_needs_a_login("/doku.php?id=plan", "X-Remote-User")
        .await;
    // The groups of the provider decide what a user may do in the wiki.
    front
        .provider
        .user_members(json!({ "preferred_username": "carol", "groups": ["guests"] }));
    let (_, page) = front.sign_in("carol", "/doku.php?id=plan").await;
    assert_eq!(shown_user(&page), "carol");
    assert_denied(&page);
    let nameless = nameless(&front).await;
    for request in requests {
        let page = nameless.send(request).await;
        assert!(!page.text().contains("Logged in as"), "{}", page.describe());
        assert_denied(&page);
    }
    passed("DokuWiki", "sign-in, groups, editor, forged fields");
}

#[tokio::test]
async fn a_logout_in_dokuwiki_is_a_sign_out_at_the_gateway() {
    let wiki = start(recipe("DokuWiki", "php")[1]).await;
    let front = front(&wiki).await;
    let (alice, page) = front.sign_in("alice", "/doku.php").await;
    let links = links(&page.text());
    let logout = links.iter().find(|link| link.href.contains("do=logout"));
    let target = page.url.join(&logout.unwrap().href).unwrap();
    let answer = alice.open(target.as_str()).await;
    finish_sign_out(&alice, answer).await;
    passed("DokuWiki", "sign-out");
}

/// The user name that the login form of `DokuWiki` shows to a user whose access token is a JWT.
async fn user_in_login_form(credentials: &str) -> String {
    let own_passwords = "$conf['useacl'] = 1;\n$conf['authtype'] = 'authplain';\n";
    let wiki = start(own_passwords).await;
    let address = wiki.address().trim_end_matches(") started");
    let front = Front::start(&format!(
        "[upstreams.wiki]\nurl = \"{address}\"\n{credentials}"
    ))
    .await;
    let [header, payload] = [r#"{"alg":"RS256","typ":"JWT"}"#, r#"{"sub":"alice"}"#].map(base64url);
    let token = format!("{header}.{payload}.c2lnbmF0dXJl");
    front
        .provider
        .token_members(json!({ "access_token": token }));
    front.provider.user_members(json!({ "sub": "alice" }));
    let (_, page) = front.sign_in("alice", "/doku.php?do=login").await;
    let form = page.login_form();
    let user = form.fields.iter().find(|field| field.name == "u");
    user.unwrap().value.clone()
}

#[tokio::test]
async fn dokuwiki_takes_a_token_for_a_user_name_unless_the_recipe_sends_none() {
    assert_eq!(user_in_login_form("").await, "alg");
    assert_eq!(user_in_login_form("bearer = \"none\"\n").await, "");
}
