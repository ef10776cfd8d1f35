//! Host names that are lost, and host names that change their address.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::providers::{self, ShortLived};
use super::{Plan, Row, greeting, run_row};
use crate::support::hosts::Hosts;
use crate::support::raw::{Raw, exchange};
use crate::support::upstream::{Answer, RecordingUpstream};

/// The name of the app, and its two addresses.
const NAME: &str = "app.test";
const OLD: Ipv4Addr = Ipv4Addr::LOCALHOST;
const NEW: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_08_a_host_name_of_an_app_can_be_lost_and_can_change_its_address() {
    let hosts = Arc::new(Hosts::new());
    hosts.set(&[(NAME, OLD)]);
    let mut app = RecordingUpstream::start().await;
    let port = app.address().port();
    let plan = Plan {
        rest: format!(
            "[upstreams.named]\nurl = \"http://{NAME}:{port}\"\nidle_timeout_secs = 60\n\
             [[routes]]\nprefix = \"/named\"\nupstream = \"named\"\n"
        ),
        hosts: Some(Arc::clone(&hosts)),
        ..Plan::default()
    };
    run_row("the name of an app", plan, async |row: &mut Row| {
        row.outcome.more_rows += 1;
        let cookie = row.cookie("alice").await;
        let gateway = row.gateway.address();
        // One worker of the gateway has a connection to the app.
        let mut held = Raw::connect(gateway).await;
        app.answer_by(|request| Answer::ok(&greeting(request)));
        served(&mut held, &cookie).await;
        hosts.set(&[]);
        served(&mut held, &cookie).await;
        lost(&mut held, &app, &cookie).await;
        hosts.set(&[(NAME, OLD)]);
        served(&mut held, &cookie).await;
        let mut next = RecordingUpstream::at(SocketAddr::from((NEW, port))).await;
        next.answer_by(|_request| Answer::ok("the new address"));
        hosts.set(&[(NAME, NEW)]);
        // The connection to the old address is open, so the gateway still uses it.
        served(&mut held, &cookie).await;
        app.stop().await;
        let answer = exchange(gateway, get(&cookie).as_bytes(), 1).await;
        assert_eq!(answer.responses[0].text(), "the new address");
        next.stop().await;
    })
    .await;
}

fn get(cookie: &str) -> String {
    format!("GET /named HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n")
}

async fn served(client: &mut Raw, cookie: &str) {
    client.send(get(cookie)).await;
    let answer = client.response("GET").await.unwrap();
    assert_eq!(answer.text(), "alice /named", "{}", answer.status());
}

/// Fails unless a request that needs a new connection gets 502. The app closes the connection of
/// the previous request.
async fn lost(client: &mut Raw, app: &RecordingUpstream, cookie: &str) {
    app.next(Answer::ok("alice /named").then_close());
    served(client, cookie).await;
    app.wait_until_unconnected().await;
    client.send(get(cookie)).await;
    let answer = client.response("GET").await.unwrap();
    assert_eq!(answer.status(), 502, "{}", answer.text());
}

const PROVIDER: &str = "id.test";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_08_a_host_name_of_a_provider_can_be_lost_and_can_change_its_address() {
    let hosts = Arc::new(Hosts::new());
    hosts.set(&[(PROVIDER, OLD)]);
    let plan = Plan {
        provider: "plain_http = true\n",
        provider_name: Some(PROVIDER),
        hosts: Some(Arc::clone(&hosts)),
        ..providers::plan()
    };
    run_row("the name of a provider", plan, async |row: &mut Row| {
        row.outcome.more_rows += 1;
        let user = ShortLived::sign_in(row).await;
        hosts.set(&[]);
        user.waits(row).await;
        hosts.set(&[(PROVIDER, OLD)]);
        user.is_served(row).await;
        let port = row.provider.address().port();
        row.provider.down().await;
        row.provider.up_at(SocketAddr::from((NEW, port))).await;
        user.waits(row).await;
        hosts.set(&[(PROVIDER, NEW)]);
        user.is_served(row).await;
    })
    .await;
}
