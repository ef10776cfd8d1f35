//! The move of sessions from a file to the server.

use super::*;
use crate::session::{Destination, MoveError, Moved, move_sessions};

fn destination(settings: &RedisSettings, fixture: &Fixture) -> Destination {
    Destination {
        settings: settings.clone(),
        keys: fixture.ring().into(),
        providers: fixture.providers.clone(),
        idle: fixture.settings.idle,
    }
}

pub(super) async fn moved(
    fixture: &Fixture,
    settings: &RedisSettings,
    now: Timestamp,
) -> Result<Moved, MoveError> {
    let (from, to) = (fixture.file(), destination(settings, fixture));
    // The command that moves sessions has no runtime.
    let moving = std::thread::spawn(move || move_sessions(&from, to, &Clock::manual(now)));
    tokio::task::spawn_blocking(|| moving.join().unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn f_36_sessions_of_a_file_continue_in_the_shared_store_with_the_same_cookies() {
    let (server, fixture) = (Server::start(&[]), Fixture::disk());
    let settings = server.settings();
    let file = fixture.start(NOW);
    let mut ids = Vec::new();
    for number in 0..250 {
        let new = NewSession {
            sid: Some(number.to_string().into()),
            ..login(&number.to_string())
        };
        ids.push(file.open(new, NOW).await.unwrap());
    }
    let held = session(&file, &ids[0]).await;
    let replaced = file.replace(&held, tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    let idle = open(&file, "idle", NOW).await;
    for id in &ids {
        assert!(live(&file, id, after(40)).await);
    }
    file.maintain(after(40)).await.unwrap();
    // A gateway still uses the file.
    let refused = moved(&fixture, &settings, after(60)).await.unwrap_err();
    assert!(crate::telemetry::chain(&refused).contains("in use by another process"));
    file.close().await.unwrap();
    let all = moved(&fixture, &settings, after(60)).await.unwrap();
    assert_eq!((all.moved, all.known), (250, 0));
    let started = start(&settings, &fixture);
    let first = session(&started.sessions, &ids[0]).await;
    assert_eq!(
        (first.version(), first.tokens().access_token()),
        (1, "token-1")
    );
    assert_eq!(first.last_used(), after(40));
    for id in &ids {
        assert!(live(&started.sessions, id, after(60)).await);
    }
    assert!(!live(&started.sessions, &idle, after(60)).await);
    let of_sid = SessionsOf::ProviderSession {
        issuer: "op",
        sid: "7",
        subject: None,
    };
    let keys = started.sessions.keys_of(of_sid).await.unwrap();
    assert_eq!(keys, [ids[7].key()]);
    // A second move brings no session back that has ended meanwhile.
    let key = ids[0].key();
    let ended = started.sessions.end(&key, EndReason::SignedOut).await;
    assert_eq!(ended.unwrap(), Ended::Session);
    let again = moved(&fixture, &settings, after(60)).await.unwrap();
    assert_eq!((again.moved, again.known), (0, 0));
    assert!(!live(&started.sessions, &ids[0], after(60)).await);
    assert!(live(&started.sessions, &ids[1], after(60)).await);
}

#[tokio::test]
async fn a_move_does_not_change_sessions_that_the_shared_store_already_contains() {
    let (server, fixture) = (Server::start(&[]), Fixture::disk());
    let settings = server.settings();
    let file = fixture.start(NOW);
    let id = open(&file, "alice", NOW).await;
    file.close().await.unwrap();
    let copy = fixture.file().with_extension("copy");
    std::fs::copy(fixture.file(), &copy).unwrap();
    moved(&fixture, &settings, NOW).await.unwrap();
    let started = start(&settings, &fixture);
    let first = session(&started.sessions, &id).await;
    let replaced = started.sessions.replace(&first, tokens("token-1"), None);
    assert!(matches!(replaced.await, Ok(Replaced::Stored(_))));
    // An operator restores the file from a copy.
    std::fs::copy(&copy, fixture.file()).unwrap();
    let again = moved(&fixture, &settings, NOW).await.unwrap();
    assert_eq!((again.moved, again.known), (0, 1));
    let first = session(&started.sessions, &id).await;
    assert_eq!(first.tokens().access_token(), "token-1");
}
