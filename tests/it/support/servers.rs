//! Real authorization servers, which `tests/run` installs. Each server is a program with its own
//! folder, on a free port of 127.0.0.1. Cookies ignore ports. The gateway is at `localhost`, so
//! that the gateway and the servers do not get the cookies of each other.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::json;
use tokio::process::Command;

use super::program::{Program, installed, project, python, record};

/// Debian's Java, even if other versions of Java are installed.
const JAVA: &str = "/usr/lib/jvm/default-java/bin/java";

/// The name and the password of Keycloak's administrator.
pub(crate) const KEYCLOAK_ADMIN: (&str, &str) = ("admin", "admin-password");

/// One server. The server stops when its value is dropped.
pub(crate) struct Server {
    issuer: String,
    program: Program,
}

/// The environment variable that tells the servers' scripts the lifetime of access tokens.
fn access_ttl(seconds: u64) -> (&'static str, String) {
    ("ACCESS_TTL", seconds.to_string())
}

impl Server {
    /// npm's `oidc-provider`. `tests/providers/oidc_provider.mjs` lists its clients.
    pub(crate) async fn oidc_provider() -> Self {
        Self::oidc_provider_whose_tokens_live(None).await
    }

    /// A server like [`Server::oidc_provider`], with this lifetime of access tokens in seconds.
    pub(crate) async fn oidc_provider_whose_tokens_live(life: Option<u64>) -> Self {
        let modules = project("tests/.cache/npm/node_modules");
        installed(&modules.join("oidc-provider"));
        let prepare = |folder: &Path| {
            let mut command = Command::new(installed(&project("tests/.cache/node/bin/node")));
            command
                .arg(project("tests/providers/oidc_provider.mjs"))
                .arg(&modules)
                .args([folder.join("client_secret"), folder.join("client_key")]);
            command.envs(life.map(access_ttl));
            command
        };
        Self::start("ready ", prepare).await
    }

    /// npm's `oauth2-mock-server`, with this lifetime of access tokens in seconds.
    pub(crate) async fn oauth2_mock_server(life: Option<u64>) -> Self {
        let modules = project("tests/.cache/npm/node_modules");
        installed(&modules.join("oauth2-mock-server"));
        let prepare = |_folder: &Path| {
            let mut command = Command::new(installed(&project("tests/.cache/node/bin/node")));
            command
                .arg(project("tests/providers/mock_server.mjs"))
                .arg(&modules);
            command.envs(life.map(access_ttl));
            command
        };
        Self::start("ready ", prepare).await
    }

    /// Spring Authorization Server, with this lifetime of access tokens in seconds.
    pub(crate) async fn spring(life: Option<u64>) -> Self {
        let home = project("tests/.cache/spring");
        installed(&home.join("SpringProvider.java"));
        let classes = format!("{0}/classes:{0}/lib/*", home.display());
        let prepare = |_folder: &Path| {
            let mut command = Command::new(installed(Path::new(JAVA)));
            command
                .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
                .args(["-cp", &classes, "SpringProvider"]);
            command.envs(life.map(access_ttl));
            command
        };
        Self::start("ready ", prepare).await
    }

    /// Debian's glewlwyd.
    pub(crate) async fn glewlwyd() -> Self {
        Self::glewlwyd_whose_tokens_live(None).await
    }

    /// A server like [`Server::glewlwyd`], with this lifetime of access tokens in seconds.
    pub(crate) async fn glewlwyd_whose_tokens_live(life: Option<u64>) -> Self {
        installed(Path::new("/usr/bin/glewlwyd"));
        let prepare = |folder: &Path| {
            let mut command = python();
            let script = project("tests/providers/glewlwyd.py");
            command.arg(script).arg(folder);
            command.envs(life.map(access_ttl));
            command
        };
        Self::start("ready ", prepare).await
    }

    /// django-oauth-toolkit.
    pub(crate) async fn django_oauth_toolkit() -> Self {
        Self::django(&[], None).await
    }

    /// A server like [`Server::django_oauth_toolkit`], with this lifetime of access tokens in
    /// seconds.
    pub(crate) async fn django_oauth_toolkit_whose_tokens_live(life: u64) -> Self {
        Self::django(&[], Some(life)).await
    }

    /// A server like [`Server::django_oauth_toolkit`], without OpenID Connect.
    pub(crate) async fn django_oauth_toolkit_without_openid() -> Self {
        Self::django(&["oauth2"], None).await
    }

    async fn django(arguments: &[&str], life: Option<u64>) -> Self {
        let prepare = |folder: &Path| {
            let mut command = python();
            let script = project("tests/providers/django_provider.py");
            command.arg(script).arg(folder).args(arguments);
            command.envs(life.map(access_ttl));
            command
        };
        Self::start("ready ", prepare).await
    }

    /// Keycloak with the realm of `tests/providers/keycloak.json`.
    pub(crate) async fn keycloak() -> Self {
        let home = project("tests/.cache/keycloak");
        installed(&home.join("installed"));
        let prepare = |folder: &Path| {
            for part in ["conf", "lib", "providers"] {
                symlink(home.join(part), folder.join(part)).unwrap();
            }
            let realms = folder.join("data/import");
            fs::create_dir_all(&realms).unwrap();
            let key = KeyPair::generate().unwrap();
            fs::write(folder.join("client_key"), key.serialize_pem()).unwrap();
            let realm = fs::read_to_string(project("tests/providers/keycloak.json")).unwrap();
            let realm = realm.replace("\"JWKS\"", &json!(key_set(&key)).to_string());
            fs::write(realms.join("shop.json"), realm).unwrap();
            keycloak_command(&home, folder)
        };
        let mut server = Self::start("Listening on: ", prepare).await;
        server.issuer.push_str("/realms/shop");
        server
    }

    async fn start(before_address: &str, prepare: impl Fn(&Path) -> Command) -> Self {
        let program = Program::start(before_address, prepare).await;
        Self {
            issuer: program.address().to_owned(),
            program,
        }
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The path of a file that the setup has written.
    pub(crate) fn path(&self, name: &str) -> String {
        self.program.path(name)
    }

    /// The contents of a file that the setup has written.
    pub(crate) fn file(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }
}

/// Keycloak's own script starts Java as a child, which would survive the script. This function
/// returns the command that the script starts.
fn keycloak_command(installation: &Path, home: &Path) -> Command {
    let mut command = Command::new(installed(Path::new(JAVA)));
    command
        .env("KC_BOOTSTRAP_ADMIN_USERNAME", KEYCLOAK_ADMIN.0)
        .env("KC_BOOTSTRAP_ADMIN_PASSWORD", KEYCLOAK_ADMIN.1)
        .args(["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg(format!("-Dkc.home.dir={}", home.display()))
        .args([
            "-Dkc.config.built=true",
            "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
            "-Djava.util.concurrent.ForkJoinPool.common.threadFactory=\
             io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
            "-Dpicocli.disable.closures=true",
            "-cp",
        ])
        .arg(installation.join("lib/quarkus-run.jar"))
        .args([
            "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
            "start",
            "--optimized",
        ])
        .args([
            "--http-enabled=true",
            "--http-host=127.0.0.1",
            "--http-port=0",
        ])
        .args(["--hostname-strict=false", "--cache=local", "--import-realm"]);
    command
}

/// The public half of an EC key as a JWK Set.
fn key_set(key: &KeyPair) -> String {
    // SEC 1: the byte 4, then both coordinates.
    let point = key.der_bytes();
    let (x, y) = point[1..].split_at(32);
    let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
    let key = json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "client-key", "x": x, "y": y });
    json!({ "keys": [key] }).to_string()
}

/// The flows that one server passed, and the ways in which sessions have ended; `tests/run` prints
/// both.
pub(crate) struct Flows {
    server: &'static str,
}

impl Flows {
    pub(crate) fn of(server: &'static str) -> Self {
        Self { server }
    }

    /// Records a flow that has just passed.
    pub(crate) fn passed(&self, flow: &str) {
        record("flows.txt", &[self.server, flow]);
    }

    /// Records that sessions of the gateway and of the server have just ended in this way.
    pub(crate) fn goodbye(&self, way: &str) {
        record("goodbyes.txt", &[self.server, way]);
    }
}
