//! The pieces of the request path, one by one: `cargo bench --bench parts`.
//!
//! Compare runs of one machine only, and ratios rather than figures.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a bench that measures a failure is a failed bench"
)]

use std::hint::black_box;
use std::time::Duration;

use divan::Bencher;
use http::{HeaderMap, HeaderValue, Request};
use sidegate::clock::Timestamp;
use sidegate::fields::{self, Owned, cookie as cookies};
use sidegate::identity::{Claim, Identity};
use sidegate::seal::{Keys, Purpose};
use sidegate::session::{Lookup, NewSession, SessionId, Sessions, Settings, StoreSettings, cookie};
use sidegate::target::Target;
use sidegate::token::{Life, TokenSet};

fn main() {
    divan::main();
}

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// A store with this many sessions, and the ids of all of them.
fn store(sessions: u32) -> (Sessions, Vec<SessionId>) {
    let settings = Settings {
        idle: Duration::from_hours(8),
        absolute: Duration::from_hours(24),
        capacity: 4 << 30,
        per_person: 10,
        refresh_wait: Duration::from_secs(10),
        store: StoreSettings::Memory,
    };
    let keys = Keys::random().and_then(|keys| keys.ring(Purpose::Sessions));
    let store = Sessions::start(settings, keys.expect("random bytes"), NOW).expect("a thread");
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    let token = "a".repeat(1000);
    let ids = (0..sessions)
        .map(|number| {
            let subject = Claim::new(&number.to_string());
            let identity = Identity {
                subject,
                ..Identity::nameless("bench")
            };
            let tokens = TokenSet::new(&token, Some(&token), Life::default()).expect("a token");
            let new = NewSession {
                provider: "bench",
                identity,
                tokens,
                replaces: Vec::new(),
            };
            let opened = runtime.block_on(store.open(new, NOW));
            opened.expect("random bytes")
        })
        .collect();
    let maintained = runtime.block_on(store.maintain(NOW));
    maintained.expect("it is in memory");
    (store, ids)
}

/// The same session again and again.
#[divan::bench]
fn session_look_up_hot(bencher: Bencher<'_, '_>) {
    let (store, ids) = store(1000);
    let id = ids.first().expect("a session");
    bencher.bench(|| match store.find(black_box(id), NOW) {
        Lookup::Live(session) => session,
        other => panic!("{other:?}"),
    });
}

/// What a fresh token costs a request: whether the session's tokens want a look.
#[divan::bench]
fn refresh_check(bencher: Bencher<'_, '_>) {
    let (store, ids) = store(1);
    let session = match store.find(ids.first().expect("a session"), NOW) {
        Lookup::Live(session) => session,
        other => panic!("{other:?}"),
    };
    bencher.bench(|| black_box(&session).is_due(black_box(NOW)));
}

/// Another session each time.
#[divan::bench(args = [10_000, 100_000])]
fn session_look_up_cold(bencher: Bencher<'_, '_>, sessions: u32) {
    let (store, ids) = store(sessions);
    // A step that shares no factor with the count visits all of them, far apart.
    let mut places = (0..ids.len()).cycle().step_by(7919);
    bencher.bench_local(|| {
        let place = places.next().expect("it cycles");
        match store.find(black_box(&ids[place]), NOW) {
            Lookup::Live(session) => session,
            other => panic!("{other:?}"),
        }
    });
}

/// The fields that a browser sends, with a session cookie among others.
fn browser_fields() -> HeaderMap {
    let session = "A".repeat(48);
    let cookie = format!("theme=dark; lang=en; __Host-sidegate={session}; _ga=GA1.1.1234.5678");
    [
        ("host", "app.example.com"),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/156.0 Safari",
        ),
        (
            "accept",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ),
        ("accept-language", "en-GB,en;q=0.7,de;q=0.3"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("referer", "https://app.example.com/list?page=2"),
        ("connection", "keep-alive"),
        ("cookie", &cookie),
        ("sec-fetch-mode", "navigate"),
    ]
    .into_iter()
    .map(|(name, value)| {
        let name: http::HeaderName = name.parse().expect("a name");
        (name, HeaderValue::from_str(value).expect("a value"))
    })
    .collect()
}

#[divan::bench]
fn cookie_found(bencher: Bencher<'_, '_>) {
    let fields = browser_fields();
    bencher.bench(|| {
        let found = cookies::find(black_box(&fields), cookie::SESSION.as_bytes());
        assert!(matches!(found, cookies::Found::One(_)));
    });
}

#[divan::bench]
fn cookie_removed(bencher: Bencher<'_, '_>) {
    bencher
        .with_inputs(browser_fields)
        .bench_local_values(|mut fields| {
            cookies::remove(&mut fields, cookie::is_own);
            fields
        });
}

#[divan::bench(args = ["/a/plain/path?x=1", "/a/%7euser/%c3%bc?x=1"])]
fn target_made_canonical(bencher: Bencher<'_, '_>, target: &str) {
    let request = Request::builder()
        .uri(target)
        .header("host", "app.example.com");
    let parts = request.body(()).expect("a request").into_parts().0;
    bencher.bench(|| Target::from_request(black_box(&parts)).expect("a good target"));
}

#[divan::bench]
fn fields_cleaned(bencher: Bencher<'_, '_>) {
    let names = ["x-forwarded-user", "x-forwarded-email"].map(http::HeaderName::from_static);
    let owned = Owned::new(&names);
    bencher
        .with_inputs(browser_fields)
        .bench_local_values(|mut fields| {
            let aside = fields::inbound(&mut fields, &owned);
            (fields, aside)
        });
}
