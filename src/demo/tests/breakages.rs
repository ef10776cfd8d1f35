//! Tests of the check. With a correct gateway, the check passes. For each breakage, the step that
//! must detect the breakage fails.

use super::fake_gateway::{Breakage, FakeGateway};
use super::*;
use crate::demo::serve::Server;
use crate::demo::{
    App, AppSettings, Check, FailedStep, LogoutEndpoints, Step, StepReport, TokenCalls, User,
};

const HOUR: Duration = Duration::from_hours(1);

/// The mistakes that a test makes in the settings of the app, of the provider, or of the check.
#[derive(Clone, Copy, Debug, Default)]
struct Environment {
    /// The app has the public key of another server.
    foreign_key: bool,
    /// The redirection URI is not registered at the provider.
    unregistered: bool,
    password: Option<&'static str>,
    subject: Option<&'static str>,
    /// The check expects that the app gets this email address. The fake gateway does not send an
    /// email address, so the check must fail.
    email: Option<&'static str>,
}

/// Runs the check, and returns the reported lines and the result.
async fn run(
    breakage: Breakage,
    environment: Environment,
) -> (Vec<String>, Result<(), FailedStep>) {
    let redirect_uri = if environment.unregistered {
        "http://localhost/elsewhere"
    } else {
        "http://localhost/oauth2/callback"
    };
    let client = Client {
        id: "3".into(),
        secret: Some(Secret::new(SECRET.into())),
        redirect_uris: vec![redirect_uri.into()],
        post_logout_redirect_uris: Vec::new(),
        logout: None,
    };
    let clock = Clock::manual(Clock::system().now());
    let settings = || AuthorizationServerSettings {
        clients: vec![client.clone()],
        access_token_lifetime: HOUR,
        clock: clock.clone(),
        ..AuthorizationServerSettings::default()
    };
    let server = AuthorizationServer::start(settings()).await.unwrap();
    let pem = if environment.foreign_key {
        let other = AuthorizationServer::start(settings()).await.unwrap();
        other.public_key_pem().to_owned()
    } else {
        server.public_key_pem().to_owned()
    };
    let mut app = AppSettings::new(pem, "3");
    app.clock = clock.clone();
    let app = App::start(app).await.unwrap();
    let servers = (server.address(), app.address());
    let fake = FakeGateway::new(breakage, servers, clock.clone());
    let public_url = fake.public_url.clone();
    let gateway = fake.start().await;
    server.register(told_of_logouts(client, &gateway)).await;
    let check = Check {
        gateway: gateway.address(),
        public_url,
        provider: server.address(),
        authorization_endpoint: Url::parse(&server.authorization_endpoint()).unwrap(),
        calls: || TokenCalls {
            exchanges: server.exchanges(),
            refreshes: server.refreshes(),
        },
        user: "alice".into(),
        password: Secret::new(environment.password.unwrap_or("password").into()),
        subject: environment.subject.unwrap_or("17").into(),
        fields: environment
            .email
            .map(|email| ("x-forwarded-email", email.into()))
            .into_iter()
            .collect(),
        token_lifetime: HOUR,
        clock,
    };
    let mut lines = Vec::new();
    let mut report = |step: StepReport| lines.push(step.to_string());
    let outcome = check.run(&mut report).await;
    (lines, outcome)
}

/// Returns the client with the endpoints of the gateway.
fn told_of_logouts(client: Client, gateway: &Server) -> Client {
    let logout = LogoutEndpoints {
        address: gateway.address(),
        host: "localhost".into(),
        webhook_key: Secret::new(SECRET.into()),
    };
    Client {
        logout: Some(logout),
        ..client
    }
}

async fn failed(breakage: Breakage, environment: Environment) -> Step {
    let (lines, outcome) = run(breakage, environment).await;
    let Err(failed) = outcome else {
        panic!("{breakage:?} {environment:?} passed: {lines:#?}");
    };
    let (last, before) = lines.split_last().unwrap();
    assert_eq!(*last, format!("FAIL {failed}"));
    assert!(
        before.iter().all(|line| line.starts_with("ok   ")),
        "{lines:?}"
    );
    failed.step
}

#[tokio::test]
async fn a_correct_gateway_passes_every_step_with_a_line_and_a_time() {
    let (lines, outcome) = run(Breakage::Nothing, Environment::default()).await;
    assert_eq!(outcome, Ok(()), "{lines:#?}");
    assert_eq!(lines.len(), Step::ALL.len());
    for line in lines {
        assert!(line.starts_with("ok   ") && line.ends_with(" ms"), "{line}");
        assert_eq!(line.len(), 47, "{line}");
    }
}

#[tokio::test]
async fn each_breakage_of_the_gateway_fails_the_step_that_must_detect_it() {
    let expected = [
        (Breakage::TemporaryRedirect, Step::Redirect),
        (Breakage::NoPkce, Step::Redirect),
        (Breakage::PlainPkce, Step::Redirect),
        (Breakage::NoState, Step::Redirect),
        (Breakage::WrongRedirectUri, Step::Redirect),
        (Breakage::CallbackIsRefused, Step::Exchange),
        (Breakage::CallbackForgetsThePage, Step::Exchange),
        (Breakage::ExchangeTwice, Step::Exchange),
        (Breakage::CookieIsDropped, Step::SessionCookie),
        (Breakage::CookieWithoutSecure, Step::SessionCookie),
        (Breakage::CookieWithoutHttpOnly, Step::SessionCookie),
        (Breakage::CookieWithoutSameSite, Step::SessionCookie),
        (Breakage::CookieForTheDomain, Step::SessionCookie),
        (Breakage::NoBearer, Step::Bearer),
        (Breakage::ClientFieldsPass, Step::Bearer),
        (Breakage::OwnCookiePasses, Step::Bearer),
        (Breakage::PostIsDropped, Step::Post),
        (Breakage::ApiIsRedirected, Step::Api),
        (Breakage::ApiWithoutLoginUrl, Step::Api),
        (Breakage::SignOutIsDead, Step::SignOut),
        (Breakage::SignOutLeavesTheCookie, Step::SignOut),
        (Breakage::CookieForeverAlive, Step::CookieDead),
        (Breakage::AnyoneIsForwarded, Step::CookieDead),
        (Breakage::ExchangeForEachRequest, Step::Cache),
        (Breakage::ExpiredTokenPasses, Step::Refresh),
        (Breakage::RefreshForEachRequest, Step::Refresh),
        (Breakage::SocketsOutliveTheSession, Step::Streams),
        (Breakage::EventsOutliveTheSession, Step::Streams),
        (Breakage::LogoutIsIgnored, Step::Logout),
    ];
    for (breakage, step) in expected {
        assert_eq!(
            failed(breakage, Environment::default()).await,
            step,
            "{breakage:?}"
        );
    }
}

#[tokio::test]
async fn each_breakage_outside_the_gateway_fails_the_step_that_must_detect_it() {
    let sound = Environment::default();
    let expected = [
        (
            Environment {
                unregistered: true,
                ..sound
            },
            Step::LoginForm,
        ),
        (
            Environment {
                password: Some("wrong"),
                ..sound
            },
            Step::Code,
        ),
        (
            Environment {
                foreign_key: true,
                ..sound
            },
            Step::Bearer,
        ),
        (
            Environment {
                subject: Some("18"),
                ..sound
            },
            Step::Bearer,
        ),
        (
            Environment {
                email: Some("alice@example.com"),
                ..sound
            },
            Step::Bearer,
        ),
    ];
    for (environment, step) in expected {
        assert_eq!(
            failed(Breakage::Nothing, environment).await,
            step,
            "{environment:?}"
        );
    }
}

#[tokio::test]
async fn an_unreachable_gateway_fails_the_first_step_by_name() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let check = Check {
        gateway: address,
        public_url: Url::parse("http://localhost").unwrap(),
        provider: address,
        authorization_endpoint: Url::parse("http://127.0.0.1/oauth/authorize").unwrap(),
        calls: TokenCalls::default,
        user: User::alice().username,
        password: User::alice().password,
        subject: "17".into(),
        fields: Vec::new(),
        token_lifetime: HOUR,
        clock: Clock::system(),
    };
    let failed = check.run(&mut |_report| {}).await.unwrap_err();
    assert_eq!(failed.step, Step::Redirect);
    assert!(
        failed.got.starts_with("no connection to 127.0.0.1"),
        "{failed}"
    );
}
