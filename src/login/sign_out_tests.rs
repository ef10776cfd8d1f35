use http::{HeaderMap, HeaderValue, header};
use tokio::runtime::Handle;

use super::sign_out::MAX_SIGNED_OUT;
use super::*;
use crate::clock::{Clock, Timestamp};
use crate::identity::Identity;
use crate::seal::{Keys, Purpose};
use crate::session::{
    self, EndReason, Ended, Lookup, NewSession, SessionId, Sessions, StoreError, StoreSettings,
    cookie,
};
use crate::telemetry::Metrics;
use crate::token::{Lifetime, TokenSet};

const NOW: Timestamp = Timestamp::from_millis(1);

fn login(sessions: &Arc<Sessions>) -> Arc<Login> {
    let own = OwnPaths::try_from("/oauth2/".to_owned()).unwrap();
    let settings = Settings {
        redirection: RedirectionEndpoints::new("/oauth2/callback", &own, []),
        own,
        timeout: Duration::from_mins(10),
        host: None,
        cookie_limits: CookieLimits::default(),
        sign_out_by_get: false,
        clear_site_data: None,
        userinfo_claims: Vec::new(),
        silent_sign_in: false,
        remember_me: RememberMe::Always,
    };
    let process = ProcessState::new(
        Arc::clone(sessions),
        Arc::new(Metrics::default()),
        Clock::system(),
        Handle::current(),
    );
    let keys = Arc::new(KeyRing::random().unwrap());
    Arc::new(Login::new(
        settings,
        keys,
        Arc::default(),
        Arc::new(process),
    ))
}

fn public_url() -> PublicUrl {
    PublicUrl::try_from("https://gw.test".to_owned()).unwrap()
}

fn sessions() -> Arc<Sessions> {
    let settings = session::Settings {
        idle: Duration::from_hours(1),
        absolute: Duration::from_hours(1),
        capacity: 1 << 20,
        per_person: 1,
        of_providers: std::collections::BTreeMap::new(),
        refresh_wait: Duration::from_secs(10),
        store: StoreSettings::Memory,
    };
    let keys = Keys::random().unwrap().ring(Purpose::Sessions).unwrap();
    Arc::new(
        Sessions::start(
            settings,
            keys,
            &session::Registrations::from([("main".into(), [0; 32])]),
            &Clock::manual(NOW),
        )
        .unwrap(),
    )
}

async fn open(sessions: &Sessions) -> SessionId {
    let new = NewSession {
        provider: "main",
        registration: [0; 32],
        identity: Identity::nameless("main"),
        tokens: TokenSet::new("token", None, Lifetime::default()).unwrap(),
        replaces: Vec::new(),
        sid: None,
        device: None,
        begun_at: NOW,
    };
    sessions.open(new, NOW).await.unwrap()
}

fn cookie_of(id: &SessionId) -> String {
    format!("{}={}", cookie::SESSION, id.to_text().expose())
}

#[tokio::test]
async fn a_sign_out_that_cannot_be_stored_does_not_claim_to_have_worked() {
    let sessions = sessions();
    let login = login(&sessions);
    let cookie = |id: &SessionId| {
        let value = HeaderValue::from_str(&cookie_of(id)).unwrap();
        HeaderMap::from_iter([(header::COOKIE, value)])
    };
    let (first, second) = (open(&sessions).await, open(&sessions).await);
    drop(
        login
            .sign_out(&cookie(&first), &public_url(), AfterSignOut::default())
            .await
            .unwrap(),
    );
    assert!(matches!(sessions.find(&first, NOW), Lookup::Unknown));
    // The test closes the store, because a closed store refuses changes in the same way as a store
    // on a full disk.
    sessions.close().await.unwrap();
    let after = AfterSignOut::default();
    let failed = login.sign_out(&cookie(&second), &public_url(), after).await;
    assert!(matches!(failed, Err(Error::NotStored(StoreError::Closed))));
    assert!(matches!(sessions.find(&second, NOW), Lookup::Live(_)));
}

#[tokio::test]
async fn d_26_one_request_signs_out_a_few_sessions_and_not_hundreds() {
    let sessions = sessions();
    let login = login(&sessions);
    let mut ids = Vec::new();
    for _ in 0..MAX_SIGNED_OUT * 2 {
        ids.push(open(&sessions).await);
    }
    let cookies: Vec<_> = ids.iter().map(cookie_of).collect();
    let value = HeaderValue::from_str(&cookies.join("; ")).unwrap();
    let headers = HeaderMap::from_iter([(header::COOKIE, value)]);
    let after = AfterSignOut::default();
    drop(
        login
            .sign_out(&headers, &public_url(), after)
            .await
            .unwrap(),
    );
    let live = ids
        .iter()
        .map(|id| matches!(sessions.find(id, NOW), Lookup::Live(_)));
    let expected = (0..ids.len()).map(|place| place >= MAX_SIGNED_OUT);
    assert!(live.eq(expected));
    // A session that has already ended is not signed out again.
    assert_eq!(
        sessions
            .end(&ids[0].key(), EndReason::SignedOut)
            .await
            .unwrap(),
        Ended::Nothing
    );
    let last = ids.last().unwrap().key();
    assert_eq!(
        sessions.end(&last, EndReason::SignedOut).await.unwrap(),
        Ended::Session
    );
}
