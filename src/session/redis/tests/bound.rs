//! Values that somebody has copied from another store, or has put back.

use super::*;
use crate::session::record;

/// Writes the value of a session of one store into another store.
async fn copy(id: &SessionId, (from, to): (&Started, &Started)) {
    let value = from.value(id).await.unwrap();
    to.set_value(id, &value).await;
    to.shared.cache.apply(Event::Lost);
}

/// Two gateways have the same keys and the same client id, as after a copy of the settings.
#[tokio::test]
async fn c_26_a_value_of_another_store_with_the_same_keys_does_not_count() {
    let (server, fixture) = (Server::start(&[]), Fixture::memory());
    let own = server.settings();
    let mut database = own.clone();
    database.database = 1;
    for other in [server.settings(), database] {
        let (own, other) = (start(&own, &fixture), start(&other, &fixture));
        let id = open(&own.sessions, "alice", NOW).await;
        copy(&id, (&own, &other)).await;
        assert!(!live(&other.sessions, &id, NOW).await);
        // The value is still valid in its own store, also after a change.
        copy(&id, (&own, &own)).await;
        let held = session(&own.sessions, &id).await;
        let next = own.sessions.replace(&held, tokens("next"), None).await;
        assert!(matches!(next, Ok(Replaced::Stored(_))));
        copy(&id, (&own, &own)).await;
        assert!(live(&own.sessions, &id, NOW).await);
        copy(&id, (&own, &other)).await;
        assert!(!live(&other.sessions, &id, NOW).await);
    }
}

#[tokio::test]
async fn c_27_a_value_that_returns_after_the_client_id_has_changed_does_not_count() {
    let (server, mut fixture) = (Server::start(&[]), Fixture::memory());
    let settings = server.settings();
    let before = start(&settings, &fixture);
    let id = open(&before.sessions, "alice", NOW).await;
    // The provider has the same name, and another client id or issuer.
    fixture.providers.insert("op".into(), [1; 32]);
    let after = start(&settings, &fixture);
    copy(&id, (&before, &after)).await;
    assert!(!live(&after.sessions, &id, NOW).await);
    assert!(live(&before.sessions, &id, NOW).await);
}

/// During an update, replicas of two versions of the gateway share the store. The older version does
/// not know the identity of the store.
#[tokio::test]
async fn f_36_an_older_version_keeps_the_identity_of_the_store_and_its_values_are_read() {
    let fixture = Fixture::memory();
    let sessions = fixture.start(NOW);
    let id = open(&sessions, "alice", NOW).await;
    let held = session(&sessions, &id).await;
    let unbound = held.stored().contents();
    let (own, other) = ([1; 16], [2; 16]);
    let of_older = record::decode(unbound).unwrap();
    assert!(of_older.is_of(&own) && of_older.is_of(&other));
    let bound = record::bound_to(&own, unbound).unwrap();
    // The older version decodes the contents, and encodes them again with each change.
    let mut read = record::decode(&bound).unwrap();
    assert_eq!(read.tokens.access_token(), of_older.tokens.access_token());
    read.version += 1;
    let read = record::decode(&record::encode(&read)).unwrap();
    assert!(read.is_of(&own) && !read.is_of(&other));
    // A value of a still newer version stays, and the identity is not written two times.
    let mut more = record::decode(&bound).unwrap();
    more.newer = [&*more.newer, &[9, 3, 1, 2, 3]].concat().into();
    let again = record::bound_to(&own, &record::encode(&more)).unwrap();
    assert_eq!(record::decode(&again).unwrap().newer, more.newer);
    let moved = record::bound_to(&other, &again).unwrap();
    let moved = record::decode(&moved).unwrap();
    assert!(moved.is_of(&other) && !moved.is_of(&own));
    assert_eq!(moved.newer.len(), more.newer.len());
}
