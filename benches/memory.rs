//! The memory of a session beyond the data in it, in resident bytes: `cargo bench --bench memory`.
//!
//! A million users sign in (`-- --test`: ten thousand). Their tokens and claims are random and have
//! typical sizes. The output is in bytes for each session.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::arithmetic_side_effects,
    reason = "a benchmark must fail if it measures a failure"
)]

use std::fs;
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sidegate::clock::{Clock, Timestamp};
use sidegate::identity::{Claim, Email, Identity};
use sidegate::seal::{Keys, Purpose};
use sidegate::session::{NewSession, OVERHEAD, Registrations, Sessions, Settings, StoreSettings};
use sidegate::token::{Lifetime, TokenSet};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let few = arguments.any(|argument| argument == "--test");
    let count = if few { 10_000 } else { 1_000_000 };
    let store = store();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    let sign_in = |number| {
        let person = UserHash::new(number);
        let text = person.text();
        let opened = runtime.block_on(store.open(person.session(), NOW));
        opened.expect("it is in memory");
        text
    };
    // The first login allocates everything that is allocated once.
    sign_in(0);
    let before = resident();
    let text: usize = (1..=count).map(sign_in).sum();
    runtime
        .block_on(store.maintain(NOW))
        .expect("it is in memory");
    assert_eq!(store.count(), count + 1, "none may have been pushed out");
    let each = (resident() - before) / count;
    let text = u64::try_from(text).expect("a sum") / count;
    let counted = store.weight() / (count + 1);
    let stored = counted - u64::try_from(OVERHEAD).expect("a small number");
    println!("sessions                      {count}");
    println!("resident                      {each}");
    println!("payload as text               {text}");
    println!("payload as stored             {stored}");
    println!(
        "overhead beside the text      {}",
        each.cast_signed() - text.cast_signed()
    );
    println!(
        "overhead beside what is stored {}",
        each.cast_signed() - stored.cast_signed()
    );
    println!("counted for the bound         {counted}");
}

fn store() -> Sessions {
    let settings = Settings {
        idle: Duration::from_hours(8),
        absolute: Duration::from_hours(24),
        capacity: 64 << 30,
        per_person: 10,
        of_providers: std::collections::BTreeMap::new(),
        refresh_wait: Duration::from_secs(10),
        store: StoreSettings::Memory,
    };
    let keys = Keys::random().and_then(|keys| keys.ring(Purpose::Sessions));
    Sessions::start(
        settings,
        keys.expect("random bytes"),
        &Registrations::from([("main".into(), [0; 32])]),
        &Clock::manual(NOW),
    )
    .expect("a thread")
}

/// The resident memory of this process.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a Linux system");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    let kibibytes: u64 = kibibytes.expect("a figure").parse().expect("a number");
    kibibytes * 1024
}

/// Random bytes as base64url.
fn random(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    SystemRandom::new().fill(&mut random).expect("random bytes");
    URL_SAFE_NO_PAD.encode(random)
}

struct UserHash {
    access_token: String,
    refresh_token: String,
    sid: String,
    claims: [String; 6],
}

impl UserHash {
    /// A JWT of 1,101 bytes, a refresh token of 900, a `sid` of 24, and claims of 150.
    fn new(number: u64) -> Self {
        Self {
            access_token: [60, 507, 257].map(random).join("."),
            refresh_token: random(675),
            sid: random(18),
            claims: [
                "https://id.example.com/realms/main".to_owned(),
                random(18),
                format!("somebody-{number:07}@example.com"),
                format!("somebody-{number:07}"),
                format!("Some Body {number:07}"),
                "staff,editors".to_owned(),
            ],
        }
    }

    fn text(&self) -> usize {
        let claims: usize = self.claims.iter().map(String::len).sum();
        self.access_token.len() + self.refresh_token.len() + self.sid.len() + claims
    }

    fn session(self) -> NewSession<'static> {
        let [issuer, subject, email, user_name, name, groups] = self.claims;
        let claim = |text: &str| Claim::new(text).expect("a claim");
        let identity = Identity {
            subject: Some(claim(&subject)),
            email: Some(Email {
                address: claim(&email),
                verified: true,
            }),
            preferred_username: Some(claim(&user_name)),
            name: Some(claim(&name)),
            ..Identity::nameless(&issuer)
        };
        let life = Lifetime {
            obtained_at: NOW,
            expires_at: Some(NOW.plus(Duration::from_mins(5))),
            refresh_at: Some(NOW.plus(Duration::from_mins(4))),
            not_before: NOW,
        };
        let tokens = TokenSet::new(&self.access_token, Some(&self.refresh_token), life);
        NewSession {
            provider: "main",
            registration: [0; 32],
            identity: identity.with_groups(groups.split(',').map(claim)),
            tokens: tokens.expect("tokens"),
            replaces: Vec::new(),
            sid: Some(self.sid.into()),
            device: None,
            begun_at: NOW,
        }
    }
}
