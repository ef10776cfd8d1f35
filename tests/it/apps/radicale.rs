//! Radicale, a `CalDAV` server: unusual methods, a field with the user, programs with passwords of
//! their own, and an HTTP/1.0 server with few threads.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::StatusCode;
use tempfile::TempDir;

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::program::{Program, free_address, installed, project, with_errors_in_output};

use super::{Front, finish_sign_out, forged, nameless, passed, recipe, replaced, settings, url};

const CALENDAR: &str = "<?xml version=\"1.0\"?><C:mkcalendar xmlns:D=\"DAV:\" \
    xmlns:C=\"urn:ietf:params:xml:ns:caldav\"><D:set><D:prop><D:displayname>Work</D:displayname>\
    </D:prop></D:set></C:mkcalendar>";

const EVENT: &str = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//test//EN\r\nBEGIN:VEVENT\r\n\
    UID:one@test\r\nDTSTAMP:20260101T000000Z\r\nDTSTART:20260102T100000Z\r\nSUMMARY:Meeting\r\n\
    END:VEVENT\r\nEND:VCALENDAR\r\n";

const REPORT: &str = "<?xml version=\"1.0\"?><C:calendar-query \
    xmlns:C=\"urn:ietf:params:xml:ns:caldav\" xmlns:D=\"DAV:\"><D:prop><C:calendar-data/></D:prop>\
    <C:filter><C:comp-filter name=\"VCALENDAR\"><C:comp-filter name=\"VEVENT\"/></C:comp-filter>\
    </C:filter></C:calendar-query>";

/// The users and passwords of the programs for calendars.
const USERS: &str = "alice:alice-password\nmallory:mallory-password\n";

/// The gateway in front of both instances of Radicale, as in the recipe.
struct Calendars {
    front: Front,
    _instances: [Program; 2],
    _storage: TempDir,
}

/// Starts an instance of Radicale with settings of the recipe.
async fn instance(storage: &Path, text: &str, values: &[(&str, &str)]) -> Program {
    let program = project("tests/.cache/venv/bin/radicale");
    let collections = storage.join("collections").display().to_string();
    let prepare = |folder: &Path| {
        let text = replaced(text, &[("/var/lib/radicale/collections", &collections)]);
        let text = replaced(&text, values);
        let settings = folder.join("config");
        // Without a pause after a wrong password.
        let text = text.replace("[auth]\n", "[auth]\ndelay = 0\n");
        fs::write(&settings, text).unwrap();
        let mut command = with_errors_in_output(installed(&program));
        command
            .arg("--config")
            .arg(settings)
            .args(["--hosts", &free_address()]);
        command
    };
    Program::start("Listening on ", prepare).await
}

/// The address of an instance.
fn address(instance: &Program) -> String {
    format!("http://{}", instance.address().trim_matches('\''))
}

impl Calendars {
    /// Starts everything. `more` contains more keys of the first instance.
    async fn start(more: &str) -> Self {
        let storage = tempfile::tempdir().unwrap();
        let users = storage.path().join("users");
        fs::write(&users, USERS).unwrap();
        let users = users.display().to_string();
        let files = [("/etc/radicale/users", users.as_str())];
        let [first, second] = recipe("Radicale", "ini")[..] else {
            panic!("not two instances")
        };
        let first = instance(storage.path(), first, &[]).await;
        let second = instance(storage.path(), second, &files).await;
        let (at_first, at_second) = (address(&first), address(&second));
        let addresses = [
            ("http://127.0.0.1:5232", at_first.as_str()),
            ("http://127.0.0.1:5233", &at_second),
        ];
        let settings = settings("Radicale", &addresses);
        let bearer = "bearer = \"none\"\n";
        let settings = settings.replace(bearer, &format!("{bearer}{more}\n"));
        Self {
            front: Front::start(&settings).await,
            _instances: [first, second],
            _storage: storage,
        }
    }

    async fn signed_in(&self, user: &str) -> Browser {
        self.front.sign_in(user, "/.web/").await.0
    }
}

/// A request of a program for calendars.
fn request(method: &str, path: &str, body: &str) -> BrowserRequest {
    let request = BrowserRequest::fetch(&url(path)).method(method);
    let kind = if body.starts_with("BEGIN") {
        "text/calendar"
    } else {
        "application/xml"
    };
    request.field("depth", "1").body(kind, body.as_bytes())
}

/// The same request with a user name and a password.
fn with_password(request: BrowserRequest, user: &str, password: &str) -> BrowserRequest {
    let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
    request.field("authorization", &format!("Basic {credentials}"))
}

#[track_caller]
fn assert_status(page: &Page, status: u16) {
    let expected = StatusCode::from_u16(status).unwrap();
    assert_eq!(page.status, expected, "{}", page.describe());
}

#[tokio::test]
async fn radicale_gets_the_user_and_stores_a_calendar() {
    let calendars = Calendars::start("").await;
    let alice = calendars.signed_in("alice").await;
    let made = request("MKCALENDAR", "/alice/diary/", CALENDAR);
    assert_status(&alice.send(made).await, 201);
    let put = request("PUT", "/alice/diary/one.ics", EVENT).field("if-none-match", "*");
    let put = alice.send(put).await;
    assert_status(&put, 201);
    assert!(put.field("etag").is_some(), "{}", put.describe());
    let found = alice.send(request("PROPFIND", "/alice/diary/", "")).await;
    assert_status(&found, 207);
    assert!(found.text().contains("one.ics"), "{}", found.text());
    let report = alice.send(request("REPORT", "/alice/diary/", REPORT)).await;
    assert_status(&report, 207);
    assert!(report.text().contains("Meeting"), "{}", report.text());
    let event = alice.fetch(&url("/alice/diary/")).await;
    assert!(event.text().contains("SUMMARY:Meeting"), "{}", event.text());
    let page = alice.open(&url("/oauth2/sign_out")).await;
    finish_sign_out(&alice, page).await;
    passed("Radicale", "sign-in, calendars, sign-out");
}

#[tokio::test]
async fn radicale_is_not_deceived_by_fields_of_the_client() {
    let calendars = Calendars::start("").await;
    let alice = calendars.signed_in("alice").await;
    let made = request("MKCALENDAR", "/alice/diary/", CALENDAR);
    assert_status(&alice.send(made).await, 201);
    let mallory = calendars.signed_in("mallory").await;
    for name in ["X-Remote-User", "X-Forwarded-User"] {
        let spoofed = request("PROPFIND", "/alice/diary/", "");
        for spoofed in forged(&spoofed, name, "alice") {
            assert_status(&mallory.send(spoofed).await, 403);
        }
    }
    let front = &calendars.front;
    front
        .assert_needs_a_login("/alice/diary/", "X-Remote-User")
        .await;
    // A password of the second instance does not open the first instance.
    let request = request("PROPFIND", "/alice/diary/", "");
    let request = with_password(request, "alice", "alice-password");
    assert_status(&front.browser().send(request).await, 401);
    let nameless = nameless(front).await;
    let spoofed = BrowserRequest::fetch(&url("/alice/diary/"));
    for spoofed in forged(&spoofed, "X-Remote-User", "alice") {
        assert_status(&nameless.send(spoofed).await, 403);
    }
    passed("Radicale", "forged fields");
}

#[tokio::test]
async fn a_program_with_a_password_shares_the_calendars_of_the_signed_in_user() {
    let calendars = Calendars::start("").await;
    let program = calendars.front.browser();
    let send = async |request| {
        program
            .send(with_password(request, "alice", "alice-password"))
            .await
    };
    let found = send(request("PROPFIND", "/.well-known/caldav", "")).await;
    assert_status(&found, 301);
    assert_eq!(found.location().unwrap().as_str(), url("/dav/"));
    let made = request("MKCALENDAR", "/dav/alice/diary/", CALENDAR);
    assert_status(&send(made).await, 201);
    let put = request("PUT", "/dav/alice/diary/one.ics", EVENT).field("if-none-match", "*");
    assert_status(&send(put).await, 201);
    let found = send(request("PROPFIND", "/dav/alice/diary/", "")).await;
    assert_status(&found, 207);
    let href = "<href>/dav/alice/diary/one.ics</href>";
    assert!(found.text().contains(href), "{}", found.text());
    let report = send(request("REPORT", "/dav/alice/diary/", REPORT)).await;
    assert_status(&report, 207);
    assert!(report.text().contains("Meeting"), "{}", report.text());
    let target = url("/dav/alice/diary/two.ics");
    let moved = request("MOVE", "/dav/alice/diary/one.ics", "").field("destination", &target);
    assert_status(&send(moved).await, 201);
    // The user of the web interface has the same calendar.
    let alice = calendars.signed_in("alice").await;
    let event = alice.fetch(&url("/alice/diary/two.ics")).await;
    assert!(event.text().contains("SUMMARY:Meeting"), "{}", event.text());
    passed("Radicale", "programs with passwords");
}

#[tokio::test]
async fn a_program_needs_its_own_password() {
    let calendars = Calendars::start("").await;
    let program = calendars.front.browser();
    let path = "/dav/alice/";
    let wrong = with_password(request("PROPFIND", path, ""), "alice", "guess");
    let mut requests = forged(&request("PROPFIND", path, ""), "X-Remote-User", "alice");
    requests.extend([wrong, request("PROPFIND", path, "")]);
    for request in requests {
        let page = program.send(request).await;
        assert_status(&page, 401);
        let challenge = page.field("www-authenticate").unwrap_or_default();
        assert!(challenge.starts_with("Basic "), "{}", page.describe());
    }
    let mallory = with_password(request("PROPFIND", path, ""), "mallory", "mallory-password");
    let own = request("PROPFIND", "/dav/mallory/", "");
    let own = with_password(own, "mallory", "mallory-password");
    assert_status(&program.send(own).await, 207);
    for request in forged(&mallory, "X-Remote-User", "alice") {
        assert_status(&program.send(request).await, 403);
    }
}

#[tokio::test]
async fn an_app_with_one_connection_is_never_starved_by_idle_ones() {
    let calendars = Calendars::start("connections = 1\nqueue = 100\nqueue_wait_secs = 60").await;
    let alice = calendars.signed_in("alice").await;
    // With two workers and one connection, a worker with an idle connection has to close the idle
    // connection.
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let alice = alice.clone();
        requests.spawn(async move { alice.send(request("PROPFIND", "/alice/", "")).await.status });
    }
    let statuses = requests.join_all().await;
    assert!(statuses.iter().all(|status| *status == 207), "{statuses:?}");
}
