//! A gateway with two providers, `main` and `other`. A third provider, `third`, is another
//! registration at the server of `other`.

use super::browser::{Browser, Page};
use super::gateway::{Gateway, Settings};
use super::provider::StandIn;
use super::scene::{ORIGIN, url};
use super::upstream::RecordingUpstream;

/// Routes with one provider each: `other` for `/other`, `main` for everything else.
pub(crate) const SEPARATE_ROUTES: &str = "[[routes]]\nprovider = \"main\"\n\
                                [[routes]]\nprefix = \"/other\"\nprovider = \"other\"\n";

/// Two providers. The provider `main` promises `iss` in its answers.
pub(crate) struct TwoProviders {
    pub(crate) gateway: Gateway,
    pub(crate) main: StandIn,
    pub(crate) other: StandIn,
    pub(crate) app: RecordingUpstream,
}

impl TwoProviders {
    /// With these routes.
    pub(crate) async fn start(routes: &str) -> Self {
        Self::start_with(routes, |settings| settings).await
    }

    /// With these routes and with other settings.
    pub(crate) async fn start_with(
        routes: &str,
        change: impl FnOnce(Settings) -> Settings,
    ) -> Self {
        let (main, other) = (StandIn::start().await, StandIn::start().await);
        main.response_iss(Some(&main.url()));
        let app = RecordingUpstream::start().await;
        let settings = Settings::new(ORIGIN, &main.url(), &app.url());
        let secret = settings.file("secret", "s3cret-canary\n");
        let provider = |name: &str, at: &StandIn, keys: &str| {
            format!(
                "[providers.{name}]\nprofile = \"oauth2\"\nurl = \"{}\"\nclient_id = \"3\"\n\
                 client_secret_file = \"{secret}\"\nauthorization_endpoint = \"/authorize\"\n\
                 token_endpoint = \"/token\"\nuserinfo_endpoint = \"/userinfo\"\n\
                 identity.source = \"userinfo\"\n{keys}\n",
                at.url()
            )
        };
        let issuer = format!("issuer = \"{}\"\nrequire_response_iss = true", main.url());
        let name = "display_name = \"Other & <Sons>\"";
        let providers = [
            provider("main", &main, &issuer),
            provider("other", &other, name),
            provider("third", &other, ""),
        ];
        let settings = settings.provider(&providers.concat()).with(routes);
        let gateway = Gateway::start(change(settings));
        Self {
            gateway,
            main,
            other,
            app,
        }
    }

    pub(crate) fn browser(&self) -> Browser {
        Browser::new().leading(ORIGIN, self.gateway.address())
    }

    /// Follows a login for `path` to the provider's redirect, without opening the callback.
    pub(crate) async fn callback(&self, browser: &Browser, path: &str) -> Page {
        let start = browser.open(&url(path)).await;
        browser.follow(&start).await
    }
}
