//! Tests with two processes that share one store and have one refresher each.

use std::time::Duration;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::access::flight::{Progress, Waiter};
use crate::access::outcome::RetryPause;
use crate::access::refresh::tests::NOW;
use crate::clock::Clock;
use crate::identity::Identity;
use crate::provider::{self, Provider, Providers, profile};
use crate::session::{
    EndReason, NewSession, Registrations, Sessions, two_redis_replicas, two_replicas,
};
use crate::telemetry::Metrics;
use crate::token::{Lifetime, TokenSet};

/// A token endpoint that sends the same answer to every call. The token endpoint answers only after
/// the test has set `gate` to true.
struct TokenEndpoint {
    url: String,
    gate: watch::Sender<bool>,
    calls: mpsc::UnboundedReceiver<()>,
}

impl TokenEndpoint {
    async fn start(status: &str, body: &str) -> Self {
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (gate, is_open) = watch::channel(false);
        let (called, calls) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut stream, _peer)) = listener.accept().await {
                let (answer, called, mut gate) = (answer.clone(), called.clone(), is_open.clone());
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while stream.read(&mut request).await.unwrap() == 0 {}
                    called.send(()).unwrap();
                    gate.wait_for(|is_open| *is_open).await.unwrap();
                    stream.write_all(answer.as_bytes()).await.unwrap();
                });
            }
        });
        Self { url, gate, calls }
    }

    fn provider(&self) -> Provider {
        let text = format!(
            "url = \"{}\"\nclient_id = \"3\"\nclient_authentication = \"none\"\n\
             authorization_endpoint = \"/a\"\ntoken_endpoint = \"/t\"\n",
            self.url
        );
        let profile = Toml::string(profile::find("oauth2").unwrap());
        let settings = Figment::from(profile).merge(Toml::string(&text)).extract();
        let settings: provider::Settings = settings.unwrap();
        Provider::new("main", &settings, &crate::secret::Environment::default()).unwrap()
    }
}

const GRANTED: &str =
    r#"{"access_token":"new","refresh_token":"second","token_type":"Bearer","expires_in":300}"#;

/// The store that the processes share.
#[derive(Clone, Copy, Debug)]
enum Shared {
    File,
    Redis,
}

const SHARED: [Shared; 2] = [Shared::File, Shared::Redis];

/// Two processes, each with a refresher, and a session whose token has expired in both processes.
struct Processes {
    endpoint: TokenEndpoint,
    clock: Clock,
    replicas: [Arc<Sessions>; 2],
    refreshers: [Arc<Refresher>; 2],
    sessions: [Arc<Session>; 2],
    _folder: tempfile::TempDir,
}

impl Processes {
    async fn start(shared: Shared, (status, body): (&str, &str)) -> Self {
        let endpoint = TokenEndpoint::start(status, body).await;
        let providers: Providers = [("main".into(), Arc::new(endpoint.provider()))].into();
        let (providers, clock) = (Arc::new(providers), Clock::manual(NOW));
        let folder = tempfile::tempdir().unwrap();
        let registrations = Registrations::from([("main".into(), [0; 32])]);
        let replicas = match shared {
            Shared::File => two_replicas(folder.path(), &registrations, NOW),
            Shared::Redis => two_redis_replicas(&registrations, NOW),
        };
        let replicas = replicas.map(Arc::new);
        let refreshers = replicas.each_ref().map(|sessions| {
            Arc::new(Refresher::new(
                Arc::clone(&providers),
                Arc::clone(sessions),
                Arc::new(Metrics::default()),
                clock.clone(),
                Handle::current(),
            ))
        });
        let life = Lifetime {
            expires_at: Some(NOW),
            ..Lifetime::default()
        };
        let new = NewSession {
            provider: "main",
            registration: [0; 32],
            identity: Identity::nameless("op"),
            tokens: TokenSet::new("old", Some("first"), life).unwrap(),
            replaces: Vec::new(),
            sid: None,
            device: None,
            begun_at: NOW,
        };
        let key = replicas[0].open(new, NOW).await.unwrap().key();
        let sessions = [
            replicas[0].fetch(&key).await.unwrap().unwrap(),
            replicas[1].fetch(&key).await.unwrap().unwrap(),
        ];
        Self {
            endpoint,
            clock,
            replicas,
            refreshers,
            sessions,
            _folder: folder,
        }
    }

    /// Starts a refresh of the session in one process.
    fn refresh(&self, process: usize) -> Waiter<RetryPause, Outcome> {
        let (refresher, session) = (&self.refreshers[process], &self.sessions[process]);
        let max_wait = Duration::from_mins(1);
        refresher.join(session, NOW, max_wait).unwrap()
    }
}

async fn outcome(mut waiter: Waiter<RetryPause, Outcome>) -> Outcome {
    loop {
        if let Progress::Finished(outcome) = waiter.progress().await {
            return outcome;
        }
    }
}

fn version(outcome: &Outcome) -> (u64, &str) {
    let Outcome::Renewed(session) = outcome else {
        panic!("{outcome:?}")
    };
    (session.version(), session.tokens().access_token())
}

/// The duration of a lease whose end a test awaits.
const SHORT: Duration = Duration::from_secs(1);

/// Waits a short time, in which all other tasks run until they are blocked.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn g_01_two_processes_that_share_a_store_refresh_a_session_once() {
    for shared in SHARED {
        let mut processes = Processes::start(shared, ("200 OK", GRANTED)).await;
        let first = processes.refresh(0);
        processes.endpoint.calls.recv().await.unwrap();
        let second = processes.refresh(1);
        settle().await;
        assert!(processes.endpoint.calls.is_empty());
        processes.endpoint.gate.send_replace(true);
        for waiter in [first, second] {
            assert_eq!(version(&outcome(waiter).await), (1, "new"));
        }
        assert!(processes.endpoint.calls.is_empty());
    }
}

#[tokio::test]
async fn g_08_a_grant_that_has_ended_ends_the_session_in_both_processes() {
    for shared in SHARED {
        let refusal = r#"{"error":"invalid_grant"}"#;
        let mut processes = Processes::start(shared, ("400 Bad Request", refusal)).await;
        let first = processes.refresh(0);
        processes.endpoint.calls.recv().await.unwrap();
        let second = processes.refresh(1);
        settle().await;
        processes.endpoint.gate.send_replace(true);
        for waiter in [first, second] {
            assert!(matches!(outcome(waiter).await, Outcome::Ended));
        }
        assert!(processes.endpoint.calls.is_empty());
    }
}

#[tokio::test]
async fn g_07_after_a_failure_of_one_process_the_other_one_tries() {
    for shared in SHARED {
        let mut processes = Processes::start(shared, ("503 Service Unavailable", "{}")).await;
        let _first = processes.refresh(0);
        processes.endpoint.calls.recv().await.unwrap();
        let _second = processes.refresh(1);
        settle().await;
        assert!(processes.endpoint.calls.is_empty());
        processes.endpoint.gate.send_replace(true);
        processes.endpoint.calls.recv().await.unwrap();
    }
}

#[tokio::test]
async fn g_12_a_sign_out_does_not_wait_for_the_other_process() {
    for shared in SHARED {
        let mut processes = Processes::start(shared, ("200 OK", GRANTED)).await;
        let first = processes.refresh(0);
        processes.endpoint.calls.recv().await.unwrap();
        let second = processes.refresh(1);
        settle().await;
        let (sessions, key) = (&processes.replicas[0], processes.sessions[0].key());
        sessions.end(key, EndReason::SignedOut).await.unwrap();
        assert!(matches!(outcome(second).await, Outcome::Ended));
        processes.endpoint.gate.send_replace(true);
        assert!(matches!(outcome(first).await, Outcome::Ended));
    }
}

#[tokio::test]
async fn the_lease_of_a_process_that_died_ends_by_itself() {
    for shared in SHARED {
        let mut processes = Processes::start(shared, ("200 OK", GRANTED)).await;
        let (sessions, key) = (&processes.replicas[0], processes.sessions[0].key());
        let lease = sessions.lease(key, NOW, NOW.plus(SHORT)).await;
        assert!(matches!(&lease, Ok(Leased::Granted(_))));
        let waiter = processes.refresh(1);
        settle().await;
        assert!(processes.endpoint.calls.is_empty());
        processes.endpoint.gate.send_replace(true);
        // The clock of a server cannot be turned.
        processes.clock.advance(SHORT);
        assert_eq!(version(&outcome(waiter).await), (1, "new"));
        assert!(processes.endpoint.calls.recv().await.is_some());
    }
}

#[tokio::test]
async fn f_14_a_drain_does_not_wait_for_the_lease_of_another_process() {
    for shared in SHARED {
        let processes = Processes::start(shared, ("200 OK", GRANTED)).await;
        let (sessions, key) = (&processes.replicas[0], processes.sessions[0].key());
        let lease = sessions.lease(key, NOW, NOW.plus(DRAIN_WAIT)).await;
        assert!(matches!(&lease, Ok(Leased::Granted(_))));
        let waiter = processes.refresh(1);
        settle().await;
        processes.refreshers[1].drained().await;
        assert!(matches!(outcome(waiter).await, Outcome::Failed(_)));
    }
}
