//! Server-sent events of the Python package `sse-starlette` in a page of a browser.

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::program::{Program, record};
use crate::support::raw::exchange;
use crate::support::scene::Scene;
use crate::support::webdriver::Chromium;
use crate::support::wire::TEST_TIMEOUT;

use super::{app, assert_within_two_seconds, scene_with, sign_out_in_a_new_tab};

/// A page that has got its first 25 events. The app ends its answer after ten events.
async fn page() -> (Program, Scene, Chromium) {
    let app = app("events_app", &[]).await;
    let scene = scene_with(&app, "/events").await;
    let browser = Chromium::leading("localhost:80", scene.gateway.address()).await;
    browser.open("http://localhost/events/").await;
    browser.wait_for(|url| url.ends_with("/events/")).await;
    assert_eq!(seen(&browser, 25).await["opened"], 3);
    (app, scene, browser)
}

/// Waits for this number of events. Returns the events that the page has received.
async fn seen(browser: &Chromium, number: u64) -> Value {
    let came = format!("seen.numbers.length >= {number}");
    browser.wait_for_script(&came).await;
    let seen = browser.run("return seen").await;
    // No event is lost or comes twice when the browser connects again.
    let numbers: Vec<_> = (1..=number).collect();
    assert_eq!(seen["numbers"], json!(numbers));
    seen
}

/// The number of answers that the app has not ended.
async fn open_answers(app: &Program) -> String {
    let address = app.address().trim_start_matches("http://");
    let request = "GET /events/open HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let outcome = exchange(address.parse().unwrap(), request.as_bytes(), 1).await;
    outcome.responses[0].text()
}

#[tokio::test]
async fn each_server_sent_event_reaches_the_page_at_once() {
    let (_app, _scene, browser) = page().await;
    let seen = browser.run("return seen").await;
    assert_eq!(seen["user"], "alice");
    let delays = seen["delays"].as_array().unwrap();
    let mut delays: Vec<_> = delays.iter().filter_map(Value::as_f64).collect();
    delays.sort_by(f64::total_cmp);
    // On a busy machine, some events are late.
    let median = delays[delays.len() / 2];
    assert!(median < 300.0, "{delays:?}");
    record("stream_peers.txt", &["event stream", "sse-starlette"]);
}

#[tokio::test]
async fn w_03_the_events_of_a_page_end_with_the_session_and_return_with_the_next_one() {
    let (app, _scene, browser) = page().await;
    assert_eq!(open_answers(&app).await, "1");
    let client = browser.client();
    let page = client.window().await.unwrap();
    let clicked = sign_out_in_a_new_tab(&browser).await;
    let other = client.window().await.unwrap();
    client.switch_to_window(page.clone()).await.unwrap();
    browser.wait_for_script("seen.refused >= 2").await;
    let cut = browser.run("return seen.cut").await;
    assert_within_two_seconds(&cut[2], clicked);
    let ended = async { while open_answers(&app).await != "0" {} };
    let ended = timeout(TEST_TIMEOUT, ended).await;
    assert!(ended.is_ok(), "the app's answer stays open");
    // Another tab signs in. The page only tries to connect again.
    client.switch_to_window(other).await.unwrap();
    browser.open("http://localhost/elsewhere").await;
    browser.wait_for(|url| url.ends_with("/elsewhere")).await;
    client.switch_to_window(page).await.unwrap();
    browser.run("wanted = 29; next()").await;
    assert_eq!(seen(&browser, 29).await["opened"], 4);
}
