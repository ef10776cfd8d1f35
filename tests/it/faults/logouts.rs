//! A storm of logout tokens: the provider ends the sessions of many users at once, and a stranger
//! sends forged tokens. Users whose sessions do not end notice nothing.

use std::net::SocketAddr;

use sidegate::clock::Clock;
use tokio::task::JoinSet;

use super::{Plan, Row, run_row};
use crate::back_channel::{draft_of, name_sessions};
use crate::durable::stored_at;
use crate::support::killed::StoreFolder;
use crate::support::raw::Raw;

/// The number of users whose sessions end.
const USERS: usize = 20;

/// The number of connections of the provider, and of the stranger.
const CONNECTIONS: usize = 8;

/// The number of tokens on each connection.
const TOKENS: usize = 50;

/// Sends one token, and returns the status of the answer.
async fn send(client: &mut Raw, token: &str) -> u16 {
    let form = format!("logout_token={token}");
    client
        .send(format!(
            "POST /oauth2/backchannel_logout HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
            form.len()
        ))
        .await;
    client.response("POST").await.unwrap().status()
}

/// Sends the tokens of the provider on one connection. The gateway accepts each token, but the
/// provider may have to send a token several times.
async fn send_valid(gateway: SocketAddr, tokens: Vec<String>) {
    let mut client = Raw::connect(gateway).await;
    for token in tokens {
        let mut status = 503;
        while status == 503 {
            status = send(&mut client, &token).await;
        }
        assert_eq!(status, 200);
    }
}

/// Sends the tokens of the stranger on one connection. The gateway accepts no token.
async fn send_forged(gateway: SocketAddr, tokens: Vec<String>) {
    let mut client = Raw::connect(gateway).await;
    for token in tokens {
        let status = send(&mut client, &token).await;
        assert!([400, 429, 503].contains(&status), "{status}");
    }
}

/// The tokens of each connection. `token` makes the token with a number.
fn for_connections(token: impl Fn(usize) -> String) -> Vec<Vec<String>> {
    let mut numbers = 0..;
    let mut tokens = |_connection| {
        let some = numbers.by_ref().take(TOKENS);
        some.map(&token).collect()
    };
    (0..CONNECTIONS).map(&mut tokens).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_18_a_storm_of_logout_tokens_delays_nobody_and_ends_only_the_named_sessions() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        openid: true,
        rest: stored_at(&StoreFolder::new(folder.path()), folder.path()),
        ..Plan::default()
    };
    run_row("a storm of logout tokens", plan, async |row: &mut Row| {
        name_sessions(&row.provider);
        let mut cookies = Vec::new();
        for number in 0..USERS {
            cookies.push(row.cookie(&format!("user-{number}")).await);
        }
        let now = Clock::system().now();
        let valid = for_connections(|number| {
            draft_of(&row.provider, now, &format!("user-{}", number % USERS)).signed()
        });
        let forged = for_connections(|_number| {
            let draft = draft_of(&row.provider, now, "bob");
            draft.signed_by(draft.keys.of_an_attacker(), "RS256")
        });
        // All tokens come from one address.
        let gateway = row.gateway.address();
        let mut sending = JoinSet::new();
        for (valid, forged) in valid.into_iter().zip(forged) {
            sending.spawn(send_valid(gateway, valid));
            sending.spawn(send_forged(gateway, forged));
        }
        while let Some(sent) = sending.join_next().await {
            sent.unwrap();
        }
        for (number, cookie) in cookies.iter().enumerate() {
            let user = format!("user-{number}");
            assert!(!is_served(row, cookie).await, "{user}");
        }
        // A new login needs no pause.
        row.cookie("dave").await;
    })
    .await;
}

async fn is_served(row: &Row, cookie: &str) -> bool {
    let mut client = Raw::connect(row.gateway.address()).await;
    let request = format!("GET /page HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
    client.send(request).await;
    let answer = client.response("GET").await.unwrap();
    assert!(
        [200, 401, 303].contains(&answer.status()),
        "{}",
        answer.status()
    );
    answer.status() == 200
}
