//! Tests that new settings take effect and that valid sessions continue.

use std::collections::BTreeMap;

use crate::session::backend::Backend;
use crate::session::disk::tests::fill;
use crate::session::fixture::{Fixture, NOW, found, live, login, open, session, tokens};
use crate::session::keeper::Keeper;
use crate::session::*;

/// Returns a fixture for every kind of store. The fixture `crowded` has a small cache, so most
/// sessions are only in the session file.
fn kits() -> [Fixture; 6] {
    let mut kits = Fixture::every();
    kits[2].settings.capacity = 3000;
    kits
}

fn login_at(provider: &'static str, person: &str) -> NewSession<'static> {
    NewSession {
        provider,
        ..login(person)
    }
}

fn after(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

async fn open_at(sessions: &Sessions, provider: &'static str, count: usize) -> Vec<SessionId> {
    let mut ids = Vec::new();
    for number in 0..count {
        let new = login_at(provider, &number.to_string());
        ids.push(sessions.open(new, NOW).await.unwrap());
        sessions.maintain(NOW).await.unwrap();
    }
    ids
}

#[tokio::test]
async fn the_sessions_of_removed_and_changed_providers_end_and_no_others() {
    for mut fixture in kits() {
        for provider in ["gone", "changed"] {
            fixture.providers.insert(provider.into(), [0; 32]);
        }
        let sessions = fixture.start(NOW);
        let stays = open_at(&sessions, "op", 12).await;
        let gone = open_at(&sessions, "gone", 12).await;
        let changed = open_at(&sessions, "changed", 7).await;
        let held = session(&sessions, &changed[6]).await;
        // A reload with the same settings ends no sessions.
        let same = sessions.reconfigure(fixture.reconfiguration(), NOW).await;
        assert_eq!(same.unwrap(), Reconfigured::default());
        assert_eq!(sessions.count(), 31);
        fixture.providers.remove("gone");
        fixture.providers.insert("changed".into(), [1; 32]);
        fixture.providers.insert("new".into(), [0; 32]);
        let reconfigured = sessions.reconfigure(fixture.reconfiguration(), NOW).await;
        let ended = [("changed".into(), 7), ("gone".into(), 12)];
        assert_eq!(reconfigured.unwrap().ended, BTreeMap::from(ended));
        assert_eq!(sessions.count(), 12);
        assert_eq!(held.state(), SessionState::Ended);
        let replaced = sessions.replace(&held, tokens("token-1"), None).await;
        assert!(matches!(replaced, Ok(Replaced::Ended)));
        // A second reload with the same settings ends no more sessions.
        let again = sessions.reconfigure(fixture.reconfiguration(), NOW).await;
        assert_eq!(again.unwrap(), Reconfigured::default());
        let mut opened = open_at(&sessions, "new", 1).await;
        if fixture.is_durable() {
            sessions.close().await.unwrap();
        }
        let sessions = if fixture.is_durable() {
            fixture.start(NOW)
        } else {
            sessions
        };
        opened.extend(stays);
        for id in &opened {
            assert!(live(&sessions, id, NOW).await);
        }
        for id in gone.iter().chain(&changed) {
            assert!(matches!(found(&sessions, id, NOW).await, Lookup::Unknown));
        }
        assert_eq!(sessions.count(), 13);
    }
}

/// Tests a login that starts with the old settings before a reload and completes after the reload.
/// The gateway must not treat an identity from the old server as an identity from the new server.
#[tokio::test]
async fn no_session_is_opened_if_the_provider_has_changed_during_the_login() {
    for mut fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        let begun = login("alice");
        fixture.providers.insert("op".into(), [1; 32]);
        sessions
            .reconfigure(fixture.reconfiguration(), NOW)
            .await
            .unwrap();
        let opened = sessions.open(begun, NOW).await;
        assert!(matches!(opened, Err(OpenError::UnknownProvider)));
        assert_eq!(sessions.count(), 0);
        let registration = [1; 32];
        let new = NewSession {
            registration,
            ..login("alice")
        };
        let id = sessions.open(new, NOW).await.unwrap();
        assert!(live(&sessions, &id, NOW).await);
        fixture.providers.remove("op");
        sessions
            .reconfigure(fixture.reconfiguration(), NOW)
            .await
            .unwrap();
        let gone = NewSession {
            registration,
            ..login("alice")
        };
        let opened = sessions.open(gone, NOW).await;
        assert!(matches!(opened, Err(OpenError::UnknownProvider)));
    }
}

#[tokio::test]
async fn c_08_a_key_that_still_seals_sessions_is_not_dropped_by_a_reload() {
    let mut fixture = Fixture::disk();
    let sessions = fixture.start(NOW);
    let (renewed, other) = (
        open(&sessions, "renewed", NOW).await,
        open(&sessions, "other", NOW).await,
    );
    let refused = async |fixture: &Fixture, left: usize| {
        let refused = sessions.reconfigure(fixture.reconfiguration(), NOW).await;
        let refused = refused.unwrap_err();
        let expected = format!("holds {left} sessions sealed with a key that is not in");
        assert!(refused.to_string().contains(&expected), "{refused}");
    };
    // If a reload is refused, none of the new settings takes effect.
    fixture.keys = vec![2];
    fixture.settings.idle = Duration::from_secs(1);
    fixture.settings.absolute = Duration::from_secs(1);
    let providers = std::mem::take(&mut fixture.providers);
    refused(&fixture, 2).await;
    assert_eq!(sessions.cookie_lifetime(), Duration::from_mins(10));
    assert!(live(&sessions, &renewed, after(59)).await);
    fixture.settings.idle = Duration::from_mins(1);
    fixture.settings.absolute = Duration::from_mins(10);
    fixture.providers = providers;

    fixture.keys = vec![2, 1];
    sessions
        .reconfigure(fixture.reconfiguration(), NOW)
        .await
        .unwrap();
    let old = session(&sessions, &renewed).await;
    let replaced = sessions.replace(&old, tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    fixture.keys = vec![2];
    refused(&fixture, 1).await;
    sessions
        .end(&other.key(), EndReason::SignedOut)
        .await
        .unwrap();
    sessions
        .reconfigure(fixture.reconfiguration(), NOW)
        .await
        .unwrap();
    sessions.close().await.unwrap();
    let sessions = fixture.start(NOW);
    assert!(live(&sessions, &renewed, NOW).await);
}

#[tokio::test]
async fn a_store_in_memory_accepts_any_keys() {
    let mut fixture = Fixture::memory();
    let sessions = fixture.start(NOW);
    let id = open(&sessions, "alice", NOW).await;
    fixture.keys = vec![2];
    sessions
        .reconfigure(fixture.reconfiguration(), NOW)
        .await
        .unwrap();
    assert!(live(&sessions, &id, NOW).await);
}

#[tokio::test]
async fn the_limits_of_a_provider_apply_to_its_running_sessions_and_to_no_others() {
    for mut fixture in kits() {
        fixture.providers.insert("strict".into(), [0; 32]);
        let sessions = fixture.start(NOW);
        let strict = open_at(&sessions, "strict", 4).await;
        let other = open(&sessions, "other", NOW).await;
        let held = session(&sessions, &strict[0]).await;
        let limits = ProviderLimits {
            idle: Some(Duration::from_secs(20)),
            absolute: Some(Duration::from_secs(50)),
        };
        fixture
            .settings
            .of_providers
            .insert("strict".into(), limits);
        let applied = sessions.reconfigure(fixture.reconfiguration(), NOW).await;
        assert_eq!(applied.unwrap(), Reconfigured::default());
        // A value from before the reload has to be looked up again.
        assert!(!sessions.still(&held, NOW, after(1)), "{fixture:?}");
        let held = session(&sessions, &strict[0]).await;
        assert!(sessions.still(&held, NOW, after(1)), "{fixture:?}");
        let deadlines = sessions.deadlines(&held);
        assert_eq!((deadlines.idle, deadlines.latest), (after(21), after(50)));
        assert!(live(&sessions, &strict[1], after(19)).await, "{fixture:?}");
        assert!(!live(&sessions, &strict[2], after(20)).await, "{fixture:?}");
        assert!(live(&sessions, &strict[1], after(38)).await, "{fixture:?}");
        assert!(live(&sessions, &other, after(49)).await, "{fixture:?}");
        assert!(!live(&sessions, &strict[1], after(50)).await, "{fixture:?}");
        assert!(live(&sessions, &other, after(51)).await, "{fixture:?}");
        // A session of a later login ends after its own lifetime.
        let late = login_at("strict", "late");
        let late = sessions.open(late, after(51)).await.unwrap();
        let Lookup::Live(opened) = found(&sessions, &late, after(51)).await else {
            panic!("{fixture:?}")
        };
        assert_eq!(sessions.deadlines(&opened).latest, after(101));
    }
}

#[tokio::test]
async fn a_reload_without_the_limits_of_a_provider_brings_no_session_back() {
    for mut fixture in [Fixture::memory(), Fixture::disk()] {
        let limits = ProviderLimits {
            idle: Some(Duration::from_secs(20)),
            absolute: Some(Duration::from_secs(50)),
        };
        fixture.settings.of_providers.insert("op".into(), limits);
        let sessions = fixture.start(NOW);
        let (idle, used) = (
            open(&sessions, "idle", NOW).await,
            open(&sessions, "used", NOW).await,
        );
        assert!(live(&sessions, &used, after(15)).await);
        fixture.settings.of_providers.clear();
        let applied = sessions
            .reconfigure(fixture.reconfiguration(), after(30))
            .await;
        applied.unwrap();
        assert!(!live(&sessions, &idle, after(30)).await, "{fixture:?}");
        assert!(live(&sessions, &used, after(30)).await, "{fixture:?}");
    }
}

#[tokio::test]
async fn the_sweep_and_the_start_end_sessions_by_the_limits_of_their_provider() {
    for mut fixture in [Fixture::memory(), Fixture::disk()] {
        fixture.providers.insert("strict".into(), [0; 32]);
        let sessions = fixture.start(NOW);
        open_at(&sessions, "strict", 2).await;
        open(&sessions, "other", NOW).await;
        let limits = ProviderLimits {
            idle: None,
            absolute: Some(Duration::from_secs(20)),
        };
        fixture
            .settings
            .of_providers
            .insert("strict".into(), limits);
        let applied = sessions.reconfigure(fixture.reconfiguration(), NOW).await;
        applied.unwrap();
        if fixture.settings.store == StoreSettings::Memory {
            sessions.maintain(after(20)).await.unwrap();
            assert_eq!(sessions.count(), 1);
        } else {
            sessions.close().await.unwrap();
            assert_eq!(fixture.start(after(20)).count(), 1);
        }
    }
}

#[tokio::test]
async fn a_session_remembers_its_longest_pause() {
    for fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        let id = open(&sessions, "alice", NOW).await;
        let pause = async |at: u64| {
            let session = session_at(&sessions, &id, after(at)).await;
            session.longest_pause().as_secs()
        };
        assert_eq!(pause(0).await, 0);
        assert_eq!(pause(40).await, 40);
        assert_eq!(pause(50).await, 40);
        // A refresh keeps the longest pause.
        let old = session(&sessions, &id).await;
        let replaced = sessions.replace(&old, tokens("token-1"), None).await;
        assert!(matches!(replaced, Ok(Replaced::Stored(_))));
        assert_eq!(pause(51).await, 40, "{fixture:?}");
    }
}

#[tokio::test]
async fn lifetimes_and_the_bound_on_a_persons_sessions_take_effect_at_once() {
    for mut fixture in Fixture::every() {
        let sessions = fixture.start(NOW);
        let (idle, used) = (
            open(&sessions, "idle", NOW).await,
            open(&sessions, "used", NOW).await,
        );
        let held = session(&sessions, &used).await;
        assert!(live(&sessions, &used, after(50)).await);
        // One session has expired but is not removed yet. The longer idle time does not make the
        // expired session valid again.
        fixture.settings.idle = Duration::from_mins(5);
        fixture.settings.absolute = Duration::from_mins(20);
        fixture.settings.per_person = 1;
        let reconfigured = sessions
            .reconfigure(fixture.reconfiguration(), after(70))
            .await;
        assert_eq!(reconfigured.unwrap(), Reconfigured::default());
        assert!(!live(&sessions, &idle, after(70)).await);
        assert_eq!(sessions.count(), 1);
        assert!(live(&sessions, &used, after(300)).await);
        // A value from before the reload has to be looked up again.
        assert!(!sessions.still(&held, after(300), after(301)));
        let held = session_at(&sessions, &used, after(300)).await;
        assert!(sessions.still(&held, after(300), after(329)));
        assert_eq!(sessions.cookie_lifetime(), Duration::from_mins(20));
        // The reload does not change the deadline of a session that existed before the reload.
        assert!(!live(&sessions, &used, after(600)).await);
        let (first, second) = (
            open(&sessions, "alice", after(600)).await,
            open(&sessions, "alice", after(600)).await,
        );
        assert!(!live(&sessions, &first, after(600)).await);
        let held = session_at(&sessions, &second, after(600)).await;
        assert_eq!(held.stored().ends_at(), after(1800));
        fixture.settings.idle = Duration::from_secs(10);
        sessions
            .reconfigure(fixture.reconfiguration(), after(600))
            .await
            .unwrap();
        assert!(!sessions.still(&held, after(600), after(601)));
        assert!(live(&sessions, &second, after(609)).await);
        assert!(!live(&sessions, &second, after(619)).await);
    }
}

async fn session_at(sessions: &Sessions, id: &SessionId, now: Timestamp) -> Arc<Session> {
    let lookup = found(sessions, id, now).await;
    let Lookup::Live(session) = lookup else {
        panic!("{lookup:?}")
    };
    session
}

#[tokio::test]
async fn settings_that_cannot_be_committed_change_nothing() {
    let mut fixture = Fixture::disk();
    let sessions = fixture.start(NOW);
    let id = open(&sessions, "alice", NOW).await;
    sessions.close().await.unwrap();
    let disk = fixture.open_disk();
    let (mut keeper, _handle) =
        Keeper::new(Backend::Disk(Box::new(disk)), fixture.keeper_settings());
    keeper.restore(NOW).unwrap();
    let Backend::Disk(disk) = &mut keeper.backend else {
        panic!("another store")
    };
    // A reload with the same settings does not read or write the file. The function `fill` makes
    // the disk full, so a write would fail.
    fill(disk);
    let unchanged = keeper.reconfigure(fixture.reconfiguration(), NOW).unwrap();
    assert_eq!(unchanged, Reconfigured::default());
    // The reload would end the session, which has expired.
    fixture.providers.insert("new".into(), [0; 32]);
    fixture.settings.idle = Duration::from_mins(5);
    fixture.settings.per_person = 1;
    fixture.keys = vec![2, 1];
    let refused = keeper
        .reconfigure(fixture.reconfiguration(), after(70))
        .unwrap_err();
    assert!(matches!(
        refused,
        ReconfigureError::Store(StoreError::NotCommitted(_))
    ));
    assert_eq!((keeper.index.len(), keeper.limits.per_person()), (1, 3));
    assert!(!keeper.registrations.contains_key("new"));
    drop(keeper);
    fixture.keys = vec![1];
    let sessions = fixture.start(NOW);
    assert!(live(&sessions, &id, NOW).await);
    sessions.close().await.unwrap();
    let closed = sessions.reconfigure(fixture.reconfiguration(), NOW).await;
    assert!(matches!(
        closed,
        Err(ReconfigureError::Store(StoreError::Closed))
    ));
}
