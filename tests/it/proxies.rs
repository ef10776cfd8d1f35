//! HTTP proxies between the gateway and its providers.

use crate::support::browser::Browser;
use crate::support::certificates::Identity;
use crate::support::encrypted::Encrypted;
use crate::support::gateway::{Gateway, Process, Settings};
use crate::support::http_proxy::HttpProxy;
use crate::support::provider::StandIn;
use crate::support::scene::{ORIGIN, Scene, refusal, url};
use crate::support::upstream::RecordingUpstream;

/// The value of `Proxy-Authorization` for the user `me` with the password `s3cret-canary`.
const CREDENTIALS: &str = "Basic bWU6czNjcmV0LWNhbmFyeQ==";

/// A provider at a name that only the proxy can resolve, with TLS and without TLS, and an app.
struct Servers {
    provider: StandIn,
    app: RecordingUpstream,
    identity: Identity,
    encrypted: Encrypted,
}

impl Servers {
    async fn start() -> Self {
        let provider = StandIn::start().await;
        let identity = Identity::self_signed(&["id.invalid"]);
        let encrypted = Encrypted::start(&identity, provider.address()).await;
        Self {
            provider,
            app: RecordingUpstream::start().await,
            identity,
            encrypted,
        }
    }

    /// Settings whose token endpoint has the origin `origin`. `keys` are additional keys of the
    /// provider.
    fn settings(&self, origin: &str, keys: &str) -> Settings {
        let at = self.provider.url();
        let settings = Settings::new(ORIGIN, &at, &self.app.url());
        let secret = settings.file("secret", "s3cret-canary\n");
        let ca = settings.file("id.crt", &self.identity.certificate);
        settings.provider(&format!(
            "[providers.main]\nprofile = \"oauth2\"\nclient_id = \"3\"\nca_file = \"{ca}\"\n{keys}\n\
             client_secret_file = \"{secret}\"\nauthorization_endpoint = \"{at}/authorize\"\n\
             token_endpoint = \"{origin}/token\"\nuserinfo_endpoint = \"{origin}/userinfo\"\n\
             identity.source = \"userinfo\"\n"
        ))
    }

    async fn encrypting_proxy(&self, required: Option<&'static str>) -> HttpProxy {
        let address = ([127, 0, 0, 1], self.encrypted.port).into();
        HttpProxy::start(address, required).await
    }
}

#[tokio::test]
async fn an_https_provider_is_called_through_a_tunnel() {
    let servers = Servers::start().await;
    let proxy = servers.encrypting_proxy(None).await;
    let keys = format!("proxy = \"{}\"", proxy.url());
    let settings = servers.settings("https://id.invalid", &keys);
    let scene = Scene {
        gateway: Gateway::start(settings),
        provider: servers.provider,
        app: servers.app,
    };
    assert_eq!(scene.browser().visit(&url("/")).await.text(), "seen");
    let lines = proxy.lines();
    // The token endpoint and the userinfo endpoint were called.
    assert!(lines.len() >= 2, "{lines:?}");
    for line in lines {
        assert_eq!(line, "CONNECT id.invalid:443 HTTP/1.1");
    }
}

#[tokio::test]
async fn an_http_provider_is_called_in_the_absolute_form() {
    let servers = Servers::start().await;
    let proxy = HttpProxy::start(servers.provider.address(), None).await;
    let keys = format!("proxy = \"{}\"\nplain_http = true", proxy.url());
    let settings = servers.settings("http://id.invalid:8080", &keys);
    let scene = Scene {
        gateway: Gateway::start(settings),
        provider: servers.provider,
        app: servers.app,
    };
    assert_eq!(scene.browser().visit(&url("/")).await.text(), "seen");
    let line = "POST http://id.invalid:8080/token HTTP/1.1".to_owned();
    assert!(proxy.lines().contains(&line), "{:?}", proxy.lines());
    for request in proxy.requests() {
        assert_eq!(request.value("host").as_deref(), Some("id.invalid:8080"));
    }
}

#[tokio::test]
async fn a_proxy_with_another_certificate_behind_it_gets_no_secret() {
    let servers = Servers::start().await;
    let proxy = servers.encrypting_proxy(None).await;
    servers
        .encrypted
        .present(&Identity::self_signed(&["id.invalid"]));
    let keys = format!("proxy = \"{}\"", proxy.url());
    let settings = servers.settings("https://id.invalid", &keys);
    let scene = Scene {
        gateway: Gateway::start(settings),
        provider: servers.provider,
        app: servers.app,
    };
    let page = scene.browser().visit(&url("/")).await;
    assert_eq!(refusal(&page), "503 provider_unreachable");
    assert_eq!(scene.provider.exchanges().len(), 0);
}

#[tokio::test]
async fn x_03_proxy_variables_are_used_for_providers_and_not_for_apps() {
    let servers = Servers::start().await;
    let proxy = servers.encrypting_proxy(Some(CREDENTIALS)).await;
    let named = proxy.url().replace("http://", "http://me:s3cret-canary@");
    let settings = servers.settings("https://id.invalid", "").with(
        "[upstreams.far]\nurl = \"http://app.invalid\"\n\
         [[routes]]\nprefix = \"/far\"\naccess = \"public\"\nupstream = \"far\"\n\
         [[routes]]\nprefix = \"/near\"\nupstream = \"app\"\n",
    );
    let variables = [("https_proxy", &*named), ("http_proxy", &*named)];
    let gateway = Process::start_in(settings, &variables).await;
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    assert_eq!(browser.visit(&url("/near")).await.text(), "seen");
    let page = browser.visit(&url("/far")).await;
    assert_eq!(refusal(&page), "502 upstream_unreachable");
    for line in proxy.lines() {
        assert_eq!(line, "CONNECT id.invalid:443 HTTP/1.1");
    }
    let log = gateway.log();
    assert!(!log.contains("canary"), "{log}");
    assert!(
        !log.contains(CREDENTIALS.trim_start_matches("Basic ")),
        "{log}"
    );
}

#[tokio::test]
async fn the_error_names_the_proxy_and_not_its_password() {
    let servers = Servers::start().await;
    let proxy = servers.encrypting_proxy(Some(CREDENTIALS)).await;
    let wrong = proxy.url().replace("http://", "http://me:wr0ng-canary@");
    let settings = servers.settings("https://id.invalid", "");
    let gateway = Process::start_in(settings, &[("HTTPS_PROXY", &wrong)]).await;
    let browser = Browser::new().leading(ORIGIN, gateway.address());
    let page = browser.visit(&url("/")).await;
    assert_eq!(refusal(&page), "503 provider_unreachable");
    let said = format!(
        "the proxy {} cannot be used: it answered with status 407",
        proxy.url()
    );
    gateway.wait_for_log(|log| log.contains(&said)).await;
    let gone = proxy.url();
    drop(proxy);
    let log = gateway.log();
    assert!(!log.contains("canary"), "{log}");
    let settings = servers.settings("https://id.invalid", &format!("proxy = \"{gone}\""));
    let gateway = Process::start(settings).await;
    let said = format!("the proxy {gone} cannot be used: no address accepted the connection");
    gateway.wait_for_log(|log| log.contains(&said)).await;
}
