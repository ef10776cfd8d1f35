//! Complete logins with the embedded authorization server, in both of its versions.

use std::time::Duration;

use sidegate::clock::Clock;
use sidegate::demo::{
    App, AppSettings, AuthorizationServer, AuthorizationServerSettings, Client, Fault, ProviderKind,
};
use sidegate::secret::Secret;

use crate::support::browser::Browser;
use crate::support::browser_request::BrowserRequest;
use crate::support::gateway::{Gateway, Settings};
use crate::support::provider::CLIENT_SECRET;
use crate::support::scene::{ORIGIN, SESSION, assert_nothing_opened, url};
use crate::support::webdriver::Chromium;

struct Passport {
    gateway: Gateway,
    provider: AuthorizationServer,
    app: App,
}

/// The server and the gateway use one clock, like two machines with synchronised clocks.
fn server(kind: ProviderKind, clock: &Clock) -> AuthorizationServerSettings {
    let client = Client {
        id: "3".to_owned(),
        secret: Some(Secret::new(CLIENT_SECRET.to_owned())),
        redirect_uris: vec![url("/oauth2/callback")],
        post_logout_redirect_uris: Vec::new(),
        logout: None,
    };
    AuthorizationServerSettings {
        kind,
        clients: vec![client],
        clock: clock.clone(),
        ..AuthorizationServerSettings::default()
    }
}

impl Passport {
    async fn start(kind: ProviderKind, more: &str) -> Self {
        Self::with_lifetime(kind, more, Duration::from_hours(731 * 24)).await
    }

    /// A server whose access tokens have this lifetime.
    async fn with_lifetime(kind: ProviderKind, more: &str, lifetime: Duration) -> Self {
        let clock = Clock::manual(Clock::system().now());
        let mut server = server(kind, &clock);
        server.access_token_lifetime = lifetime;
        let provider = AuthorizationServer::start(server).await.unwrap();
        let key = provider.public_key_pem().to_owned();
        let mut app = AppSettings::new(key.clone(), "3");
        app.address = ([127, 0, 0, 1], 0).into();
        app.clock = clock.clone();
        let app = App::start(app).await.unwrap();
        let settings = Settings::new(
            ORIGIN,
            &provider.base_url(),
            &format!("http://{}", app.address()),
        );
        let key = settings.file("oauth-public.key", &key);
        let secret = settings.file("secret", CLIENT_SECRET);
        let profile = kind.profile();
        let section = format!(
            "[providers.main]\nprofile = \"{profile}\"\nurl = \"{}\"\nclient_id = \"3\"\n\
             client_secret_file = \"{secret}\"\naccess_token.public_key_files = [\"{key}\"]\n{more}",
            provider.base_url()
        );
        let gateway = Gateway::with_clock(settings.provider(&section), clock);
        Self {
            gateway,
            provider,
            app,
        }
    }

    fn browser(&self) -> Browser {
        Browser::new().leading(ORIGIN, self.gateway.address())
    }
}

#[tokio::test]
async fn both_versions_sign_people_in_and_the_app_verifies_the_bearer() {
    for kind in [ProviderKind::Passport12, ProviderKind::Passport13] {
        for body in ["form", "json"] {
            let more = format!("token_request.body = \"{body}\"\n");
            let passport = Passport::start(kind, &more).await;
            let browser = passport.browser();
            let page = browser.sign_in(&url("/whoami"), "alice", "password").await;
            let who = page.json();
            assert_eq!(who["authenticated"], true, "{who}");
            assert_eq!(who["subject"], "17", "{who}");
            for _ in 0..3 {
                assert_eq!(browser.fetch(&url("/whoami")).await.json()["subject"], "17");
            }
            assert_eq!(passport.provider.exchanges(), 1);
            let sent = passport.provider.last_token_request().await.unwrap();
            assert_eq!(sent.method, "POST");
            assert_eq!(sent.headers["accept"], "application/json");
            let kind = sent.headers["content-type"].to_str().unwrap().to_owned();
            assert!(kind.contains(body), "{kind}");
        }
    }
}

#[tokio::test]
async fn a_wrong_password_opens_nothing() {
    let passport = Passport::start(ProviderKind::Passport13, "").await;
    let browser = passport.browser();
    let page = browser.open(&url("/")).await;
    let page = browser.follow(&page).await;
    let form = page.login_form();
    let names = (form.user_field().unwrap(), form.password_field().unwrap());
    let page = browser
        .submit(&page, &form, &[(names.0, "alice"), (names.1, "wrong")])
        .await;
    assert_eq!((page.status.as_u16(), page.location()), (422, None));
    assert_eq!(browser.cookie(ORIGIN, SESSION), None);
    assert_eq!(
        (passport.provider.exchanges(), passport.app.requests()),
        (0, 0)
    );
}

#[tokio::test]
async fn the_userinfo_names_the_user() {
    let more = "userinfo_endpoint = \"/api/user\"\n\
                identity = { source = \"userinfo\", emails_verified = \"timestamp\", claims = \
                { subject = \"id\", email_verified = \"email_verified_at\" } }\n";
    let passport = Passport::start(ProviderKind::Passport13, more).await;
    let page = passport
        .browser()
        .sign_in(&url("/whoami"), "alice", "password")
        .await;
    let fields = page.json()["fields"].to_string();
    assert!(
        fields.contains("alice@example.com") && fields.contains("17"),
        "{fields}"
    );
}

#[tokio::test]
async fn a_token_of_another_key_opens_no_session() {
    let clock = Clock::manual(Clock::system().now());
    let other = AuthorizationServer::start(server(ProviderKind::Passport13, &clock))
        .await
        .unwrap();
    let provider = AuthorizationServer::start(server(ProviderKind::Passport13, &clock))
        .await
        .unwrap();
    let settings = Settings::new(ORIGIN, &provider.base_url(), "http://127.0.0.1:1");
    let key = settings.file("oauth-public.key", other.public_key_pem());
    let secret = settings.file("secret", CLIENT_SECRET);
    let section = format!(
        "[providers.main]\nprofile = \"laravel-passport-13\"\nurl = \"{}\"\nclient_id = \"3\"\n\
         client_secret_file = \"{secret}\"\naccess_token.public_key_files = [\"{key}\"]\n",
        provider.base_url()
    );
    let gateway = Gateway::with_clock(settings.provider(&section), clock);
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    let callback = browser
        .sign_in_until_callback(&url("/"), "alice", "password")
        .await;
    let page = browser.follow(&callback).await;
    assert_eq!(page.status, 502, "{}", page.describe());
    assert_eq!(browser.cookie(ORIGIN, SESSION), None);
}

#[tokio::test]
async fn faults_of_the_token_endpoint_open_no_session_and_are_not_repeated() {
    let passport = Passport::start(ProviderKind::Passport13, "").await;
    let elsewhere = "http://127.0.0.1:1/".parse().unwrap();
    let faults = [
        (Fault::Drop, 0, "503 provider_call_failed"),
        (Fault::LoseAnswer, 1, "503 provider_call_failed"),
        (
            Fault::Redirect(elsewhere),
            0,
            "502 token_endpoint_redirected",
        ),
    ];
    for (fault, counted, refused) in faults {
        let before = passport.provider.exchanges();
        passport.provider.fail_next(fault.clone()).await;
        let browser = passport.browser();
        let callback = browser
            .sign_in_until_callback(&url("/"), "alice", "password")
            .await;
        let page = browser.follow(&callback).await;
        assert_nothing_opened(&browser, &page, refused, &format!("{fault:?}"));
        assert_eq!(passport.provider.exchanges(), before + counted, "{fault:?}");
        // The next login works.
        let page = passport
            .browser()
            .sign_in(&url("/whoami"), "alice", "password")
            .await;
        assert_eq!(page.json()["subject"], "17");
    }
}

#[tokio::test]
async fn both_versions_refresh_a_token_and_a_refused_refresh_ends_the_session() {
    const LIFE: Duration = Duration::from_mins(10);
    for kind in [ProviderKind::Passport12, ProviderKind::Passport13] {
        let passport = Passport::with_lifetime(kind, "", LIFE).await;
        let browser = passport.browser();
        browser.sign_in(&url("/"), "alice", "password").await;
        for refreshes in 1..4 {
            passport.gateway.advance(LIFE);
            // The app checks the token's expiry itself.
            let seen = browser.fetch(&url("/whoami")).await.json();
            assert_eq!(seen["token"], "signature checked", "{seen}");
            assert_eq!(seen["subject"], "17", "{seen}");
            assert_eq!(passport.provider.refreshes(), refreshes);
        }
        passport.gateway.advance(LIFE);
        passport.provider.revoke_all().await;
        let page = browser.open(&url("/page")).await;
        let to = page.location().unwrap();
        let endpoint = passport.provider.authorization_endpoint();
        assert!(to.as_str().starts_with(&endpoint), "{kind:?}: {to}");
        assert_eq!(passport.provider.refreshes(), 4);
        assert_eq!(browser.fetch(&url("/")).await.status, 401, "{kind:?}");
    }
}

#[tokio::test]
async fn a_person_signs_in_through_the_form_in_a_real_browser() {
    let passport = Passport::start(ProviderKind::Passport13, "").await;
    let browser = Chromium::leading("localhost:80", passport.gateway.address()).await;
    browser.open("http://localhost/").await;
    browser.log_in("alice", "password").await;
    let text = browser.wait_for(|url| url == "http://localhost/").await;
    assert!(
        text.contains("17") && text.contains("signature checked"),
        "{text}"
    );
    assert_eq!(passport.provider.exchanges(), 1);
    browser
        .run(
            "const form = document.querySelector('form[action=\"/notes\"]'); \
             form.querySelector('input:not([type=hidden]), textarea').value = 'a <b>'; \
             form.submit()",
        )
        .await;
    let text = browser.wait_for(|url| url.ends_with("/notes")).await;
    assert!(text.contains("a <b>"), "{text}");
    browser.open("http://localhost/oauth2/sign_out").await;
    browser
        .run("document.querySelector('form button').click()")
        .await;
    browser.wait_for(|url| url.ends_with("signed_out")).await;
    let page = passport
        .browser()
        .send(BrowserRequest::fetch(&url("/whoami")))
        .await;
    assert_eq!(page.status, 401);
}
