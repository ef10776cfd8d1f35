//! Tests of calls to a provider that can behave wrongly.

use http_body_util::Full;
use tokio::join;

use super::*;
use crate::origin::{CallLimits, Client};

fn client(server: &Server) -> Client {
    Client::new(Connector::new(server.origin.clone(), None, WATCHDOG).unwrap())
}

fn token_request() -> Request<Full<Bytes>> {
    Request::post("https://elsewhere.example/oauth/token?a=b")
        .header("host", "wrong.example")
        .header("accept-encoding", "gzip")
        .body(Full::from("grant"))
        .unwrap()
}

/// Sends a token request, and returns the response or the error. The server sends the part of
/// `response` before `|`, and then repeats the part after `|` until the client closes the
/// connection.
async fn flooded(response: &str, limits: CallLimits) -> Result<Response<Bytes>, Error> {
    let server = Server::start().await;
    let client = client(&server);
    let (outcome, ()) = join!(client.call(token_request(), limits), async {
        let mut peer = server.accept().await;
        peer.until("grant").await;
        let mut parts = response.split('|');
        peer.send(parts.next().unwrap()).await;
        let again = parts.next().unwrap_or_default();
        while !again.is_empty() && peer.0.write_all(again.as_bytes()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    outcome
}

fn limits() -> CallLimits {
    CallLimits::default()
}

#[tokio::test]
async fn a_call_is_addressed_to_its_origin_and_returns_the_whole_answer() {
    local(async {
        let server = Server::start().await;
        let client = client(&server);
        let (outcome, head) = join!(client.call(token_request(), limits()), async {
            let mut peer = server.accept().await;
            let head = peer.until("grant").await;
            peer.send("HTTP/1.1 400 Bad Request\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n")
                .await;
            peer.send("0\r\n\r\n").await;
            head
        });
        let lines: Vec<&str> = head.split("\r\n").collect();
        assert_eq!(lines[0], "POST /oauth/token?a=b HTTP/1.1");
        for line in [
            &format!("host: {}", server.origin.authority()),
            "accept-encoding: identity",
            "content-length: 5",
        ] {
            assert!(lines.contains(&line), "{line} in {head}");
        }
        assert!(!head.contains("wrong.example") && !head.contains("gzip"));
        let response = outcome.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.body()[..]),
            (400, &b"{}"[..])
        );
    })
    .await;
}

#[tokio::test]
async fn each_call_uses_a_new_connection() {
    local(async {
        let server = Server::start().await;
        let client = client(&server);
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        for _ in 0..2 {
            let (outcome, mut peer) =
                join!(client.call(token_request(), limits()), server.answer(ok));
            assert_eq!(outcome.unwrap().body(), "{}");
            peer.rest().await;
        }
    })
    .await;
}

#[tokio::test]
async fn d_30_d_31_an_endless_answer_is_given_up() {
    local(async {
        let chunk = "5\r\nxxxxx\r\n".repeat(1000);
        let announced = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1_u64 << 40);
        let small = CallLimits {
            body_bytes: 5,
            ..limits()
        };
        for (response, limits) in [
            (format!("HTTP/1.1 200 OK\r\n\r\n|{chunk}"), limits()),
            (
                format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n|{chunk}"),
                limits(),
            ),
            (announced, limits()),
            ("HTTP/1.1 200 OK\r\n\r\nsixsix".to_owned(), small),
        ] {
            let outcome = flooded(&response, limits).await;
            assert!(matches!(outcome, Err(Error::TooLarge)), "{outcome:?}");
        }
        let exact = "HTTP/1.1 200 OK\r\n\r\nfives";
        assert_eq!(flooded(exact, small).await.unwrap().body(), "fives");
    })
    .await;
}

#[tokio::test]
async fn d_31_an_endless_head_is_given_up() {
    local(async {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
        for response in [
            &many,
            "HTTP/1.1 200 OK\r\n|x: yyyyyyyyyyyyyyyyyyyyyyyyyy\r\n",
        ] {
            let outcome = flooded(response, limits()).await;
            assert!(matches!(outcome, Err(Error::TooLarge)), "{outcome:?}");
        }
        let most = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(100));
        assert_eq!(flooded(&most, limits()).await.unwrap().headers().len(), 100);
    })
    .await;
}

#[tokio::test]
async fn d_31_every_slow_answer_ends_at_the_deadline() {
    local(async {
        let limits = CallLimits {
            deadline: Duration::from_millis(100),
            ..limits()
        };
        let storm = "|HTTP/1.1 100 Continue\r\n\r\n";
        let outcome = flooded(storm, limits).await;
        assert!(matches!(outcome, Err(Error::CallTimeout)), "{outcome:?}");
        for drip in [
            "HTTP/1.1 200 ",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
        ] {
            let server = Server::start().await;
            let client = client(&server);
            let (outcome, rest) = join!(client.call(token_request(), limits), async {
                let mut peer = server.accept().await;
                peer.until("grant").await;
                peer.send(drip).await;
                peer.rest().await
            });
            let error = outcome.unwrap_err();
            assert!(matches!(error, Error::CallTimeout), "{error:?}");
            assert!(error.may_have_been_processed());
            assert!(rest.is_empty());
        }
    })
    .await;
}

#[tokio::test]
async fn d_31_a_redirect_is_not_followed() {
    local(async {
        let response = "HTTP/1.1 307 x\r\nlocation: /again\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(flooded(response, limits()).await.unwrap().status(), 307);
    })
    .await;
}

#[tokio::test]
async fn d_31_an_answer_that_is_not_http_1_1_is_an_error() {
    local(async {
        for response in ["", "<html>", "HTTP/3 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            let outcome = flooded(response, limits()).await;
            assert!(matches!(outcome, Err(Error::Broken(_))), "{outcome:?}");
        }
        let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n";
        let outcome = flooded(switch, limits()).await;
        assert!(
            matches!(outcome, Err(Error::UnrequestedUpgrade)),
            "{outcome:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn an_error_says_that_nothing_was_sent() {
    local(async {
        let server = Server::start().await;
        let client = client(&server);
        drop(server);
        let error = client.call(token_request(), limits()).await.unwrap_err();
        assert!(matches!(error, Error::Connect(_)), "{error:?}");
        assert!(!error.may_have_been_processed());
        let unresolved = "http://no-such-host.invalid".parse().unwrap();
        let client = Client::new(Connector::new(unresolved, None, WATCHDOG).unwrap());
        let error = client.call(token_request(), limits()).await.unwrap_err();
        assert!(matches!(error, Error::Resolve(_)), "{error:?}");
        assert!(!error.may_have_been_processed());
    })
    .await;
}
