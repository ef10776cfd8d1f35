//! Apps and providers with self-signed certificates, or with a certificate for another name.

use crate::support::certificates::Identity;
use crate::support::encrypted::Encrypted;
use crate::support::gateway::{Gateway, Settings};
use crate::support::provider::StandIn;
use crate::support::scene::{ORIGIN, ROUTES, Scene, refusal, url};
use crate::support::upstream::RecordingUpstream;

/// A certificate that a server presents, and the settings of the gateway.
struct Case {
    presented: Identity,
    /// The contents of `ca_file`.
    listed: String,
    server_name: Option<&'static str>,
}

impl Case {
    /// `ca_file` contains the certificate that the server presents.
    fn listed(presented: Identity) -> Self {
        Self {
            listed: presented.certificate.clone(),
            presented,
            server_name: None,
        }
    }

    /// The keys of the app or of the provider.
    fn keys(&self, settings: &Settings) -> String {
        let file = settings.file("server.pem", &self.listed);
        let name = self
            .server_name
            .map(|name| format!("server_name = \"{name}\"\n"));
        format!("ca_file = \"{file}\"\n{}", name.unwrap_or_default())
    }
}

fn trusted() -> [Case; 2] {
    [
        Case::listed(Identity::self_signed(&["localhost"])),
        Case {
            server_name: Some("other.example"),
            ..Case::listed(Identity::self_signed(&["other.example"]))
        },
    ]
}

fn refused() -> [Case; 4] {
    [
        Case {
            listed: Identity::self_signed(&["localhost"]).certificate,
            ..Case::listed(Identity::self_signed(&["localhost"]))
        },
        Case::listed(Identity::expired(&["localhost"])),
        Case::listed(Identity::self_signed(&["other.example"])),
        Case {
            server_name: Some("other.example"),
            ..Case::listed(Identity::self_signed(&["localhost"]))
        },
    ]
}

/// Requests a public page of an app with the certificate of `case`. Returns the status and the
/// number of requests that reached the app.
async fn status_of_app(case: &Case) -> (u16, usize) {
    let app = RecordingUpstream::start().await;
    let server = Encrypted::start(&case.presented, app.address()).await;
    let settings = Settings::new(
        ORIGIN,
        "http://127.0.0.1:1",
        &format!("https://localhost:{}", server.port),
    );
    let keys = case.keys(&settings);
    let scene = Scene {
        gateway: Gateway::start(settings.app(&keys).with(ROUTES)),
        provider: StandIn::start().await,
        app,
    };
    let page = scene.browser().visit(&url("/public")).await;
    (page.status.as_u16(), scene.app.count())
}

/// Signs in at a provider whose token endpoint has the certificate of `case`. Returns the text of
/// the last page, or its status and reason, and the number of codes that reached the token
/// endpoint.
async fn login(case: &Case) -> (String, usize) {
    let provider = StandIn::start().await;
    let app = RecordingUpstream::start().await;
    let at = provider.url();
    let behind = at.strip_prefix("http://").unwrap().parse().unwrap();
    let server = Encrypted::start(&case.presented, behind).await;
    let settings = Settings::new(ORIGIN, &at, &app.url()).with(ROUTES);
    let secret = settings.file("secret", "s3cret-canary\n");
    let keys = case.keys(&settings);
    let settings = settings.provider(&format!(
        "[providers.main]\nprofile = \"oauth2\"\nclient_id = \"3\"\n{keys}\
         client_secret_file = \"{secret}\"\nauthorization_endpoint = \"{at}/authorize\"\n\
         token_endpoint = \"https://localhost:{0}/token\"\n\
         userinfo_endpoint = \"https://localhost:{0}/userinfo\"\nidentity.source = \"userinfo\"\n",
        server.port
    ));
    let scene = Scene {
        gateway: Gateway::start(settings),
        provider,
        app,
    };
    let page = scene.browser().visit(&url("/")).await;
    let seen = page.text();
    let shown = if seen == "seen" { seen } else { refusal(&page) };
    (shown, scene.provider.exchanges().len())
}

#[tokio::test]
async fn an_app_is_trusted_by_its_own_certificate() {
    for case in trusted() {
        assert_eq!(
            status_of_app(&case).await,
            (200, 1),
            "{:?}",
            case.server_name
        );
    }
}

#[tokio::test]
async fn t_08_an_app_with_another_certificate_gets_no_request() {
    for (number, case) in refused().iter().enumerate() {
        assert_eq!(status_of_app(case).await, (502, 0), "case {number}");
    }
}

#[tokio::test]
async fn a_provider_is_trusted_by_its_own_certificate() {
    for case in trusted() {
        let expected = ("seen".to_owned(), 1);
        assert_eq!(login(&case).await, expected, "{:?}", case.server_name);
    }
}

#[tokio::test]
async fn t_08_a_provider_with_another_certificate_gets_no_secret() {
    for (number, case) in refused().iter().enumerate() {
        let expected = ("503 provider_unreachable".to_owned(), 0);
        assert_eq!(login(case).await, expected, "case {number}");
    }
}
