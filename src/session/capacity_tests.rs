//! Tests of a store in memory that is full: a session that is in use stays.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::session::fixture::{Fixture, NOW, live, open, session};
use crate::session::{SessionState, Sessions};

/// Returns a store in memory that has room for about 14 sessions.
fn small() -> Sessions {
    let mut fixture = Fixture::memory();
    fixture.settings.capacity = 10 * 1024;
    fixture.settings.idle = Duration::from_hours(1);
    fixture.settings.absolute = Duration::from_hours(8);
    fixture.start(NOW)
}

/// Makes 1000 logins, one every two seconds, and calls `use_it` after each login. `use_it` returns false if the session has
/// ended.
async fn crowd(sessions: &Sessions, mut use_it: impl AsyncFnMut(Timestamp) -> bool) {
    for seconds in (0..2000).step_by(2) {
        let now = NOW.plus(Duration::from_secs(seconds));
        open(sessions, &seconds.to_string(), now).await;
        assert!(
            use_it(now).await,
            "the login after {seconds} s has ended the session"
        );
    }
    sessions.maintain(NOW).await.unwrap();
    assert!(sessions.pushed_out() > 900);
}

#[tokio::test]
async fn a_full_store_keeps_a_session_that_is_looked_up() {
    let sessions = small();
    let id = open(&sessions, "alice", NOW).await;
    crowd(&sessions, async |now| live(&sessions, &id, now).await).await;
}

#[tokio::test]
async fn a_full_store_keeps_a_session_that_is_used_without_a_look_up() {
    let sessions = small();
    let id = open(&sessions, "alice", NOW).await;
    let held = session(&sessions, &id).await;
    crowd(&sessions, async |now| sessions.still(&held, now, now)).await;
}

#[tokio::test]
async fn a_full_store_keeps_a_session_that_a_stream_uses() {
    let sessions = small();
    let id = open(&sessions, "alice", NOW).await;
    let held = session(&sessions, &id).await;
    crowd(&sessions, async |now| {
        sessions.mark_used(&held, now);
        held.state() == SessionState::Live
    })
    .await;
}
