//! Faults while streams are open: an app that dies, a stop of the gateway, a provider or a store
//! that fails. Bystanders, who use another app at the same time, must not notice a fault.
//!
//! Each test is a row, or a table of rows. A row gives [`run_row`] a function that causes one fault
//! and checks the effects of the fault. `run_row` starts the gateway and the bystanders, and
//! records the counts of the bystanders. `tests/run faults` computes its last line from these
//! counts.

mod answers;
mod bystander;
mod outcome;
mod slow;
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use self::bystander::Bystander;
use self::outcome::{Outcome, UnfinishedRow};
use crate::support::browser::Browser;
use crate::support::certificates::Authority;
use crate::support::gateway::{Process, Settings};
use crate::support::limits;
use crate::support::provider::StandIn;
use crate::support::raw::Raw;
use crate::support::scene::{ORIGIN, SESSION, TLS_ORIGIN, figure};
use crate::support::socket::{End, Opening, SocketApp};
use crate::support::upstream::{Answer, Recorded, RecordingUpstream};
use crate::support::wire::PATIENCE;

/// The longest time of a row.
const ROW_PATIENCE: Duration = Duration::from_mins(2);

/// The number of descriptors that this process needs: both ends of a thousand tunnels, and the
/// sockets of other tests.
const DESCRIPTORS: u32 = 8192;

/// The open streams of the route for streams.
const OPEN: &str = "sidegate_streams_open{route=\"/any\",kind=\"websocket\"}";

/// A gateway with an app for streams at `/any` and an app for bystanders at `/`. Both routes need a
/// session.
struct Row {
    gateway: Process,
    door: Arc<Door>,
    provider: StandIn,
    sockets: SocketApp,
    app: RecordingUpstream,
    bystanders: Vec<Bystander>,
    outcome: Outcome,
}

/// The public address of the gateway.
struct Door {
    address: SocketAddr,
    /// The authority of the certificate, if the gateway uses TLS.
    tls: Option<Authority>,
}

impl Door {
    async fn connect(&self) -> Raw {
        match &self.tls {
            None => Raw::connect(self.address).await,
            Some(tls) => Raw::connect_tls(self.address, "localhost", tls.client(&[])).await,
        }
    }

    fn origin(&self) -> &'static str {
        match self.tls {
            None => ORIGIN,
            Some(_) => TLS_ORIGIN,
        }
    }
}

/// The settings of a row that differ from the defaults.
#[derive(Default)]
struct Plan {
    /// Keys of the route for streams.
    streams: &'static str,
    /// Keys of the app for streams.
    app: &'static str,
    /// Other sections, such as the store.
    rest: String,
    server: &'static str,
    /// Keys of the app of the bystanders.
    bystanders_app: &'static str,
    /// Whether the gateway uses TLS, so that its clients can use HTTP/2.
    tls: bool,
    /// The lifetime of access tokens, in seconds.
    token_lifetime: Option<u64>,
    /// Bodies are forwarded while they arrive, so that a slow client occupies a connection.
    without_buffers: bool,
}

/// Runs one row, or several rows that `fault` counts.
///
/// # Panics
///
/// Panics if a request of a bystander or a check in `fault` has failed.
async fn run_row(name: &'static str, plan: Plan, fault: impl AsyncFnOnce(&mut Row)) {
    let unfinished = UnfinishedRow(name);
    let mut row = Row::start(plan).await;
    let descriptors = row.gateway.descriptors();
    let ended = timeout(ROW_PATIENCE, fault(&mut row)).await;
    row.stop_bystanders().await;
    row.outcome.stuck += usize::from(ended.is_err());
    if row.gateway.is_running() {
        row.count_leaks(descriptors).await;
    }
    drop(unfinished);
    row.outcome.finish(name);
}

impl Row {
    async fn start(plan: Plan) -> Self {
        limits::raise_descriptors(std::process::id(), DESCRIPTORS);
        let provider = StandIn::start().await;
        if let Some(lifetime) = plan.token_lifetime {
            provider.token_members(serde_json::json!({ "expires_in": lifetime }));
        }
        let (sockets, app) = (SocketApp::start().await, RecordingUpstream::start().await);
        app.forget_what_is_answered();
        app.answer_by(|request| Answer::ok(&greeting(request)));
        let routes = format!(
            "[upstreams.sockets]\nurl = \"{}\"\n{}\n\
             [[routes]]\nprefix = \"/\"\nupstream = \"app\"\n\
             [[routes]]\nprefix = \"/any\"\nupstream = \"sockets\"\n{}\n{}",
            sockets.url(),
            plan.app,
            plan.streams,
            plan.rest
        );
        let tls = plan.tls.then(Authority::new);
        let origin = if plan.tls { TLS_ORIGIN } else { ORIGIN };
        let mut settings = Settings::new(origin, &provider.url(), &app.url())
            .server(plan.server)
            .server(if plan.without_buffers {
                "buffer_mib = 0"
            } else {
                ""
            })
            .app(plan.bystanders_app)
            .with(&routes);
        if let Some(tls) = &tls {
            settings = settings.tls(tls);
        }
        let gateway = Process::start_quietly(settings).await;
        let address = gateway.address();
        let mut row = Self {
            gateway,
            door: Arc::new(Door { address, tls }),
            provider,
            sockets,
            app,
            bystanders: Vec::new(),
            outcome: Outcome::default(),
        };
        for user in ["bob", "carol"] {
            let cookie = row.cookie(user).await;
            let bystander = Bystander::start(&row.door, user, cookie).await;
            row.bystanders.push(bystander);
        }
        row
    }

    /// The `Cookie` field of a user who signs in now.
    async fn cookie(&self, user: &str) -> String {
        let browser = self.browser(user);
        let origin = self.door.origin();
        let page = browser.visit(&format!("{origin}/start")).await;
        assert_eq!(page.text(), format!("{user} /start"), "{}", page.describe());
        format!("{SESSION}={}", browser.cookie(origin, SESSION).unwrap())
    }

    /// A browser whose user at the provider is `user`.
    fn browser(&self, user: &str) -> Browser {
        let browser = match &self.door.tls {
            None => Browser::new(),
            Some(tls) => Browser::trusting(tls),
        };
        let browser = browser.leading(self.door.origin(), self.door.address);
        browser.plant(&self.provider.url(), &format!("user={user}; Path=/"));
        browser
    }

    /// Opens a WebSocket. Returns the client's end and the app's end.
    async fn open(&self, cookie: &str) -> (End, End) {
        let opening = Opening::at("/any").of_browser(cookie);
        let answer = opening.answer(self.gateway.address());
        let ((head, client), app) = tokio::join!(answer, self.sockets.switch());
        assert_eq!(head.status(), 101);
        (client, app)
    }

    /// Waits until a metric of the gateway is at least `least`.
    async fn wait_for_at_least(&self, name: &str, least: u64) {
        let waiting = async {
            while self.figure(name).await < least {
                tokio::task::yield_now().await;
            }
        };
        let came = timeout(PATIENCE, waiting).await;
        assert!(came.is_ok(), "{name} is {}", self.figure(name).await);
    }

    /// A metric of the gateway. A metric that is not reported yet counts as zero.
    async fn figure(&self, name: &str) -> u64 {
        let value = figure(self.gateway.operations(), name).await;
        value.unwrap_or_default()
    }

    /// Waits until each bystander has sent its last request, and adds the counts of the bystanders
    /// to the outcome.
    async fn stop_bystanders(&mut self) {
        for bystander in self.bystanders.drain(..) {
            self.outcome.add(bystander.stop().await);
        }
    }

    /// Waits until no stream is open and the gateway has no more descriptors than `before`. A
    /// stream or a descriptor that remains is stuck or leaked.
    async fn count_leaks(&mut self, before: usize) {
        let descriptors = || self.gateway.descriptors();
        let waiting = async {
            while self.figure(OPEN).await > 0 || descriptors() > before {
                tokio::task::yield_now().await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            let leaked = descriptors().saturating_sub(before);
            let stuck = self.figure(OPEN).await;
            self.outcome.leaked_descriptors += leaked;
            self.outcome.stuck += usize::try_from(stuck).unwrap();
        }
    }
}

/// The app's answer to a bystander. The answer names the user of the request.
fn greeting(request: &Recorded) -> String {
    let user = request.head.value("x-forwarded-user").unwrap_or_default();
    format!("{user} {}", request.target())
}
