//! The complete demo: an authorization server, an app, and a gateway in front of the app.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tempfile::TempDir;
use url::Url;

use super::breakage::{self, Middlebox};
use super::serve::Server;
use super::{App, AppSettings, AuthorizationServer, Check, Client, Error, ProviderKind, Step};
use super::{AuthorizationServerSettings, LogoutEndpoints, TokenCalls, User};
use crate::clock::Clock;
use crate::config::{Config, Reusable, Source};
use crate::instance::Instance;
use crate::secret::{self, Secret};

/// The client id of the gateway at the embedded authorization server.
const CLIENT: &str = "99adb0aa-17fc-4578-8226-e45e4d3e9156";

/// The lifetime of access tokens in a demo that checks itself. The check advances the clock by the
/// lifetime of an access token.
const LIFETIME: Duration = Duration::from_hours(1);

/// The purpose for which a demo runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// A user tries the demo. The demo uses the system clock.
    Show,
    /// The demo is checked. The check advances a manual clock. If a step is given, the demo breaks
    /// this step on purpose, and the check must fail at this step.
    Check(Option<Step>),
}

impl Purpose {
    fn server(self, kind: ProviderKind, clock: &Clock) -> AuthorizationServerSettings {
        let (broken, lifetime) = match self {
            Self::Show => (None, None),
            Self::Check(broken) => (broken, Some(LIFETIME)),
        };
        let settings = breakage::provider(kind, broken);
        let usual = settings.access_token_lifetime;
        AuthorizationServerSettings {
            access_token_lifetime: lifetime.unwrap_or(usual),
            clock: clock.clone(),
            ..settings
        }
    }
}

/// A running demo. The settings file and the keys of the demo are in a temporary folder, which is
/// deleted when this value is dropped.
#[derive(Debug)]
pub struct Demo {
    gateway: Instance,
    /// A proxy in front of the gateway. The proxy breaks one step on purpose. `middlebox` is `None`
    /// if no step is broken, or if the broken step needs no proxy.
    middlebox: Option<Server>,
    provider: AuthorizationServer,
    app: App,
    kind: ProviderKind,
    public_url: Url,
    folder: TempDir,
    clock: Clock,
}

impl Demo {
    /// Starts the authorization server, the app and the gateway. The gateway listens on the
    /// loopback address `listen`, and its public host is `localhost`. The authorization server and
    /// the app use free ports of `127.0.0.1`. The gateway and the authorization server have
    /// different host names, so a browser does not mix the cookies of the gateway with the cookies
    /// of the provider.
    ///
    /// # Errors
    ///
    /// Returns [`Error`] if a part of the demo cannot start.
    pub async fn start(
        listen: SocketAddr,
        kind: ProviderKind,
        purpose: Purpose,
    ) -> Result<Self, Error> {
        if !listen.ip().is_loopback() {
            return Err(Error::NotLoopback { address: listen });
        }
        let (clock, broken) = match purpose {
            Purpose::Show => (Clock::system(), None),
            Purpose::Check(broken) => (Clock::manual(Clock::system().now()), broken),
        };
        let server = purpose.server(kind, &clock);
        let provider = AuthorizationServer::start(server).await?;
        let mut app = AppSettings::new(breakage::public_key(broken, &provider)?, CLIENT);
        app.clock = clock.clone();
        let app = App::start(app).await?;
        let folder = tempfile::Builder::new()
            .prefix("sidegate-demo-")
            .tempdir()?;
        let listen = free(listen).await?;
        let public_url = format!("http://localhost:{}", listen.port());
        let password = new_secret()?;
        write(folder.path(), "client_secret", password.expose())?;
        let webhook_key = new_secret()?;
        let section = provider_section(kind, &provider, (folder.path(), &webhook_key))?;
        let mut settings = settings(listen, (&public_url, &app), &section, folder.path());
        settings.push_str(breakage::routes(broken));
        let path = write(folder.path(), "sidegate.toml", &settings)?;
        let logout = logout_endpoints(listen, webhook_key);
        provider
            .register(Client {
                id: CLIENT.to_owned(),
                secret: Some(password),
                redirect_uris: vec![breakage::redirect_uri(broken, &public_url)],
                post_logout_redirect_uris: vec![format!("{public_url}/oauth2/signed_out")],
                logout: breakage::tells_clients(broken).then_some(logout),
            })
            .await;
        let config = Config::load(&Source::file(path), &Reusable::default(), &clock)?;
        let gateway = Instance::start(config, &clock)?;
        let middlebox = middlebox(broken, (gateway.address(), provider.address())).await?;
        let public_url =
            Url::parse(&public_url).map_err(|_invalid| Error::NotLoopback { address: listen })?;
        Ok(Self {
            gateway,
            middlebox,
            provider,
            app,
            kind,
            public_url,
            folder,
            clock,
        })
    }

    /// The URL to open in a browser.
    pub fn public_url(&self) -> &Url {
        &self.public_url
    }

    /// The settings file of the gateway.
    pub fn settings_file(&self) -> std::path::PathBuf {
        self.folder.path().join("sidegate.toml")
    }

    /// The embedded authorization server.
    pub fn provider(&self) -> &AuthorizationServer {
        &self.provider
    }

    /// Describes the authorization server and its address, for messages.
    pub fn provider_as_text(&self) -> String {
        match self.kind {
            ProviderKind::OpenId => {
                format!("an OpenID Provider, issuer {}", self.provider.base_url())
            }
            ProviderKind::Passport12 | ProviderKind::Passport13 => {
                format!("an authorization server on {}", self.provider.address())
            }
        }
    }

    /// The app behind the gateway.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// The address of the gateway.
    pub fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// Creates a check that signs in to this demo as the first user. The demo must have the purpose
    /// [`Purpose::Check`], because the check advances the clock.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotLoopback`] if no URL can be made from the address of the provider.
    pub fn check(&self) -> Result<Check<impl Fn() -> TokenCalls>, Error> {
        let user = User::alice();
        let mut fields = vec![("x-forwarded-email", user.email)];
        // A Passport server reports neither the user name nor the groups.
        if self.kind == ProviderKind::OpenId {
            fields.push(("x-forwarded-preferred-username", user.username.clone()));
            fields.push(("x-forwarded-groups", user.groups.join(",")));
        }
        let middlebox = self.middlebox.as_ref().map(Server::address);
        let endpoint = self.provider.authorization_endpoint();
        let authorization_endpoint =
            Url::parse(&endpoint).map_err(|_invalid| Error::NotLoopback {
                address: self.provider.address(),
            })?;
        Ok(Check {
            gateway: middlebox.unwrap_or_else(|| self.address()),
            public_url: self.public_url.clone(),
            provider: self.provider.address(),
            authorization_endpoint,
            calls: || TokenCalls {
                exchanges: self.provider.exchanges(),
                refreshes: self.provider.refreshes(),
            },
            user: user.username,
            password: user.password,
            subject: user.id.to_string(),
            fields,
            token_lifetime: LIFETIME,
            clock: self.clock.clone(),
        })
    }

    /// Drains the gateway, and then stops the app and the authorization server.
    pub async fn stop(self) {
        self.gateway.drain().await;
    }
}

/// Returns the endpoints that the provider tells about the end of a login session.
fn logout_endpoints(listen: SocketAddr, webhook_key: Secret<String>) -> LogoutEndpoints {
    LogoutEndpoints {
        address: listen,
        host: format!("localhost:{}", listen.port()),
        webhook_key,
    }
}

/// Starts the proxy that breaks a step. Returns `None` if no step is broken, or if the broken step
/// needs no proxy.
async fn middlebox(
    broken: Option<Step>,
    (gateway, provider): (SocketAddr, SocketAddr),
) -> Result<Option<Server>, Error> {
    match broken {
        // A middlebox forwards an answer only after the middlebox has read the whole answer, so a
        // middlebox cannot forward a stream. A middlebox does not see a logout.
        None | Some(Step::Streams | Step::Logout) => Ok(None),
        Some(broken) => {
            let middlebox = Middlebox {
                broken,
                gateway,
                provider,
            };
            Ok(Some(middlebox.start().await?))
        }
    }
}

/// Returns the address, with a free port instead of port 0. The settings contain the public URL, so
/// the port must be known before the gateway listens.
async fn free(address: SocketAddr) -> Result<SocketAddr, Error> {
    if address.port() != 0 {
        return Ok(address);
    }
    // This function closes the listener, so a different process could bind the port before the
    // gateway listens. For a demo, the risk that the port is taken is acceptable.
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| Error::Bind { address, source })?;
    Ok(listener.local_addr()?)
}

/// Returns the settings of the provider, without client id and secret.
fn provider_section(
    kind: ProviderKind,
    provider: &AuthorizationServer,
    (folder, webhook_key): (&Path, &Secret<String>),
) -> Result<String, Error> {
    Ok(match kind {
        ProviderKind::OpenId => openid_section(provider),
        ProviderKind::Passport12 | ProviderKind::Passport13 => {
            let key = write(folder, "public_key.pem", provider.public_key_pem())?;
            let webhook_key = write(folder, "webhook_key", webhook_key.expose())?;
            passport_section(kind, provider, (&key, &webhook_key))
        }
    })
}

/// Returns the settings of an OpenID Provider. The settings need only the issuer, because the
/// metadata contains all other values.
fn openid_section(provider: &AuthorizationServer) -> String {
    format!(
        "profile = \"{}\"\n\
         issuer = \"{}\"\n",
        ProviderKind::OpenId.profile(),
        provider.base_url()
    )
}

/// Returns the settings of a Passport server: its URL, the public key for its access tokens, and the
/// key of the webhook.
fn passport_section(
    kind: ProviderKind,
    provider: &AuthorizationServer,
    (key, webhook_key): (&Path, &Path),
) -> String {
    format!(
        "profile = \"{}\"\n\
         url = \"{}\"\n\
         access_token.public_key_files = [\"{}\"]\n\
         sign_out.webhook_key_files = [\"{}\"]\n\
         # The access token contains only the id of the user. Name and email come from userinfo.\n\
         userinfo_endpoint = \"/api/user\"\n\
         identity.source = \"userinfo\"\n\
         identity.emails_verified = \"timestamp\"\n\
         identity.claims.subject = \"id\"\n\
         identity.claims.email_verified = \"email_verified_at\"\n",
        kind.profile(),
        provider.base_url(),
        key.display(),
        webhook_key.display()
    )
}

/// Returns the text of the settings file of the gateway. `provider` contains additional settings of
/// the provider. The gateway logs only errors, so that log lines do not hide the output of the
/// demo.
fn settings(
    listen: SocketAddr,
    (public_url, app): (&str, &App),
    provider: &str,
    folder: &Path,
) -> String {
    let (app, folder) = (app.address(), folder.display());
    format!(
        "# For development only: the settings of `sidegate demo`.\n\
         public_url = \"{public_url}\"\n\
         \n\
         [server]\n\
         listen = \"{listen}\"\n\
         # An open page with live clocks does not delay the end of the demo.\n\
         drain_secs = 1\n\
         \n\
         [log]\n\
         level = \"error\"\n\
         access = false\n\
         \n\
         [providers.demo]\n\
         client_id = \"{CLIENT}\"\n\
         client_secret_file = \"{folder}/client_secret\"\n\
         {provider}\
         \n\
         [upstreams.app]\n\
         url = \"http://{app}\"\n\
         \n\
         [[routes]]\n\
         name = \"app\"\n\
         \n\
         [[routes]]\n\
         name = \"public\"\n\
         prefix = \"/public\"\n\
         access = \"public\"\n"
    )
}

fn new_secret() -> Result<Secret<String>, Error> {
    let noise = secret::random::<32>()?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(digest(&SHA256, &noise))))
}

/// Writes a file that only its owner can read.
fn write(folder: &Path, name: &str, text: &str) -> Result<std::path::PathBuf, Error> {
    let path = folder.join(name);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(text.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_settings_of_an_openid_provider_contain_only_the_issuer() {
        let settings = AuthorizationServerSettings {
            kind: ProviderKind::OpenId,
            ..AuthorizationServerSettings::default()
        };
        let provider = AuthorizationServer::start(settings).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let key = new_secret().unwrap();
        let folder_and_key = (folder.path(), &key);
        let section = provider_section(ProviderKind::OpenId, &provider, folder_and_key).unwrap();
        let issuer = provider.base_url();
        assert_eq!(
            section,
            format!("profile = \"oidc\"\nissuer = \"{issuer}\"\n")
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
