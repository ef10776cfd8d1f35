//! Invented codes: an attacker begins logins and sends codes that no provider has issued. Only the
//! provider can refuse an invented code, so codes have to wait. Nobody is refused because of the
//! codes of others.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use url::Url;

use crate::support::browser::{Browser, Page};
use crate::support::provider::Endpoint;
use crate::support::scene::{ORIGIN, SESSION, Scene, assert_nothing_opened, refusal, url};
use crate::support::webdriver::Chromium;
use sidegate::clock::Clock;

/// The page of a code that did not get its turn.
const WAITS: &str = "503 too_many_codes";

/// The delay in seconds of a page that loads itself again.
fn reload(page: &Page) -> Option<u64> {
    let text = page.text();
    let (_, after) = text.split_once("http-equiv=\"refresh\" content=\"")?;
    let (seconds, _) = after.split_once('"')?;
    seconds.parse().ok()
}

/// Begins a login without a visit to the provider. Returns the URL of an answer with an invented
/// code.
pub(crate) async fn invent(browser: &Browser, origin: &str) -> Url {
    let start = browser.open(&format!("{origin}/oauth2/sign_in")).await;
    let asked = start.location();
    let asked = asked.unwrap_or_else(|| panic!("{}", start.describe()));
    let value = |wanted: &str| {
        let mut pairs = asked.query_pairs();
        pairs
            .find(|(name, _)| name == wanted)
            .unwrap()
            .1
            .into_owned()
    };
    let mut callback = Url::parse(&value("redirect_uri")).unwrap();
    let mut query = callback.query_pairs_mut();
    query.append_pair("code", "invented");
    query.append_pair("state", &value("state"));
    drop(query);
    callback
}

/// Opens the answer of a provider. If the code has to wait, the page opens the answer again.
pub(crate) async fn open_patiently(browser: &Browser, callback: &Url) -> Page {
    loop {
        let page = browser.open(callback.as_str()).await;
        if refusal(&page) != WAITS {
            return page;
        }
        sleep(Duration::from_secs(reload(&page).unwrap())).await;
    }
}

/// Sends invented codes from new browsers, all at the same time. The function returns when the
/// browsers have begun their logins.
async fn send_invented(scene: &Scene, codes: usize) -> JoinSet<Page> {
    let mut sent = JoinSet::new();
    for _ in 0..codes {
        let browser = scene.browser();
        let callback = invent(&browser, ORIGIN).await;
        sent.spawn(async move { browser.open(callback.as_str()).await });
    }
    sent
}

/// Sends an invented code, and waits until the provider has refused it.
async fn fail(scene: &Scene) {
    let browser = scene.browser();
    let callback = invent(&browser, ORIGIN).await;
    let page = browser.open(callback.as_str()).await;
    assert_eq!(refusal(&page), "400 code_refused", "{}", page.describe());
}

#[tokio::test]
async fn d_21_invented_codes_refuse_nobody_else() {
    let scene = Scene::new().await;
    let (alice, bob) = (scene.browser_of("alice"), scene.browser_of("bob"));
    let callback = scene.until_callback(&alice, "/page").await;
    let callback = callback.location().unwrap();
    let hold = scene.provider.hold(Endpoint::Token);
    // A tenth of the calls per minute can be in progress at the same moment.
    let sent = send_invented(&scene, 80).await;
    scene.provider.wait_for(Endpoint::Token, 60).await;
    scene.wait_for_figure("sidegate_waiting_codes", 20).await;
    hold.release();
    let pages = sent.join_all().await;
    let (waiting, refused): (Vec<_>, Vec<_>) =
        pages.iter().partition(|page| refusal(page) == WAITS);
    for page in refused {
        assert_eq!(refusal(page), "400 code_refused", "{}", page.describe());
    }
    // When the provider has refused a code, only two new codes of the network wait.
    assert!((16..=20).contains(&waiting.len()), "{}", waiting.len());
    for page in waiting {
        assert_eq!(page.field("retry-after"), Some("1"));
        // The page keeps the cookie of the login. A cookie proves that the code returns.
        let cookies = page.set_cookies();
        let [waited] = &cookies[..] else {
            panic!("{cookies:?}");
        };
        assert!(waited.starts_with("__Secure-sidegate-waited="), "{waited}");
        assert!(
            waited.contains("; Path=/oauth2/callback; Max-Age=60; "),
            "{waited}"
        );
        assert_eq!(reload(page), Some(1));
        let link = "<a class=\"button \" href=\"\">Try again now</a>";
        assert!(page.text().contains(link), "{}", page.text());
    }
    let (clock, begun) = (Clock::system(), Clock::system().now());
    let page = open_patiently(&alice, &callback).await;
    assert_eq!(
        page.location().unwrap().path(),
        "/page",
        "{}",
        page.describe()
    );
    let page = bob.visit(&url("/page")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    assert!(
        clock.now().since(begun) < Duration::from_secs(10),
        "{:?}",
        clock.now().since(begun)
    );
    scene.wait_for_figure("sidegate_waiting_codes", 0).await;
}

#[tokio::test]
async fn d_21_a_code_that_had_to_wait_can_be_sent_again() {
    let scene = Scene::with(|settings| settings.of_provider("token_calls_per_minute = 10\n")).await;
    let (alice, bob) = (scene.browser_of("alice"), scene.browser_of("bob"));
    let mut answers = Vec::new();
    for browser in [&alice, &bob] {
        let callback = scene.until_callback(browser, "/page").await;
        answers.push(callback.location().unwrap());
    }
    let hold = scene.provider.hold(Endpoint::Token);
    let first = tokio::spawn({
        let (alice, callback) = (alice.clone(), answers[0].clone());
        async move { alice.open(callback.as_str()).await }
    });
    scene.provider.wait_for(Endpoint::Token, 1).await;
    // There is one place, and bob's code does not get it in time.
    let page = bob.open(answers[1].as_str()).await;
    assert_nothing_opened(&bob, &page, WAITS, "no place");
    hold.release();
    assert_eq!(first.await.unwrap().status, 303);
    let page = bob.open(answers[1].as_str()).await;
    assert_eq!(
        page.location().unwrap().path(),
        "/page",
        "{}",
        page.describe()
    );
    assert!(bob.cookie(ORIGIN, SESSION).is_some());
}

#[tokio::test]
async fn d_21_a_real_browser_whose_code_has_to_wait_signs_in_by_itself() {
    let scene = Scene::with(|settings| settings.of_provider("token_calls_per_minute = 10\n")).await;
    let alice = scene.browser_of("alice");
    let callback = scene.until_callback(&alice, "/page").await;
    let hold = scene.provider.hold(Endpoint::Token);
    let first = tokio::spawn(async move { alice.follow(&callback).await });
    scene.provider.wait_for(Endpoint::Token, 1).await;
    let browser = Chromium::leading("localhost:80", scene.gateway.address()).await;
    browser.open("http://localhost/page").await;
    browser.wait_for_text("too_many_codes").await;
    browser.picture("too_many_codes").await;
    hold.release();
    assert_eq!(first.await.unwrap().status, 303);
    browser.wait_for_text("seen").await;
    assert_eq!(scene.provider.exchanges().len(), 2);
}

#[tokio::test]
async fn d_21_a_browser_in_which_its_user_has_signed_in_before_does_not_wait_for_its_network() {
    let scene = Scene::with(|settings| settings.of_provider("token_calls_per_minute = 50\n")).await;
    let alice = scene.signed_in("alice").await;
    for _ in 0..5 {
        fail(&scene).await;
    }
    let mut sent = send_invented(&scene, 20).await;
    let (clock, begun) = (Clock::system(), Clock::system().now());
    let page = alice.visit(&url("/oauth2/sign_in?prompt=login")).await;
    assert_eq!(page.text(), "seen", "{}", page.describe());
    // The code of the user gets the turn after the first code of the network.
    assert!(clock.now().since(begun) < Duration::from_secs(10));
    sent.shutdown().await;
    // Only the redirection endpoint gets the cookie.
    assert_eq!(alice.cookie(ORIGIN, "__Secure-sidegate-known"), None);
    let known = alice.cookies(&url("/oauth2/callback"));
    let known = known
        .iter()
        .find(|cookie| cookie.name == "__Secure-sidegate-known");
    assert_eq!(known.unwrap().path, "/oauth2/callback");
    assert!(scene.provider.exchanges().len() <= 50);
}

#[tokio::test]
async fn d_21_codes_without_a_valid_state_never_wait() {
    let scene = Scene::with(|settings| settings.of_provider("token_calls_per_minute = 10\n")).await;
    let alice = scene.browser_of("alice");
    let callback = scene.until_callback(&alice, "/page").await;
    let callback = callback.location().unwrap();
    let mut foreign = callback.clone();
    foreign.set_query(Some("code=invented&state=0123456789abcdef.AA.AA"));
    let hold = scene.provider.hold(Endpoint::Token);
    let login = tokio::spawn({
        let (alice, callback) = (alice.clone(), callback.clone());
        async move { alice.open(callback.as_str()).await }
    });
    // There is one place, so every other code would have to wait.
    scene.provider.wait_for(Endpoint::Token, 1).await;
    for (answer, expected) in [
        (&callback, "400 state_without_cookie"),
        (&foreign, "400 state_foreign"),
    ] {
        let stranger = scene.browser();
        let (clock, begun) = (Clock::system(), Clock::system().now());
        let page = stranger.open(answer.as_str()).await;
        assert_nothing_opened(&stranger, &page, expected, answer.as_str());
        assert!(
            clock.now().since(begun) < Duration::from_secs(5),
            "{expected}"
        );
    }
    // The cookie of another login does not fit.
    let mallory = scene.browser();
    let own = invent(&mallory, ORIGIN).await;
    let mut pairs = own.query_pairs();
    let (_, own_state) = pairs.find(|(name, _)| name == "state").unwrap();
    let (own_tab, _) = own_state.split_once('.').unwrap();
    let mut pairs = callback.query_pairs();
    let (_, state) = pairs.find(|(name, _)| name == "state").unwrap();
    let (tab, _) = state.split_once('.').unwrap();
    let secret = mallory.cookie(ORIGIN, &format!("__Host-sidegate-{own_tab}"));
    let planted = format!("__Host-sidegate-{tab}={}; Path=/; Secure", secret.unwrap());
    mallory.plant(ORIGIN, &planted);
    let page = mallory.open(callback.as_str()).await;
    assert_nothing_opened(&mallory, &page, "400 state_of_other_browser", "planted");
    hold.release();
    assert_eq!(login.await.unwrap().status, 303);
    assert_eq!(scene.provider.exchanges().len(), 1);
}
