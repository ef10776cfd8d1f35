//! A real browser: Debian's Chromium, driven over `WebDriver`.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const DRIVER: &str = "/usr/bin/chromedriver";
const BROWSER: &str = "/usr/bin/chromium";

/// The longest time for a page, or for the start of the browser, on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_mins(1);

/// One browser with its own profile. The browser, the driver and the profile are removed when the
/// value is dropped.
pub(crate) struct Chromium {
    client: Client,
    port: u16,
    driver: Child,
    _profile: TempDir,
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // The driver ends its browsers when it shuts down. If the driver were killed, its browsers
        // would continue to run.
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) {
            let request = b"GET /shutdown HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            drop(stream.set_read_timeout(Some(Duration::from_secs(10))));
            drop(stream.write_all(request));
            drop(stream.read_to_end(&mut Vec::new()));
        }
        drop(self.driver.start_kill());
    }
}

fn capabilities(profile: &TempDir, rules: &str) -> serde_json::Map<String, Value> {
    let profile = format!("--user-data-dir={}", profile.path().display());
    let rules = format!("--host-resolver-rules={rules}");
    let arguments = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=900,900",
        // Allows scripts to open any number of tabs.
        "--disable-popup-blocking",
        &rules,
        &profile,
    ];
    let options = json!({ "binary": BROWSER, "args": arguments });
    let all = json!({ "browserName": "chrome", "goog:chromeOptions": options });
    all.as_object().unwrap().clone()
}

/// Starts the driver, and returns its port. The driver listens at the same port of IPv4 and IPv6. The
/// driver ends if another program has the port of IPv6, so it gets three attempts.
async fn start_driver() -> (Child, u16) {
    for _attempt in 0..3 {
        let mut driver = Command::new(DRIVER)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let starting = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let port = line.split("successfully on port ").nth(1);
                if let Some(port) = port.and_then(|port| port.trim_end_matches('.').parse().ok()) {
                    return Some(port);
                }
            }
            None
        };
        let started = timeout(TEST_TIMEOUT, starting).await;
        if let Some(port) = started.expect("chromedriver did not start") {
            return (driver, port);
        }
    }
    panic!("chromedriver ended three times before it listened")
}

impl Chromium {
    /// Starts driver and browser.
    pub(crate) async fn start() -> Self {
        Self::with_rules("").await
    }

    /// Starts driver and browser. `place` (host and port) leads to `address`.
    pub(crate) async fn leading(place: &str, address: SocketAddr) -> Self {
        Self::with_rules(&format!("MAP {place} {address}")).await
    }

    /// Starts driver and browser.
    ///
    /// # Panics
    ///
    /// Panics if the browser or the driver is not installed, because a test that cannot run has
    /// failed.
    async fn with_rules(rules: &str) -> Self {
        for program in [DRIVER, BROWSER] {
            let there = Path::new(program).exists();
            assert!(
                there,
                "{program} is missing: install chromium and chromium-driver"
            );
        }
        let (driver, port) = start_driver().await;
        let profile = tempfile::tempdir().unwrap();
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities(&profile, rules));
        let url = format!("http://127.0.0.1:{port}");
        let connecting = timeout(TEST_TIMEOUT, builder.connect(&url)).await;
        let client = connecting.expect("chromium did not start").unwrap();
        Self {
            client,
            port,
            driver,
            _profile: profile,
        }
    }

    /// The `WebDriver` client itself.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Opens `url` in the current tab and waits until it is loaded.
    pub(crate) async fn open(&self, url: &str) {
        timeout(TEST_TIMEOUT, self.client.goto(url))
            .await
            .expect("no page in time")
            .unwrap();
    }

    /// Types user and password into the login form of the page and submits it.
    pub(crate) async fn log_in(&self, user: &str, password: &str) {
        let login = Locator::Css("form input[type=password]");
        let field = self
            .client
            .wait()
            .at_most(TEST_TIMEOUT)
            .for_element(login)
            .await
            .unwrap();
        let user_field = "form input[type=text], form input[type=email], form input:not([type])";
        let typed = self.client.find(Locator::Css(user_field)).await.unwrap();
        typed.clear().await.unwrap();
        typed.send_keys(user).await.unwrap();
        field.send_keys(&format!("{password}\n")).await.unwrap();
    }

    /// Waits until the URL of the page satisfies `wanted`. Returns the text of the page.
    pub(crate) async fn wait_for(&self, wanted: impl Fn(&str) -> bool) -> String {
        let waiting = async {
            loop {
                let url = self.client.current_url().await.unwrap();
                let ready = self
                    .client
                    .execute("return document.readyState", Vec::new())
                    .await;
                let loaded = ready.is_ok_and(|state| state == "complete");
                if loaded && wanted(url.as_str()) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if timeout(TEST_TIMEOUT, waiting).await.is_err() {
            let url = self.client.current_url().await;
            panic!("the browser is still at {url:?}:\n{}", self.text().await);
        }
        self.text().await
    }

    /// Waits until the page shows the text `wanted`.
    pub(crate) async fn wait_for_text(&self, wanted: &str) {
        let waiting = async {
            while !self.text().await.contains(wanted) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let came = timeout(TEST_TIMEOUT, waiting).await.is_ok();
        assert!(
            came,
            "the page never says {wanted:?}:\n{}",
            self.text().await
        );
    }

    /// Waits until the JavaScript expression `wanted` is true in the page.
    pub(crate) async fn wait_for_script(&self, wanted: &str) {
        let script = format!("return Boolean({wanted})");
        let waiting = async {
            while self.run(&script).await != true {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let came = timeout(TEST_TIMEOUT, waiting).await.is_ok();
        assert!(came, "the page never has {wanted}:\n{}", self.text().await);
    }

    /// The visible text of the page.
    pub(crate) async fn text(&self) -> String {
        let text = self
            .run("return document.body ? document.body.innerText : ''")
            .await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Stores a screenshot with the build results.
    pub(crate) async fn picture(&self, name: &str) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pages");
        std::fs::create_dir_all(&folder).unwrap();
        let picture = self.client.screenshot().await.unwrap();
        assert!(picture.starts_with(b"\x89PNG"), "{name}");
        std::fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }

    /// Runs a script in the page.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap()
    }

    /// Awaits a promise in the page: `expression` is its JavaScript.
    pub(crate) async fn promise(&self, expression: &str) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1]; \
             Promise.resolve({expression}).then(done, e => done('failed: ' + e));"
        );
        let running = self.client.execute_async(&script, Vec::new());
        timeout(TEST_TIMEOUT, running)
            .await
            .expect("a promise stays open")
            .unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::upstream::{Answer, RecordingUpstream};

    #[tokio::test]
    async fn a_real_browser_keeps_host_cookies_on_loopback() {
        let server = RecordingUpstream::start().await;
        server.answer_by(|request| {
            let cookie = "__Host-a=1; Path=/; Secure; HttpOnly; SameSite=Lax";
            let fields = [("Content-Type", "text/html"), ("Set-Cookie", cookie)];
            Answer::with(200, &fields, &format!("<p>page {}", request.target()))
        });
        let browser = Chromium::start().await;
        for host in ["localhost", "127.0.0.1"] {
            let url = format!("http://{host}:{}", server.address().port());
            browser.open(&format!("{url}/first")).await;
            browser.open(&format!("{url}/second")).await;
            assert_eq!(
                browser.wait_for(|url| url.ends_with("/second")).await,
                "page /second"
            );
            let second = server
                .requests()
                .into_iter()
                .rfind(|r| r.target() == "/second");
            let head = second.unwrap().head;
            assert_eq!(
                head.value("cookie").as_deref(),
                Some("__Host-a=1"),
                "{host}"
            );
            assert_eq!(
                head.value("sec-fetch-mode").as_deref(),
                Some("navigate"),
                "{host}"
            );
        }
        let text = browser.promise("fetch('/third').then(r => r.text())").await;
        assert_eq!(text, "<p>page /third");
    }
}
