use http::header;

use super::*;
use crate::identity::Identity;
use crate::seal::{Keys, Purpose};
use crate::session::{self, Lookup, StoreError, StoreSettings};
use crate::token::{Life, TokenSet};

fn login(sessions: &Arc<Sessions>) -> Login {
    let settings = Settings {
        redirection: RedirectionEndpoints::new("/oauth2/callback", []),
        timeout: Duration::from_mins(10),
    };
    let shared = (Arc::new(Metrics::new(std::iter::empty())), Clock::system());
    Login::new(
        (settings, KeyRing::random().unwrap()),
        BTreeMap::new(),
        Arc::clone(sessions),
        shared,
        Handle::current(),
    )
}

#[tokio::test]
async fn a_sign_out_that_cannot_be_stored_does_not_claim_to_have_worked() {
    let settings = session::Settings {
        idle: Duration::from_hours(1),
        absolute: Duration::from_hours(1),
        capacity: 1 << 20,
        per_person: 1,
        refresh_wait: Duration::from_secs(10),
        store: StoreSettings::Memory,
    };
    let keys = Keys::random().unwrap().ring(Purpose::Sessions).unwrap();
    let now = Timestamp::from_millis(1);
    let sessions =
        Arc::new(Sessions::start(settings, keys, &session::Registrations::new(), now).unwrap());
    let login = login(&sessions);
    let open = async || {
        let new = NewSession {
            provider: "main",
            identity: Identity::nameless("main"),
            tokens: TokenSet::new("token", None, Life::default()).unwrap(),
            replaces: Vec::new(),
        };
        sessions.open(new, now).await.unwrap()
    };
    let cookie = |id: &SessionId| {
        let text = format!("{}={}", cookie::SESSION, id.to_text().expose());
        let value = HeaderValue::from_str(&text).unwrap();
        HeaderMap::from_iter([(header::COOKIE, value)])
    };
    let (first, second) = (open().await, open().await);
    login.sign_out(&cookie(&first)).await.unwrap();
    assert!(matches!(sessions.find(&first, now), Lookup::Unknown));
    // What is closed takes no change, as a full disk would not.
    sessions.close().await.unwrap();
    let failed = login.sign_out(&cookie(&second)).await;
    assert!(matches!(failed, Err(Error::NotStored(StoreError::Closed))));
    assert!(matches!(sessions.find(&second, now), Lookup::Live(_)));
}
