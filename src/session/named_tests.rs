//! Tests of the sessions that an app names.

use std::time::Duration;

use super::*;
use crate::identity::Email;
use crate::session::fixture::{Fixture, NOW, live, login};
use crate::session::{NewSession, OpenError, SessionId};

fn after(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

/// A login of Alice at a provider. Both providers of the tests have the same issuer.
fn login_at(provider: &'static str, begun_at: Timestamp) -> NewSession<'static> {
    let mut new = login("alice");
    new.identity.email = Some(Email {
        address: Claim::new("Alice@example.com").unwrap(),
        verified: true,
    });
    NewSession {
        provider,
        sid: Some("sid-1".into()),
        begun_at,
        ..new
    }
}

fn names() -> [Named; 3] {
    [
        Named::Email("alice@EXAMPLE.com".into()),
        Named::Sid("sid-1".into()),
        Named::Subject("alice".into()),
    ]
}

/// Ends sessions of the provider `op`, and returns the number of ended sessions. Returns `None` if
/// the notice was repeated.
async fn end(sessions: &Sessions, named: &Named, (notice, at): (u8, u64)) -> Option<usize> {
    let of = NamedSessions {
        provider: "op",
        issuer: "op",
        named,
    };
    let notice = LogoutNotice {
        mark: [notice; 32],
        until: after(3600),
    };
    let ended = sessions.end_named(of, EndReason::Revoked, (notice, after(at)));
    match ended.await.unwrap() {
        EndedAll::Ended(keys) => Some(keys.len()),
        EndedAll::Repeated => None,
    }
}

fn fixtures() -> [Fixture; 6] {
    Fixture::every().map(|mut fixture| {
        fixture.settings.per_person = 10;
        fixture.providers.insert("another".into(), [0; 32]);
        fixture
    })
}

async fn open_at(sessions: &Sessions, provider: &'static str, at: u64) -> SessionId {
    let new = login_at(provider, after(at));
    sessions.open(new, after(at)).await.unwrap()
}

#[tokio::test]
async fn an_app_ends_only_the_sessions_of_its_own_provider() {
    for named in names() {
        // A Redis server remembers the notices and the ends of groups.
        for fixture in fixtures() {
            let sessions = fixture.start(NOW);
            let first = open_at(&sessions, "op", 0).await;
            let second = open_at(&sessions, "op", 0).await;
            let elsewhere = open_at(&sessions, "another", 0).await;
            assert_eq!(end(&sessions, &named, (1, 1)).await, Some(2), "{named:?}");
            for id in [&first, &second] {
                assert!(!live(&sessions, id, NOW).await, "{named:?}");
            }
            assert!(live(&sessions, &elsewhere, NOW).await, "{named:?}");
            // A login at the other provider that is under way still opens a session.
            let other = open_at(&sessions, "another", 0).await;
            for id in [&elsewhere, &other] {
                assert!(sessions.end(&id.key(), EndReason::SignedOut).await.is_ok());
            }
            sessions.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_login_that_began_before_the_request_opens_no_session() {
    for named in names() {
        // A Redis server remembers the notices and the ends of groups.
        for fixture in fixtures() {
            let sessions = fixture.start(NOW);
            assert_eq!(end(&sessions, &named, (1, 1)).await, Some(0), "{named:?}");
            let late = sessions.open(login_at("op", NOW), after(2)).await;
            assert!(matches!(late, Err(OpenError::EndedMeanwhile)), "{named:?}");
            open_at(&sessions, "op", 1).await;
            // The repeated request changes nothing, and later logins continue.
            assert_eq!(end(&sessions, &named, (1, 5)).await, None, "{named:?}");
            let id = open_at(&sessions, "op", 3).await;
            assert!(live(&sessions, &id, after(5)).await, "{named:?}");
            assert_eq!(end(&sessions, &named, (2, 6)).await, Some(2), "{named:?}");
            sessions.close().await.unwrap();
        }
    }
}
