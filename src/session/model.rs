//! Performs random steps on the replicas of every kind of store, and compares the results with a
//! small model of sessions. A replica is a `Sessions` value, which caches the sessions of a store.

use std::collections::HashMap;

use proptest::prelude::*;

use super::fixture::{Fixture, NOW, live, login, session, tokens};
use super::*;

/// One step of a test. The model has numbered slots, and each slot contains at most one session.
/// The number in a variant of `Step` is the number of the slot that the step uses.
#[derive(Clone, Debug)]
enum Step {
    Open(usize),
    OpenInstead(usize),
    Replace(usize),
    ReplaceStale(usize),
    End(usize),
    EndVersion(usize),
    /// A reload changes the server of the provider with the name `other`. The sessions of the
    /// provider `other` end, and the sessions of the provider `op` continue.
    ProviderChanges,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let place = 0..6_usize;
    prop_oneof![
        4 => place.clone().prop_map(Step::Open),
        1 => place.clone().prop_map(Step::OpenInstead),
        6 => place.clone().prop_map(Step::Replace),
        2 => place.clone().prop_map(Step::ReplaceStale),
        2 => place.clone().prop_map(Step::End),
        1 => place.prop_map(Step::EndVersion),
        1 => Just(Step::ProviderChanges),
        2 => Just(Step::Restart),
    ]
}

/// Returns the name of the provider for the session in the slot `place`.
fn provider(place: usize) -> &'static str {
    if place.is_multiple_of(2) {
        "op"
    } else {
        "other"
    }
}

/// Starts all replicas of a store. A store in memory has one replica.
fn start(fixture: &Fixture) -> Vec<Sessions> {
    if fixture.is_durable() {
        fixture.start_two(NOW).into()
    } else {
        vec![fixture.start(NOW)]
    }
}

/// Runs each step at one of the replicas. For each slot, the model contains the session id and the
/// version of the session.
async fn take(fixture: &mut Fixture, steps: Vec<(Step, usize)>) {
    fixture.providers.insert("other".into(), [0; 32]);
    let mut replicas = start(fixture);
    let mut ids: HashMap<usize, (SessionId, u64)> = HashMap::new();
    for (step, replica) in steps {
        let sessions = replicas.get(replica).unwrap_or(&replicas[0]);
        match step {
            Step::Open(place) | Step::OpenInstead(place) => {
                let instead = matches!(step, Step::OpenInstead(_));
                let before = ids.get(&place).map(|(id, _)| id.key());
                if before.is_some() && !instead {
                    continue;
                }
                let id = sessions
                    .open(login_at(fixture, place, before), NOW)
                    .await
                    .unwrap();
                ids.insert(place, (id, 0));
            }
            Step::Replace(place) | Step::ReplaceStale(place) => {
                let Some((id, version)) = ids.get_mut(&place) else {
                    continue;
                };
                let held = session(sessions, id).await;
                *version = version.saturating_add(1);
                let next = tokens(&format!("token-{version}"));
                let replaced = sessions.replace(&held, next, None).await.unwrap();
                assert!(matches!(replaced, Replaced::Stored(_)));
                if matches!(step, Step::ReplaceStale(_)) {
                    let replaced = sessions.replace(&held, tokens("stale"), None).await;
                    assert!(matches!(replaced, Ok(Replaced::Newer(_))));
                }
            }
            Step::End(place) | Step::EndVersion(place) => {
                let Some((id, _)) = ids.remove(&place) else {
                    continue;
                };
                let held = session(sessions, &id).await;
                if matches!(step, Step::End(_)) {
                    sessions.end(&id.key(), EndReason::SignedOut).await.unwrap();
                } else {
                    let ended = sessions.end_version(&held, EndReason::GrantEnded).await;
                    assert!(matches!(ended, Ok(EndedVersion::Ended)));
                }
                assert!(!live(sessions, &id, NOW).await);
            }
            Step::ProviderChanges => change_provider(fixture, &replicas, &mut ids).await,
            Step::Restart if fixture.is_durable() => {
                sessions.close().await.unwrap();
                replicas = start(fixture);
            }
            Step::Restart => {}
        }
        for sessions in &replicas {
            sessions.store.settle().await.unwrap();
            compare(sessions, &ids).await;
        }
    }
}

fn login_at(fixture: &Fixture, place: usize, before: Option<SessionKey>) -> NewSession<'static> {
    let provider = provider(place);
    NewSession {
        provider,
        registration: fixture.providers[provider],
        replaces: before.into_iter().collect(),
        ..login(&place.to_string())
    }
}

async fn change_provider(
    fixture: &mut Fixture,
    replicas: &[Sessions],
    ids: &mut HashMap<usize, (SessionId, u64)>,
) {
    let registration = fixture.providers.get_mut("other").unwrap();
    registration[0] = registration[0].wrapping_add(1);
    let before = ids.len();
    ids.retain(|place, _| provider(*place) == "op");
    let ended = u64::try_from(before.saturating_sub(ids.len())).unwrap();
    // Each process that shares a store reads the new settings.
    for (replica, expected) in replicas.iter().zip([ended, 0]) {
        let reconfigured = replica.reconfigure(fixture.reconfiguration(), NOW).await;
        let reconfigured = reconfigured.unwrap().ended;
        let found = reconfigured.get("other").copied().unwrap_or_default();
        assert_eq!(found, expected);
    }
}

async fn compare(sessions: &Sessions, ids: &HashMap<usize, (SessionId, u64)>) {
    assert_eq!(sessions.count(), u64::try_from(ids.len()).unwrap());
    for (id, version) in ids.values() {
        let session = session(sessions, id).await;
        let token = format!("token-{version}");
        assert_eq!(session.version(), *version);
        assert_eq!(session.tokens().access_token(), token);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sessions_are_what_was_done_to_them(
            steps in prop::collection::vec((step(), 0..2_usize), 1..60)
        ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut crowded = Fixture::disk();
        // Only about half of the sessions fit into the cache.
        crowded.settings.capacity = 1600;
        for mut fixture in [Fixture::memory(), Fixture::disk(), crowded, Fixture::redis()] {
            runtime.block_on(take(&mut fixture, steps.clone()));
        }
    }
}
