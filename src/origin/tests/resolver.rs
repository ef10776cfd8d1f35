//! Tests of origins whose name has new addresses, several addresses, or no address.

use std::net::SocketAddr;

use tokio::join;
use tokio::sync::watch;

use super::*;
use crate::origin::resolver::Resolver;
use crate::origin::{CallLimits, Client, Protocol};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A name server that a test controls. If the name server has no addresses, each look-up fails.
#[derive(Clone, Default)]
struct NameServer(Arc<watch::Sender<Vec<SocketAddr>>>);

impl NameServer {
    /// Sets the addresses that the name server returns for every name.
    fn set(&self, addresses: &[SocketAddr]) {
        self.0.send_replace(addresses.to_vec());
    }

    fn resolver(&self) -> Resolver {
        let current = Arc::clone(&self.0);
        Resolver::new(move |host, port| {
            assert_eq!((&*host, port), ("app.test", 80));
            let found = current.borrow().clone();
            let found = if found.is_empty() {
                Err(io::Error::other("the name server does not answer"))
            } else {
                Ok(found)
            };
            Box::pin(std::future::ready(found))
        })
    }

    fn connector(&self) -> Connector {
        let origin = "http://app.test".parse().unwrap();
        let connector = Connector::new(origin, None, WATCHDOG).unwrap();
        connector.with_resolver(self.resolver())
    }

    fn pool(&self, protocol: Protocol) -> Pool {
        let connector = Arc::new(self.connector().with_protocol(protocol));
        Pool::new(connector, Arc::new(limit(16, 16)), times(), Clock::system())
    }
}

fn address(server: &Server) -> SocketAddr {
    server.listener.local_addr().unwrap()
}

#[tokio::test]
async fn f_08_new_connections_use_the_new_address_of_an_app() {
    local(async {
        let (old, new) = (Server::start().await, Server::start().await);
        let names = NameServer::default();
        let pool = names.pool(Protocol::Http1);
        names.set(&[address(&old)]);
        let (first, mut at_old) = join!(fetch(&pool, "/1"), old.answer(OK));
        assert_eq!(first.unwrap(), "ok");
        names.set(&[address(&new)]);
        // The idle connection to the old address is used until the app closes the connection.
        let (second, _head) = join!(fetch(&pool, "/2"), at_old.answer(OK));
        assert_eq!(second.unwrap(), "ok");
        let both = async { join!(fetch(&pool, "/3"), fetch(&pool, "/4")) };
        let answers = async { join!(at_old.answer(OK), new.answer(OK)) };
        let ((third, fourth), (head, _at_new)) = join!(both, answers);
        assert_eq!(
            (third.unwrap(), fourth.unwrap()),
            ("ok".into(), "ok".into())
        );
        assert!(head.starts_with("GET /3 "), "{head}");
    })
    .await;
}

#[tokio::test]
async fn f_08_after_the_old_address_closes_its_connections_only_the_new_one_is_used() {
    local(async {
        let (old, new) = (Server::start().await, Server::start().await);
        let names = NameServer::default();
        let pool = names.pool(Protocol::Http1);
        names.set(&[address(&old)]);
        let (first, at_old) = join!(fetch(&pool, "/1"), old.answer(OK));
        assert_eq!(first.unwrap(), "ok");
        names.set(&[address(&new)]);
        drop((at_old, old));
        let (second, mut at_new) = join!(fetch(&pool, "/2"), new.answer(OK));
        assert_eq!(second.unwrap(), "ok");
        let (third, head) = join!(fetch(&pool, "/3"), at_new.answer(OK));
        assert_eq!(third.unwrap(), "ok");
        assert!(head.starts_with("GET /3 "), "{head}");
    })
    .await;
}

#[tokio::test]
async fn f_08_without_a_name_server_open_connections_still_work_and_failures_are_not_kept() {
    local(async {
        let app = Server::start().await;
        let names = NameServer::default();
        let pool = names.pool(Protocol::Http1);
        let error = fetch(&pool, "/1").await.unwrap_err();
        assert!(matches!(error, Error::Resolve(_)), "{error:?}");
        assert!(!error.may_have_been_processed());
        names.set(&[address(&app)]);
        let (second, mut peer) = join!(fetch(&pool, "/2"), app.answer(OK));
        assert_eq!(second.unwrap(), "ok");
        names.set(&[]);
        let both = async { join!(fetch(&pool, "/3"), fetch(&pool, "/4")) };
        let ((third, fourth), _head) = join!(both, peer.answer(OK));
        assert_eq!(third.unwrap(), "ok");
        let error = fourth.unwrap_err();
        assert!(matches!(error, Error::Resolve(_)), "{error:?}");
    })
    .await;
}

#[tokio::test]
async fn f_08_an_http_2_app_is_looked_up_for_each_connection() {
    local(async {
        let names = NameServer::default();
        let pool = names.pool(Protocol::Http2);
        let (one, two) = join!(fetch(&pool, "/1"), fetch(&pool, "/2"));
        for outcome in [one, two] {
            assert!(matches!(outcome, Err(Error::Resolve(_))), "{outcome:?}");
        }
        for _ in ["the old address", "the new address"] {
            let app = Server::start().await;
            names.set(&[address(&app)]);
            let answers = async {
                let stream = app.accept().await.0;
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let (_, mut respond) = connection.accept().await.unwrap().unwrap();
                let head = Response::new(());
                let mut body = respond.send_response(head, false).unwrap();
                body.send_data(Bytes::from_static(b"ok"), true).unwrap();
                // The app sends the answer and announces the end of the connection.
                connection.graceful_shutdown();
                drop(connection.accept().await);
            };
            let (fetched, ()) = join!(fetch(&pool, "/"), answers);
            assert_eq!(fetched.unwrap(), "ok");
        }
    })
    .await;
}

#[tokio::test]
async fn f_08_a_client_of_a_provider_tries_all_addresses_and_keeps_no_failure() {
    local(async {
        let provider = Server::start().await;
        let names = NameServer::default();
        let client = Client::new(names.connector());
        let call = async || {
            let request = Request::new(Bytes::new().into());
            client.call(request, CallLimits::default()).await
        };
        let error = call().await.unwrap_err();
        assert!(matches!(error, Error::Resolve(_)), "{error:?}");
        let open = address(&provider);
        let refusing = SocketAddr::from(([127, 0, 0, 2], open.port()));
        names.set(&[refusing, open]);
        let (answer, _peer) = join!(call(), provider.answer(OK));
        assert_eq!(answer.unwrap().into_body(), "ok");
        names.set(&[refusing]);
        let error = call().await.unwrap_err();
        assert!(matches!(error, Error::Connect(_)), "{error:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn f_08_a_look_up_that_never_ends_takes_the_time_of_a_connection() {
    let deadline = Duration::from_secs(7);
    let origin = "http://app.test".parse().unwrap();
    let connector = Connector::new(origin, None, deadline).unwrap();
    let connector = connector.with_resolver(Resolver::new(|_, _| Box::pin(std::future::pending())));
    let began = Clock::system().instant();
    let error = connector.connect().await.unwrap_err();
    assert!(matches!(error, Error::ConnectTimeout), "{error:?}");
    let now = Clock::system().instant();
    assert_eq!(now.saturating_duration_since(began), deadline);
}
