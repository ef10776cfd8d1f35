//! Invented codes: an attacker without an account sends ten codes per second from the address of
//! all users, or from many networks. Users who are signed in notice nothing, and everybody can sign
//! in.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Plan, Row, run_row};
use crate::invented_codes::{invent, open_patiently};
use crate::support::browser::Browser;
use crate::support::provider::Endpoint;
use crate::support::scene::refusal;
use sidegate::clock::Clock;

/// The time between two invented codes.
const BETWEEN: Duration = Duration::from_millis(100);

/// The number of invented codes.
const CODES: u8 = 200;

/// The longest time of a login.
const LONGEST: Duration = Duration::from_secs(10);

/// An attack, and what the provider and the users allow.
struct Attack {
    name: &'static str,
    /// The keys of the provider.
    keys: &'static str,
    /// The calls per minute that the provider allows.
    calls: usize,
    /// Whether each code comes from another network.
    from_many: bool,
    /// The longest time of a login of a known user, and of another user.
    longest: [Duration; 2],
}

/// Sends invented codes, each from a new browser. The gateway refuses no code for the network.
async fn send_codes(browsers: impl Fn(u8) -> Browser, origin: &'static str) {
    let mut sent = JoinSet::new();
    for number in 0..CODES {
        let browser = browsers(number);
        sent.spawn(async move {
            let callback = invent(&browser, origin).await;
            let page = browser.open(callback.as_str()).await;
            let refused = refusal(&page);
            let expected = ["400 code_refused", "503 too_many_codes"];
            assert!(expected.contains(&&*refused), "{}", page.describe());
        });
        sleep(BETWEEN).await;
    }
    while let Some(ended) = sent.join_next().await {
        ended.unwrap();
    }
}

/// Signs in, and fails if this takes too long.
async fn sign_in(browser: &Browser, origin: &str, longest: Duration) {
    // The login is not part of a login loop.
    browser.forget("__Host-sidegate-round");
    let (clock, begun) = (Clock::system(), Clock::system().now());
    let start = browser
        .open(&format!("{origin}/oauth2/sign_in?prompt=login"))
        .await;
    let callback = browser.follow(&start).await.location().unwrap();
    let page = open_patiently(browser, &callback).await;
    let served = browser.follow_all(page).await;
    assert_eq!(served.status, 200, "{}", served.describe());
    assert!(
        clock.now().since(begun) <= longest,
        "{:?}",
        clock.now().since(begun)
    );
}

/// Runs a row.
async fn row(attack: Attack) {
    let plan = Plan {
        provider: attack.keys,
        ..Plan::default()
    };
    run_row(attack.name, plan, async |row: &mut Row| {
        let origin = row.door.origin();
        let known = row.browser("alice");
        let [of_known, of_other] = attack.longest;
        sign_in(&known, origin, LONGEST).await;
        let (address, provider) = (row.door.address, row.provider.url());
        let stranger = move || Browser::new().leading(origin, address);
        let attacking = tokio::spawn(send_codes(
            move |number| {
                let network = Ipv4Addr::new(127, number.saturating_add(1), 0, 1);
                if attack.from_many {
                    stranger().at_address(network)
                } else {
                    stranger()
                }
            },
            origin,
        ));
        while !attacking.is_finished() {
            sleep(Duration::from_secs(2)).await;
            sign_in(&known, origin, of_known).await;
            let newcomer = stranger();
            newcomer.plant(&provider, "user=dave; Path=/");
            sign_in(&newcomer, origin, of_other).await;
        }
        attacking.await.unwrap();
        // The whole attack is shorter than a minute.
        let made = row.provider.calls(Endpoint::Token);
        assert!(made <= attack.calls, "{made} calls");
        let refused = "sidegate_logins_total{result=\"failed\",reason=\"code_refused\"}";
        assert!(row.figure(refused).await > 0);
    })
    .await;
}

/// The rows run at the same time, because each of them waits most of the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d_21_invented_codes_delay_nobody_for_more_than_ten_seconds() {
    tokio::join!(
        Box::pin(row(Attack {
            name: "invented codes, 600 calls a minute",
            keys: "",
            calls: 600,
            from_many: false,
            longest: [LONGEST; 2],
        })),
        Box::pin(row(Attack {
            name: "invented codes, 50 calls a minute",
            keys: "token_calls_per_minute = 50\n",
            calls: 50,
            from_many: false,
            longest: [LONGEST; 2],
        })),
    );
}

/// The code of a new browser may wait for ten seconds, and is then sent again.
#[tokio::test]
async fn d_21_invented_codes_from_many_networks_hardly_delay_a_known_user() {
    row(Attack {
        name: "invented codes from many networks",
        keys: "token_calls_per_minute = 50\n",
        calls: 50,
        from_many: true,
        longest: [Duration::from_secs(3), Duration::from_secs(30)],
    })
    .await;
}
