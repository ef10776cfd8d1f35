//! Tests with a session file that an older version of the gateway has written in format 1.

use std::fs;
use std::time::Duration;

use super::*;
use crate::session::file::PROPERTIES;
use crate::session::fixture::{Fixture, NOW, found, live, session};
use crate::session::preview::{Preview, preview};
use crate::session::{Lookup, SessionId, Sessions, StartError};

/// The file. Never change it: the first version with a session file has written it with the key and
/// the provider of [`Fixture`]. It contains two sessions, and a third session has ended.
const FILE: &[u8] = include_bytes!("../../tests/data/sessions_of_format_1.redb");

/// The session with all optional values. It was last used 30 seconds after its login.
const EVERYTHING: &str = "WRkKYqHRFI6TE6AT6MLxXxGQ6gvGZTieasujIlPeLZGETyL_";
/// The session of Alice, after a refresh.
const ALICE: &str = "WRkKYo0bHCbcfT8mYWME80TI1NtnyaFZJcM_exNXw7qG07Ry";

fn id(text: &str) -> SessionId {
    SessionId::parse(text.as_bytes()).unwrap()
}

/// Returns a fixture with a copy of the file.
fn fixture() -> Fixture {
    let fixture = Fixture::disk();
    fs::write(fixture.file(), FILE).unwrap();
    fixture
}

fn has_the_first_format(fixture: &Fixture) -> bool {
    let database = Database::open(fixture.file()).unwrap();
    let transaction = database.begin_read().unwrap();
    transaction.open_table(PROVIDERS).is_ok()
}

async fn check_sessions(sessions: &Sessions) {
    assert_eq!(sessions.count(), 2);
    let alice = session(sessions, &id(ALICE)).await;
    assert_eq!(alice.identity().subject.as_ref().unwrap().as_str(), "alice");
    assert_eq!(
        (alice.version(), alice.tokens().access_token()),
        (1, "token-1")
    );
    let whole = session(sessions, &id(EVERYTHING)).await;
    assert_eq!(whole.tokens().access_token(), "canary-access");
    assert!(whole.tokens().id_token().is_some());
    // Only the time of the last use keeps this session alive.
    let later = NOW.plus(Duration::from_secs(80));
    assert!(live(sessions, &id(EVERYTHING), later).await);
    assert!(matches!(
        found(sessions, &id(ALICE), later).await,
        Lookup::Expired
    ));
}

#[tokio::test]
async fn f_36_a_file_of_the_first_format_signs_nobody_out() {
    let fixture = fixture();
    // A preview reads the file and does not change it.
    let shown = preview(&fixture.file(), &fixture.ring(), &fixture.providers, NOW);
    assert!(matches!(shown, Ok(Preview::Ends(ended)) if ended.is_empty()));
    assert!(fs::read(fixture.file()).unwrap() == FILE);
    let sessions = fixture.start(NOW);
    check_sessions(&sessions).await;
    sessions.close().await.unwrap();
    assert!(!has_the_first_format(&fixture));
    // The next start reads the new format.
    check_sessions(&fixture.start(NOW)).await;
}

#[tokio::test]
async fn sessions_of_a_changed_provider_end_with_the_upgrade() {
    let mut fixture = fixture();
    fixture.providers.insert("op".into(), [1; 32]);
    let shown = preview(&fixture.file(), &fixture.ring(), &fixture.providers, NOW);
    assert!(matches!(shown, Ok(Preview::Ends(ended)) if ended["op"] == 2));
    let sessions = fixture.start(NOW);
    assert_eq!(sessions.count(), 0);
    sessions.close().await.unwrap();
    assert!(!has_the_first_format(&fixture));
}

#[tokio::test]
async fn an_upgrade_without_the_key_changes_nothing_until_the_sessions_have_expired() {
    let mut fixture = fixture();
    fixture.keys = vec![2];
    let refused = fixture.try_start(NOW).map(|_| ()).unwrap_err();
    let StartError::File(FileError::UnknownKey { sessions: 2, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(has_the_first_format(&fixture));
    fixture.keys = vec![2, 1];
    let sessions = fixture.start(NOW);
    check_sessions(&sessions).await;
    sessions.close().await.unwrap();
    // After the upgrade, the sessions are sealed with the newest key.
    fixture.keys = vec![2];
    check_sessions(&fixture.start(NOW)).await;
    let mut old = self::fixture();
    old.keys = vec![2];
    let later = NOW.plus(old.settings.absolute);
    let sessions = old.try_start(later).unwrap();
    assert_eq!(sessions.count(), 0);
}

/// The head of a file of format 2 says format 1.
#[tokio::test]
async fn a_session_of_the_second_format_is_not_read_as_one_of_the_first() {
    let fixture = fixture();
    fixture.start(NOW).close().await.unwrap();
    let database = Database::open(fixture.file()).unwrap();
    let transaction = database.begin_write().unwrap();
    let mut about = transaction.open_table(PROPERTIES).unwrap();
    about.insert("format", 1).unwrap();
    about.remove("file").unwrap();
    drop(about);
    transaction.commit().unwrap();
    drop(database);
    let refused = fixture.try_start(NOW).map(|_| ()).unwrap_err();
    assert!(
        matches!(
            refused,
            StartError::File(FileError::UnknownKey { .. } | FileError::Damaged { .. })
        ),
        "{refused:?}"
    );
}
