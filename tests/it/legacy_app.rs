//! Radicale behind the gateway: unusual methods, a trusted field, an HTTP/1.0 server with few
//! threads.

use crate::support::browser::{Browser, Page};
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Gateway, Settings};
use crate::support::provider::StandIn;
use crate::support::radicale::Radicale;
use crate::support::scene::{ORIGIN, url};

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

struct Calendars {
    gateway: Gateway,
    provider: StandIn,
    _app: Radicale,
}

impl Calendars {
    async fn start(more: &str) -> Self {
        let provider = StandIn::start().await;
        let app = Radicale::start().await;
        let settings = Settings::new(ORIGIN, &provider.url(), &app.url())
            .app(more)
            .with("[assertions]\nuser = \"X-Remote-User\"\n");
        Self {
            gateway: Gateway::start(settings),
            provider,
            _app: app,
        }
    }

    async fn signed_in(&self, user: &str) -> Browser {
        let browser = Browser::new().leading(ORIGIN, self.gateway.address());
        browser.plant(&self.provider.url(), &format!("user={user}; Path=/"));
        let page = browser.visit(&url("/.web/")).await;
        assert_eq!(page.status, 200, "{}", page.describe());
        browser
    }
}

async fn ask(browser: &Browser, method: &str, path: &str, depth: &str, body: &str) -> Page {
    let visit = BrowserRequest::fetch(&url(path))
        .method(method)
        .field("depth", depth);
    let kind = if body.starts_with("BEGIN") {
        "text/calendar"
    } else {
        "application/xml"
    };
    browser.send(visit.body(kind, body.as_bytes())).await
}

#[tokio::test]
async fn radicale_gets_the_user_and_stores_a_calendar() {
    let calendars = Calendars::start("").await;
    let alice = calendars.signed_in("alice").await;
    let made = ask(&alice, "MKCALENDAR", "/alice/diary/", "0", CALENDAR).await;
    assert_eq!(made.status, 201, "{}", made.describe());
    let put = BrowserRequest::fetch(&url("/alice/diary/one.ics"))
        .method("PUT")
        .field("if-none-match", "*")
        .body("text/calendar", EVENT.as_bytes());
    let put = alice.send(put).await;
    assert_eq!(put.status, 201, "{}", put.describe());
    assert!(put.field("etag").is_some(), "{}", put.describe());
    let found = ask(&alice, "PROPFIND", "/alice/diary/", "1", "").await;
    assert_eq!(found.status, 207, "{}", found.describe());
    assert!(found.text().contains("one.ics"), "{}", found.text());
    let report = ask(&alice, "REPORT", "/alice/diary/", "1", REPORT).await;
    assert_eq!(report.status, 207, "{}", report.describe());
    assert!(report.text().contains("Meeting"), "{}", report.text());
    let event = alice.fetch(&url("/alice/diary/one.ics")).await;
    assert!(event.text().contains("SUMMARY:Meeting"), "{}", event.text());
}

#[tokio::test]
async fn radicale_is_not_deceived_by_fields_of_the_client() {
    let calendars = Calendars::start("").await;
    let alice = calendars.signed_in("alice").await;
    ask(&alice, "MKCALENDAR", "/alice/diary/", "0", CALENDAR).await;
    let mallory = calendars.signed_in("mallory").await;
    for name in [
        "x-remote-user",
        "X_Remote_User",
        "x.remote.user",
        "x-forwarded-user",
    ] {
        let spoofed = BrowserRequest::fetch(&url("/alice/diary/"))
            .method("PROPFIND")
            .field("depth", "0")
            .field(name, "alice");
        let page = mallory.send(spoofed.clone()).await;
        assert_eq!(page.status, 403, "{name}: {}", page.describe());
        let stranger = Browser::new().leading(ORIGIN, calendars.gateway.address());
        assert_eq!(stranger.send(spoofed).await.status, 401, "{name}");
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
        requests.spawn(async move { ask(&alice, "PROPFIND", "/alice/", "0", "").await.status });
    }
    let statuses = requests.join_all().await;
    assert!(statuses.iter().all(|status| *status == 207), "{statuses:?}");
}
