//! Groups from lists with several pages, such as the organizations and teams of GitHub.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::browser::Page;
use crate::support::gateway::{Process, Settings};
use crate::support::provider::StandIn;
use crate::support::scene::{ORIGIN, Scene, url};
use crate::support::upstream::{Answer, Recorded, RecordingUpstream};

const ROUTES: &str = "[[routes]]\n\
    [[routes]]\nprefix = \"/org\"\naccess.any_of.groups = [\"acme\"]\n\
    [[routes]]\nprefix = \"/team\"\naccess.any_of.groups = [\"acme/ops\"]\n\
    [[routes]]\nprefix = \"/other\"\naccess.any_of.groups = [\"ops\", \"evil/admins\"]\n";

/// Gateway, provider, app, and the server of the lists.
struct Lists {
    process: Process,
    provider: StandIn,
    app: RecordingUpstream,
    api: RecordingUpstream,
}

/// The keys of a provider with the lists of `api`.
fn keys(api: &RecordingUpstream) -> String {
    format!(
        "identity.groups_endpoints = [{{ endpoint = \"{0}/user/orgs\", name = [\"login\"] }}, {{ \
         endpoint = \"{0}/user/teams?per_page=2\", name = [\"organization.login\", \"slug\"] }}]\n",
        api.url()
    )
}

/// Answers each page of the teams with a link to the next page. `last` is the number of pages.
fn answer(
    api: &RecordingUpstream,
    teams: impl Fn(u32) -> Value + Send + Sync + 'static,
    last: u32,
) {
    let base = api.url();
    api.answer_by(move |request| {
        let target = request.target();
        if target == "/user/orgs" {
            let orgs = json!([{ "login": "acme" }, { "login": "evil/admins" }]);
            return page(&orgs, None);
        }
        let number = target
            .rsplit_once("&page=")
            .map_or(1, |(_, n)| n.parse().unwrap());
        let next = format!("{base}/user/teams?per_page=2&page={}", number + 1);
        page(&teams(number), (number < last).then_some(&*next))
    });
}

fn targets(api: &RecordingUpstream) -> Vec<String> {
    api.requests().iter().map(Recorded::target).collect()
}

impl Lists {
    async fn start() -> Self {
        let provider = StandIn::start().await;
        let [app, api] = [
            RecordingUpstream::start().await,
            RecordingUpstream::start().await,
        ];
        let settings = Settings::new(ORIGIN, &provider.url(), &app.url());
        let settings = settings.of_provider(&keys(&api)).with(ROUTES);
        let process = Process::start(settings).await;
        Self {
            process,
            provider,
            app,
            api,
        }
    }

    fn browser(&self) -> Browser {
        let browser = Browser::new().leading(ORIGIN, self.process.address());
        browser.plant(&self.provider.url(), "user=alice; Path=/");
        browser
    }
}

fn page(body: &Value, next: Option<&str>) -> Answer {
    let link = next.map(|next| format!("<{ORIGIN}/x>; rel=\"prev\", <{next}>; rel=\"next\""));
    let mut fields = vec![("Content-Type", "application/json")];
    fields.extend(link.as_deref().map(|link| ("Link", link)));
    Answer::with(200, &fields, &body.to_string())
}

fn team(slug: &str) -> Value {
    json!([{ "slug": slug, "organization": { "login": "acme" } }])
}

async fn statuses(browser: &Browser) -> Vec<u16> {
    let mut statuses = Vec::new();
    for path in ["/org", "/team", "/other"] {
        let page: Page = browser.open(&url(path)).await;
        statuses.push(page.status.as_u16());
    }
    statuses
}

#[tokio::test]
async fn rules_see_organizations_and_the_teams_of_every_page_and_a_refresh_keeps_them() {
    let api = RecordingUpstream::start().await;
    let scene = Scene::with_routes(ROUTES, &keys(&api)).await;
    answer(
        &api,
        |number| team(if number == 3 { "ops" } else { "dev" }),
        3,
    );
    scene.provider.token_members(json!({ "expires_in": 60 }));
    scene.provider.user_members(json!({ "groups": ["staff"] }));
    let browser = scene.signed_in("alice").await;
    assert_eq!(statuses(&browser).await, [200, 200, 403]);
    let teams = "/user/teams?per_page=2";
    assert_eq!(
        targets(&api),
        [
            "/user/orgs".to_owned(),
            teams.to_owned(),
            format!("{teams}&page=2"),
            format!("{teams}&page=3"),
        ]
    );
    for request in api.requests() {
        let bearer = request.head.value("authorization").unwrap();
        assert!(bearer.starts_with("Bearer "), "{bearer}");
    }
    let groups = scene.app.last().head.value("x-forwarded-groups");
    assert_eq!(
        groups.as_deref(),
        Some("staff,acme,acme/dev,acme/dev,acme/ops")
    );
    // When the token is refreshed, the server no longer has the lists. The groups stay.
    api.answer_by(|_| Answer::with(500, &[], ""));
    scene.gateway.advance(Duration::from_secs(61));
    assert_eq!(statuses(&browser).await, [200, 200, 403]);
    assert_eq!(scene.provider.refreshes().len(), 1);
    assert_eq!(targets(&api).len(), 4);
}

#[tokio::test]
async fn a_list_that_cannot_be_read_is_a_temporary_failure_that_the_log_locates() {
    let lists = Lists::start().await;
    answer(&lists.api, |_number| team("ops"), 1);
    let signed_in = lists.browser();
    assert_eq!(signed_in.visit(&url("/page")).await.text(), "seen");
    let teams = format!("{}/user/teams?per_page=2", lists.api.url());
    let elsewhere = [
        ("Content-Type", "application/json"),
        ("Link", "<http://127.0.0.1:1/x>; rel=next"),
    ];
    for (answer, why) in [
        (
            Answer::with(403, &[("Content-Type", "application/json")], "{}"),
            "status 403",
        ),
        (Answer::with(404, &[], ""), "status 404"),
        (
            Answer::with(200, &[("Content-Type", "application/json")], "{}"),
            "not an array",
        ),
        (Answer::with(200, &elsewhere, "[]"), "not at the origin"),
        (Answer::raw(b""), "the call failed"),
    ] {
        let before = lists.process.log().len();
        lists
            .api
            .answer_by(move |request| match &*request.target() {
                "/user/orgs" => page(&json!([]), None),
                _ => answer.clone(),
            });
        let failed = lists.browser().visit(&url("/team")).await;
        assert_eq!(failed.status, 503, "{why}: {}", failed.describe());
        assert!(failed.text().contains("groups_failed"), "{}", failed.text());
        lists
            .process
            .wait_for_log(|log| {
                let new = log.get(before..).unwrap_or_default();
                new.contains(&format!("the groups could not be read from {teams}"))
                    && new.contains(why)
            })
            .await;
    }
    // Nobody is signed out.
    assert_eq!(statuses(&signed_in).await, [200, 200, 403]);
}

#[tokio::test]
async fn an_endless_list_is_cut_with_a_warning() {
    let lists = Lists::start().await;
    answer(
        &lists.api,
        |number| team(&format!("team-{number}")),
        u32::MAX,
    );
    let browser = lists.browser();
    assert_eq!(browser.visit(&url("/page")).await.text(), "seen");
    assert_eq!(targets(&lists.api).len(), 11);
    lists
        .process
        .wait_for_log(|log| log.contains("more than 10 pages"))
        .await;
    let groups = lists.app.last().head.value("x-forwarded-groups").unwrap();
    assert!(groups.ends_with("acme/team-10"), "{groups}");
}
