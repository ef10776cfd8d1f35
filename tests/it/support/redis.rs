//! A real Redis server, and gateways that share their sessions in it.

use std::net::SocketAddr;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sidegate::clock::Clock;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::browser::Browser;
use super::gateway::{Gateway, Settings};
use super::provider::StandIn;
use super::scene::{ORIGIN, ROUTES, url};
use super::upstream::RecordingUpstream;
use super::wire::TEST_TIMEOUT;

/// A Redis server. The server is killed when this value is dropped.
pub(crate) struct Redis {
    folder: TempDir,
    options: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    /// Starts a server with a Unix socket and these options of the command line.
    pub(crate) async fn start(options: &[&str]) -> Self {
        let mut redis = Self {
            folder: tempfile::tempdir().unwrap(),
            options: options.iter().map(|&option| option.into()).collect(),
            child: None,
        };
        redis.start_again().await;
        redis
    }

    /// The value of the setting `urls` for this server.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket())
    }

    fn socket(&self) -> String {
        self.folder.path().join("redis.sock").display().to_string()
    }

    /// Starts the server again after [`Redis::kill`].
    pub(crate) async fn start_again(&mut self) {
        let mut child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket", &self.socket()])
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.options)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is missing: run tests/run");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.to_lowercase().contains("ready to accept connections") {
                    return true;
                }
            }
            false
        };
        let ready = timeout(TEST_TIMEOUT, ready).await;
        assert_eq!(ready, Ok(true), "redis-server does not start");
        // The server would wait if nobody read its output.
        drop(tokio::spawn(async move {
            while let Ok(Some(_line)) = lines.next_line().await {}
        }));
        self.child = Some(child);
    }

    /// Kills the server.
    pub(crate) async fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().await.unwrap();
    }

    /// Sends a signal to the server.
    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().unwrap().to_string();
        let kill = Command::new("/bin/kill").args(["-s", name, &id]).status();
        assert!(kill.await.unwrap().success());
    }

    /// Repeats a command until its answer contains `wanted`.
    pub(crate) async fn until(&self, command: &[&str], wanted: &str) {
        let asking = async { while !self.command(command).await.contains(wanted) {} };
        assert!(timeout(TEST_TIMEOUT, asking).await.is_ok(), "{wanted}");
    }

    /// Runs a command of the server, and returns its answer.
    pub(crate) async fn command(&self, arguments: &[&str]) -> String {
        let mut client = Command::new("redis-cli");
        client.args(["-s", &self.socket()]).args(arguments);
        let output = client.output().await.unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// Three gateways with one provider, one app and one store. All of them have the same clock.
pub(crate) struct Replicas {
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) provider: StandIn,
    pub(crate) app: RecordingUpstream,
    pub(crate) clock: Clock,
    /// A folder for files that the settings name.
    pub(crate) folder: TempDir,
}

impl Replicas {
    /// Starts the gateways with a server at a Unix socket.
    pub(crate) async fn start(redis: &Redis) -> Self {
        let store = format!(
            "[session.store.redis]\nurls = [\"{}\"]\nconnect_timeout_secs = 1\n",
            redis.url()
        );
        Self::with(&store).await
    }

    /// Starts the gateways with this table of the store.
    pub(crate) async fn with(store: &str) -> Self {
        Self::with_settings(store, |settings| settings).await
    }

    /// Starts the gateways with this table of the store, and with other settings.
    pub(crate) async fn with_settings(store: &str, change: impl Fn(Settings) -> Settings) -> Self {
        let provider = StandIn::start().await;
        provider.token_members(json!({ "expires_in": 60 }));
        let app = RecordingUpstream::start().await;
        let folder = tempfile::tempdir().unwrap();
        let mut replicas = Self {
            gateways: Vec::new(),
            provider,
            app,
            clock: Clock::manual(Clock::system().now()),
            folder,
        };
        for _ in 0..3 {
            let settings = change(replicas.settings(store));
            let gateway = Gateway::with_clock(settings, replicas.clock.clone());
            replicas.gateways.push(gateway);
        }
        replicas
    }

    /// Starts one more gateway with this table of the store.
    pub(crate) fn another(&self, store: &str) -> Gateway {
        Gateway::with_clock(self.settings(store), self.clock.clone())
    }

    /// The settings of one more gateway with this table of the store.
    pub(crate) fn settings(&self, store: &str) -> Settings {
        let keys = self.folder.path().join("keys");
        std::fs::write(&keys, STANDARD.encode([7; 32])).unwrap();
        let login = format!("[login]\nstate_key_file = \"{}\"\n", keys.display());
        let settings = Settings::new(ORIGIN, &self.provider.url(), &self.app.url());
        settings.with(ROUTES).with(&login).with(store)
    }

    /// A browser whose user at the provider is `user`. [`Replicas::at`] selects the gateway.
    pub(crate) fn browser_of(&self, user: &str) -> Browser {
        let browser = Browser::new();
        browser.plant(&self.provider.url(), &format!("user={user}; Path=/"));
        browser
    }

    /// A tab of the browser that reaches the gateway with this number.
    pub(crate) fn at(&self, browser: &Browser, number: usize) -> Browser {
        let address = self.gateways[number].address();
        browser.clone().leading(ORIGIN, address)
    }

    /// A browser that has signed in at the gateway with this number.
    pub(crate) async fn signed_in(&self, user: &str, number: usize) -> Browser {
        let browser = self.browser_of(user);
        let page = self.at(&browser, number).visit(&url("/")).await;
        assert_eq!(page.text(), "seen", "{}", page.describe());
        browser
    }
}

/// The number of servers with data: a master and its replicas.
const DATA_SERVERS: usize = 3;

/// The passwords of the servers with data, and of the Sentinels.
const PASSWORD: &str = "data-password";
const SENTINEL_PASSWORD: &str = "sentinel-password";
/// The password of a master that is cut off.
const ISOLATED: &str = "isolated-password";

/// A master, its two replicas, and three Sentinels that watch them. All of them have passwords.
pub(crate) struct Sentinels {
    folder: TempDir,
    ports: Vec<String>,
    servers: Vec<Child>,
}

impl Sentinels {
    /// Starts all servers, and waits until the Sentinels know each other and the replica.
    pub(crate) async fn start() -> Self {
        let mut all = Self {
            folder: tempfile::tempdir().unwrap(),
            ports: (0..DATA_SERVERS + 3).map(|_| free_port()).collect(),
            servers: Vec::new(),
        };
        let ports = all.ports.clone();
        let common = [
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--requirepass",
            PASSWORD,
            "--masterauth",
            PASSWORD,
            // The servers share a folder.
            "--repl-diskless-sync",
            "yes",
            "--repl-diskless-sync-delay",
            "0",
        ];
        for port in &ports[..DATA_SERVERS] {
            let master = ["--replicaof", "127.0.0.1", &ports[0]];
            let mut server = Command::new("redis-server");
            server.args(["--port", port]).args(common);
            if *port != ports[0] {
                server.args(master);
            }
            all.run(server);
        }
        for port in &ports[DATA_SERVERS..] {
            let file = all.folder.path().join(format!("{port}.conf"));
            let text = format!(
                "bind 127.0.0.1\nport {port}\ndir {}\nrequirepass {SENTINEL_PASSWORD}\n\
                 sentinel monitor mymaster 127.0.0.1 {} 2\n\
                 sentinel auth-pass mymaster {PASSWORD}\n\
                 sentinel down-after-milliseconds mymaster 1500\n\
                 sentinel failover-timeout mymaster 5000\n",
                all.folder.path().display(),
                ports[0]
            );
            std::fs::write(&file, text).unwrap();
            let mut server = Command::new("redis-server");
            server.arg(file).arg("--sentinel");
            all.run(server);
        }
        all.wait_for_replicas().await;
        for port in &ports[DATA_SERVERS..] {
            all.until(port, &["sentinel", "ckquorum", "mymaster"], "OK 3")
                .await;
            // A Sentinel asks the master for its replicas only every ten seconds. Sentinels that know
            // no replica cannot choose a new master.
            all.until(port, &["sentinel", "master", "mymaster"], "num-slaves\n2\n")
                .await;
        }
        all
    }

    fn run(&mut self, mut server: Command) {
        let server = server
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is missing: run tests/run");
        self.servers.push(server);
    }

    /// The addresses of the Sentinels.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let ports = self.ports[DATA_SERVERS..].iter();
        ports
            .map(|port| format!("127.0.0.1:{port}").parse().unwrap())
            .collect()
    }

    /// The settings of a store that uses these servers.
    pub(crate) fn store(&self) -> String {
        self.store_at(&self.addresses())
    }

    /// The settings of a store that reaches the Sentinels at these addresses.
    pub(crate) fn store_at(&self, sentinels: &[SocketAddr]) -> String {
        let urls: Vec<_> = sentinels
            .iter()
            .map(|address| format!("redis://{address}"))
            .collect();
        let file = |name: &str, password: &str| {
            let path = self.folder.path().join(name);
            std::fs::write(&path, password).unwrap();
            path.display().to_string()
        };
        format!(
            "[session.store.redis]\nurls = {urls:?}\nsentinel_master = \"mymaster\"\n\
             password_file = {:?}\nsentinel_password_file = {:?}\nconnect_timeout_secs = 1\n",
            file("password", PASSWORD),
            file("sentinel-password", SENTINEL_PASSWORD),
        )
    }

    /// Waits until the replicas have all data of the master.
    pub(crate) async fn wait_for_replicas(&self) {
        let info = ["info", "replication"];
        for port in &self.ports[1..DATA_SERVERS] {
            self.until(port, &info, "master_link_status:up").await;
        }
    }

    /// Repeats a command of a server until its answer contains `wanted`.
    async fn until(&self, port: &str, command: &[&str], wanted: &str) {
        let is_data = self.ports[..DATA_SERVERS].iter().any(|of| of == port);
        let password = if is_data { PASSWORD } else { SENTINEL_PASSWORD };
        let asking = async { while !run((port, password), command).await.contains(wanted) {} };
        assert!(timeout(TEST_TIMEOUT, asking).await.is_ok(), "{wanted}");
    }

    /// Cuts the master off from the Sentinels and from its replicas. Other clients keep their connections.
    pub(crate) async fn isolate_master(&self) {
        let port = self.ports[0].as_str();
        // Only a new connection needs the new password.
        let set = ["config", "set", "requirepass", ISOLATED];
        assert_eq!(run((port, PASSWORD), &set).await, "OK");
        let master = (port, ISOLATED);
        run(master, &["client", "kill", "type", "replica"]).await;
        let clients = run(master, &["client", "list"]).await;
        for client in clients
            .lines()
            .filter(|client| client.contains("name=sentinel-"))
        {
            let id = client
                .strip_prefix("id=")
                .unwrap()
                .split(' ')
                .next()
                .unwrap();
            run(master, &["client", "kill", "id", id]).await;
        }
    }

    /// Waits until the successor of the master has this number of gateways.
    pub(crate) async fn wait_for_gateways_at_successor(&self, number: usize) {
        let subscribers = ["pubsub", "numsub", "sidegate:events"];
        let wanted = format!("sidegate:events\n{number}");
        let waiting = async {
            loop {
                for port in &self.ports[1..DATA_SERVERS] {
                    if run((port, PASSWORD), &subscribers).await == wanted {
                        return;
                    }
                }
            }
        };
        // On a busy machine, an election can fail, and the Sentinels repeat it.
        assert!(timeout(TEST_TIMEOUT * 4, waiting).await.is_ok(), "{wanted}");
    }

    /// Kills the master.
    pub(crate) async fn kill_master(&mut self) {
        self.servers[0].kill().await.unwrap();
    }
}

/// Runs a command of the server with this port and this password.
async fn run((port, password): (&str, &str), command: &[&str]) -> String {
    let mut client = Command::new("redis-cli");
    client.env("REDISCLI_AUTH", password);
    client.args(["-p", port]).args(command);
    let output = client.output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A free port of 127.0.0.1.
pub(crate) fn free_port() -> String {
    let address = super::program::free_address();
    address.rsplit_once(':').unwrap().1.to_owned()
}
