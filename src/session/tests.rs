//! Tests of sessions in a file.

use std::time::Duration;

use super::entry::{Entry, FileId, Format, Sealing};
use super::fixture::{Fixture, NOW, clock, live, login, open, session, tokens};
use super::*;
use crate::identity::{Claim, Email};
use crate::token::{Authentication, Lifetime};

fn everything() -> NewSession<'static> {
    let claim = |text| Claim::new(text);
    let identity = Identity {
        subject: claim("canary-subject"),
        email: Some(Email {
            address: claim("canary@example.com").unwrap(),
            verified: true,
        }),
        preferred_username: claim("canary-name"),
        name: claim("Zoë Canary"),
        ..Identity::nameless("https://id.example.com")
    };
    let groups = ["canary-staff", "canary-admins"].map(|group| Claim::new(group).unwrap());
    let life = Lifetime {
        obtained_at: NOW,
        expires_at: Some(Timestamp::from_millis(1_300_000)),
        refresh_at: Some(Timestamp::from_millis(1_240_000)),
        not_before: Timestamp::from_millis(1_010_000),
    };
    let tokens = TokenSet::new("canary-access", Some("canary\"refresh\\"), life).unwrap();
    let authentication = Authentication {
        nonce: "canary-nonce".into(),
        auth_time: Some(Timestamp::from_millis(999_000)),
    };
    NewSession {
        provider: "op",
        registration: [0; 32],
        identity: identity
            .with_groups(groups)
            .with_claims([("canary.path".into(), Claim::new("canary-unit").unwrap())]),
        tokens: tokens
            .with_authentication(Some(authentication))
            .with_id_token(Some("e30.canary-id-token.e30")),
        replaces: Vec::new(),
        sid: Some("canary-sid".into()),
        device: Some(Device::new("canary-agent", [192, 0, 2, 1].into())),
        begun_at: NOW,
    }
}

#[tokio::test]
async fn a_session_outlives_the_process_and_the_file_contains_no_readable_part_of_it() {
    let fixture = Fixture::disk();
    let sessions = fixture.start(NOW);
    let id = sessions.open(everything(), NOW).await.unwrap();
    let before = session(&sessions, &id).await;
    let next = sessions.replace(&before, everything().tokens, None).await;
    assert!(matches!(next, Ok(Replaced::Stored(_))));
    sessions.close().await.unwrap();
    let sessions = fixture.start(NOW);
    let after = session(&sessions, &id).await;
    assert_eq!((before.version(), after.version()), (0, 1));
    assert_eq!(before.identity(), after.identity());
    assert_eq!(before.provider(), after.provider());
    assert_eq!(before.tokens().bearer(), after.tokens().bearer());
    assert_eq!(before.tokens().lifetime(), after.tokens().lifetime());
    let authentication = before.tokens().authentication();
    assert_eq!(authentication, after.tokens().authentication());
    let id_token = after.tokens().id_token().unwrap().expose();
    assert_eq!(id_token, "e30.canary-id-token.e30");
    assert_eq!(
        after.identity().claim("canary.path").unwrap().as_str(),
        "canary-unit"
    );
    let refresh = after.tokens().refresh_token().unwrap();
    assert!(refresh.matches(b"canary\"refresh\\"));
    assert_eq!(after.sid(), Some("canary-sid"));
    assert_eq!(before.opened_at(), after.opened_at());
    assert_eq!(before.stored().ends_at(), after.stored().ends_at());
    let file = std::fs::read(fixture.file()).unwrap();
    for secret in ["canary", "example.com", "Zo\u{eb}", id.to_text().expose()] {
        let secret = secret.as_bytes();
        assert!(!file.windows(secret.len()).any(|found| found == secret));
    }
}

#[tokio::test]
async fn a_restart_keeps_exactly_the_valid_sessions() {
    let (fixture, clock) = (Fixture::disk(), clock());
    let sessions = fixture.start(clock.now());
    let [stays, used, ended, idle] = ["stays", "used", "ended", "idle"];
    let idle = open(&sessions, idle, clock.now()).await;
    clock.advance(Duration::from_secs(30));
    let stays = open(&sessions, stays, clock.now()).await;
    let used = open(&sessions, used, clock.now()).await;
    let ended = open(&sessions, ended, clock.now()).await;
    sessions
        .end(&ended.key(), EndReason::SignedOut)
        .await
        .unwrap();
    clock.advance(Duration::from_secs(29));
    assert!(live(&sessions, &used, clock.now()).await);
    sessions.close().await.unwrap();
    // The deadline of the idle session passes while the process is stopped.
    clock.advance(Duration::from_secs(1));
    let sessions = fixture.start(clock.now());
    assert!(!live(&sessions, &ended, clock.now()).await);
    assert!(!live(&sessions, &idle, clock.now()).await);
    assert_eq!(sessions.count(), 2);
    // The session file also contains the time of the last use of each session.
    clock.advance(Duration::from_secs(29));
    assert!(live(&sessions, &stays, clock.now()).await);
    clock.advance(Duration::from_secs(30));
    assert!(!live(&sessions, &used, clock.now()).await);
    sessions.close().await.unwrap();
    let sessions = fixture.start(clock.now());
    assert!(live(&sessions, &stays, clock.now()).await);
    assert_eq!(sessions.count(), 1);
}

#[tokio::test]
async fn the_first_use_in_a_stretch_is_in_the_file_after_the_next_maintenance() {
    let (fixture, clock) = (Fixture::disk(), clock());
    let sessions = fixture.start(clock.now());
    let id = open(&sessions, "alice", clock.now()).await;
    clock.advance(Duration::from_secs(50));
    assert!(live(&sessions, &id, clock.now()).await);
    sessions.maintain(clock.now()).await.unwrap();
    // A copy of a file that is in use has the same contents as the file after a crash.
    let crashed = Fixture::disk();
    std::fs::copy(fixture.file(), crashed.file()).unwrap();
    clock.advance(Duration::from_secs(50));
    let sessions = crashed.start(clock.now());
    assert!(live(&sessions, &id, clock.now()).await);
}

#[tokio::test]
async fn c_11_ids_stay_good_over_a_restart_and_other_processes_ids_are_told_apart() {
    let fixture = Fixture::disk();
    let sessions = fixture.start(NOW);
    let id = open(&sessions, "alice", NOW).await;
    sessions.close().await.unwrap();
    let sessions = fixture.start(NOW);
    assert!(live(&sessions, &id, NOW).await);
    let other = Fixture::disk().start(NOW);
    assert!(matches!(other.find(&id, NOW), Lookup::OtherInstance));
}

#[tokio::test]
async fn evicted_sessions_are_read_from_the_file() {
    let mut fixture = Fixture::disk();
    fixture.settings.capacity = 20 * 1024;
    let sessions = fixture.start(NOW);
    let mut ids = Vec::new();
    for number in 0..300 {
        ids.push(open(&sessions, &number.to_string(), NOW).await);
        sessions.maintain(NOW).await.unwrap();
    }
    assert!(sessions.pushed_out() > 200);
    assert_eq!(sessions.ended_by_capacity(), 0);
    assert_eq!(sessions.count(), 300);
    let held = session(&sessions, &ids[299]).await;
    for (number, id) in ids.iter().enumerate() {
        let session = session(&sessions, id).await;
        let subject = session.identity().subject.clone().unwrap();
        assert_eq!(subject.as_str(), number.to_string());
        sessions.maintain(NOW).await.unwrap();
    }
    // The following look-ups make the cache evict the session of `held`. After the eviction, the
    // state of `held` shows that a request must look up the session again.
    for id in &ids[..200] {
        assert!(live(&sessions, id, NOW).await);
        sessions.maintain(NOW).await.unwrap();
    }
    assert_eq!(held.state(), SessionState::Superseded);
    // The eviction did not change the version of the session, so `replace` still accepts `held`.
    // The method `end` can also end a session that the cache has evicted.
    let replaced = sessions.replace(&held, tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Stored(new)) if new.version() == 1));
    sessions
        .end(&ids[298].key(), EndReason::SignedOut)
        .await
        .unwrap();
    assert!(!live(&sessions, &ids[298], NOW).await);
    sessions.close().await.unwrap();
    let sessions = fixture.start(NOW);
    assert_eq!(sessions.count(), 299);
    let newest = session(&sessions, &ids[299]).await;
    assert_eq!(newest.tokens().access_token(), "token-1");
}

#[tokio::test]
async fn a_session_that_is_away_expires_by_its_last_use() {
    let (mut fixture, clock) = (Fixture::disk(), clock());
    fixture.settings.capacity = 20 * 1024;
    let sessions = fixture.start(clock.now());
    let id = open(&sessions, "alice", clock.now()).await;
    clock.advance(Duration::from_secs(40));
    assert!(live(&sessions, &id, clock.now()).await);
    // The cache evicts the session before the time of its last use is written to the file.
    for number in 0..100 {
        open(&sessions, &number.to_string(), clock.now()).await;
        sessions.cache.run_pending_tasks();
    }
    assert!(matches!(sessions.find(&id, clock.now()), Lookup::Away));
    clock.advance(Duration::from_secs(40));
    assert!(live(&sessions, &id, clock.now()).await);
    assert_eq!(
        sessions.maintain(clock.now()).await.unwrap(),
        Maintained::Done
    );
    clock.advance(Duration::from_mins(1));
    while sessions.maintain(clock.now()).await.unwrap() == Maintained::More {}
    assert_eq!(sessions.count(), 0);
}

#[tokio::test]
async fn a_session_is_invalid_after_its_provider_has_changed() {
    let mut fixture = Fixture::disk();
    fixture.providers.insert("other".into(), [0; 32]);
    let sessions = fixture.start(NOW);
    let elsewhere = NewSession {
        provider: "other",
        ..login("bob")
    };
    let bob = sessions.open(elsewhere, NOW).await.unwrap();
    let alice = open(&sessions, "alice", NOW).await;
    sessions.close().await.unwrap();
    fixture.providers.insert("other".into(), [1; 32]);
    let sessions = fixture.start(NOW);
    assert!(live(&sessions, &alice, NOW).await && !live(&sessions, &bob, NOW).await);
    sessions.close().await.unwrap();
    // All sessions are encrypted with the old key. The test adds a new key in front of the old key,
    // and later removes the old key.
    fixture.keys = vec![2, 1];
    let sessions = fixture.start(NOW);
    let old = session(&sessions, &alice).await;
    let replaced = sessions.replace(&old, tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    sessions.close().await.unwrap();
    fixture.keys = vec![2];
    let sessions = fixture.start(NOW);
    assert!(live(&sessions, &alice, NOW).await);
    sessions.close().await.unwrap();
    for providers in [
        Registrations::from([("op".into(), [1; 32])]),
        Registrations::new(),
    ] {
        let copy = Fixture::disk();
        std::fs::copy(fixture.file(), copy.file()).unwrap();
        let mut copy = Fixture {
            keys: vec![2],
            providers,
            ..copy
        };
        let sessions = copy.start(NOW);
        assert!(!live(&sessions, &alice, NOW).await);
        assert_eq!(sessions.count(), 0);
        sessions.close().await.unwrap();
        // The session stays ended, even if the process starts again with the settings of the old
        // provider.
        copy.providers.clone_from(&fixture.providers);
        let sessions = copy.start(NOW);
        assert!(!live(&sessions, &alice, NOW).await);
    }
}

#[tokio::test]
async fn c_08_sessions_sealed_with_an_older_key_are_read_and_are_sealed_anew_when_replaced() {
    let mut fixture = Fixture::disk();
    let sessions = fixture.start(NOW);
    let renewed = open(&sessions, "renewed", NOW).await;
    let other = open(&sessions, "other", NOW).await;
    sessions.close().await.unwrap();
    fixture.keys = vec![2, 1];
    let sessions = fixture.start(NOW);
    let old = session(&sessions, &renewed).await;
    let replaced = sessions.replace(&old, tokens("token-1"), None).await;
    assert!(matches!(replaced, Ok(Replaced::Stored(_))));
    sessions.close().await.unwrap();
    fixture.keys = vec![2];
    let refusal = fixture.refusal();
    assert!(refusal.contains("holds 1 sessions sealed with a key that is not in"));
    assert!(refusal.contains("login.state_key_file") && refusal.contains("sessions.redb"));
    fixture.keys = vec![2, 1];
    let sessions = fixture.start(NOW);
    sessions
        .end(&other.key(), EndReason::SignedOut)
        .await
        .unwrap();
    sessions.close().await.unwrap();
    fixture.keys = vec![2];
    let sessions = fixture.start(NOW);
    assert!(live(&sessions, &renewed, NOW).await);
}

#[tokio::test]
async fn f_30_a_key_may_go_when_the_sessions_that_it_sealed_have_ended() {
    let mut fixture = Fixture::disk();
    let sessions = fixture.start(NOW);
    open(&sessions, "alice", NOW).await;
    sessions.close().await.unwrap();
    fixture.keys = vec![2];
    assert!(
        fixture
            .try_start(NOW.plus(Duration::from_secs(599)))
            .is_err()
    );
    let sessions = fixture.start(NOW.plus(Duration::from_mins(10)));
    assert_eq!(sessions.count(), 0);
}

#[tokio::test]
async fn an_entry_that_was_moved_or_changed_does_not_open() {
    let fixture = Fixture::disk();
    let sessions = fixture.start(NOW);
    let (alice, bob) = (
        open(&sessions, "alice", NOW).await,
        open(&sessions, "bob", NOW).await,
    );
    let session = session(&sessions, &alice).await;
    let file = FileId::random().unwrap();
    let sealing = Sealing {
        file,
        providers: &fixture.providers,
        keys: &fixture.ring(),
    };
    let sealed = sealing.seal(session.stored()).unwrap();
    let opened = |id: &SessionId, bytes: &[u8]| {
        let entry = Entry::new(bytes, Format::Second(file))?;
        entry.open(&id.key(), &fixture.ring(), &fixture.providers)
    };
    assert!(opened(&alice, &sealed).is_some());
    assert!(opened(&bob, &sealed).is_none());
    for position in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[position] ^= 1;
        assert!(opened(&alice, &changed).is_none(), "byte {position}");
        assert!(opened(&alice, &sealed[..position]).is_none());
    }
}

#[test]
fn an_entry_has_a_device_and_an_entry_of_an_older_version_has_none() {
    let device = Device::new("curl/8", [192, 0, 2, 1].into());
    for (sid, device) in [
        (None, None),
        (Some("sid"), None),
        (None, Some(&device)),
        (Some("sid"), Some(&device)),
    ] {
        let contents = Contents {
            version: 3,
            provider: "op".into(),
            identity: everything().identity,
            tokens: everything().tokens,
            opened_at: NOW,
            sid: sid.map(Into::into),
            device: device.cloned(),
            newer: Box::default(),
        };
        let bytes = record::encode(&contents);
        let read = record::decode(&bytes).unwrap();
        assert_eq!(read.sid.as_deref(), sid);
        assert_eq!(read.device.as_ref(), device);
        assert_eq!(read.identity, contents.identity);
        assert!(read.tokens.id_token().is_some());
        // A damaged device does not make the entry unreadable.
        if device.is_some() {
            let damaged = record::decode(&bytes[..bytes.len() - 1]).unwrap();
            assert_eq!(damaged.device, None);
            assert_eq!(damaged.sid.as_deref(), sid);
        }
    }
}

#[tokio::test]
async fn an_older_version_can_read_an_entry_with_a_provider_session() {
    let fixture = Fixture::memory();
    let sessions = fixture.start(NOW);
    let without = NewSession {
        sid: None,
        device: None,
        ..everything()
    };
    let mut entries = Vec::new();
    for new in [everything(), without] {
        let id = sessions.open(new, NOW).await.unwrap();
        let session = session(&sessions, &id).await;
        entries.push(session.stored().contents().to_vec());
    }
    // Older versions read the bytes of `without`, and ignore the bytes after them.
    assert!(entries[0].len() > entries[1].len() && entries[0].starts_with(&entries[1]));
    assert_eq!(record::decode(&entries[1]).unwrap().sid, None);
}

#[tokio::test]
async fn f_36_a_refresh_keeps_the_values_of_a_newer_version() {
    let newer: Box<[u8]> = [7, 3, 1, 2, 3].into();
    let device = Device::new("curl/8", [192, 0, 2, 1].into());
    for (sid, device) in [(None, None), (Some("sid".into()), Some(device))] {
        let contents = Contents {
            version: 3,
            provider: "op".into(),
            identity: everything().identity,
            tokens: everything().tokens,
            opened_at: NOW,
            sid,
            device,
            newer: newer.clone(),
        };
        let read = record::decode(&record::encode(&contents)).unwrap();
        assert_eq!((&read.sid, &read.device), (&contents.sid, &contents.device));
        assert_eq!(read.newer, newer);
        let rank = Rank {
            user: None,
            ends_at: NOW.plus(Duration::from_mins(1)),
            key: SessionId::random(StoreTag::random().unwrap())
                .unwrap()
                .key(),
        };
        let session = Session::of(Arc::new(Stored::new(rank, NOW, &contents))).unwrap();
        let next = session.next(tokens("token-1"), None);
        let next = record::decode(next.stored().contents()).unwrap();
        assert_eq!((next.version, &next.sid), (4, &contents.sid));
        assert_eq!(next.newer, newer);
    }
}
