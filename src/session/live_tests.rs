//! Tests of `Sessions::still`, which allows a connection to use a session again without another
//! look-up.

use std::time::Duration;

use http::HeaderValue;

use crate::session::fixture::{Fixture, NOW, live, open, session, tokens};
use crate::session::*;

#[tokio::test]
async fn a_session_can_be_used_without_a_look_up_while_it_is_current_and_only_for_a_short_time() {
    let fixture = Fixture::memory();
    let sessions = fixture.start(NOW);
    let after = |seconds| NOW.plus(Duration::from_secs(seconds));
    let id = open(&sessions, "a", NOW).await;
    let held = session(&sessions, &id).await;
    let still = |held: &Session, found, now| sessions.still(held, found, now);
    // In this test, 6 seconds are a tenth of the idle time. The method `still` returns true for
    // less than 6 seconds after the look-up of the session.
    assert!(still(&held, NOW, after(5)));
    assert!(!still(&held, NOW, after(6)));
    // The clock was set back.
    assert!(!still(&held, after(1), NOW));
    // The function `still` also records a use of the session, so the idle deadline becomes later.
    assert!(still(&held, after(50), after(55)));
    assert!(live(&sessions, &id, after(100)).await);
    assert!(!still(&held, after(170), after(170)));

    let replaced = sessions.replace(&held, tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    assert!(!still(&held, NOW, NOW));
    let second = session(&sessions, &id).await;
    assert!(still(&second, NOW, NOW));
    sessions.end(&id.key(), EndReason::SignedOut).await.unwrap();
    assert!(!still(&second, NOW, NOW));
}

#[tokio::test]
async fn a_session_that_was_pushed_out_has_to_be_looked_up_again() {
    let mut fixture = Fixture::memory();
    fixture.settings.capacity = 20 * 1024;
    let sessions = fixture.start(NOW);
    let id = open(&sessions, "first", NOW).await;
    let held = session(&sessions, &id).await;
    assert!(sessions.still(&held, NOW, NOW));
    for number in 0..300 {
        open(&sessions, &number.to_string(), NOW).await;
    }
    sessions.maintain(NOW).await.unwrap();
    assert!(sessions.pushed_out() > 200);
    assert!(!sessions.still(&held, NOW, NOW));
}

#[tokio::test]
async fn c_15_a_session_that_is_used_without_a_look_up_ends_by_its_deadlines() {
    for fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        let after = |seconds| NOW.plus(Duration::from_secs(seconds));
        let (used, unused) = (
            open(&sessions, "used", NOW).await,
            open(&sessions, "unused", NOW).await,
        );
        let (used, unused) = (
            session(&sessions, &used).await,
            session(&sessions, &unused).await,
        );
        for second in 1..600 {
            assert!(sessions.still(&used, after(second), after(second)));
        }
        assert!(!sessions.still(&used, after(600), after(600)));
        assert!(!sessions.still(&unused, after(60), after(60)));
    }
}

#[tokio::test]
async fn computed_fields_are_remembered_for_four_ids_and_for_one_version() {
    let fixture = Fixture::memory();
    let sessions = fixture.start(NOW);
    let id = open(&sessions, "a", NOW).await;
    let held = session(&sessions, &id).await;
    let mut computed = Vec::new();
    for fields in [7, 8, 7, 9, 10, 11, 8, 11, 10] {
        let value = HeaderValue::from(fields);
        let values = held.computed_fields(fields, || {
            computed.push(fields);
            Box::new([Some(value.clone()), None])
        });
        assert_eq!(*values, [Some(value), None]);
    }
    // A session keeps the computed values for only four ids, so the values for the fifth id (11)
    // are computed at every call.
    assert_eq!(computed, [7, 8, 9, 10, 11, 11]);
    let replaced = sessions.replace(&held, tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    let second = session(&sessions, &id).await;
    let values = second.computed_fields(7, || Box::new([None]));
    assert_eq!(*values, [None]);
}
