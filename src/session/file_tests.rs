//! Tests which session files the store refuses, and which session files the store accepts.

use super::*;
use crate::session::fixture::{Fixture, NOW, live, login, open, session, tokens};
use crate::session::{
    DiskSettings, EndReason, OpenError, Replaced, SessionId, Sessions, StartError, StoreError,
    StoreSettings,
};

impl Fixture {
    /// Returns the permissions of the file.
    fn mode(&self) -> u32 {
        std::fs::metadata(self.file()).unwrap().permissions().mode() & 0o777
    }
}

#[tokio::test]
async fn a_file_in_use_is_refused_until_its_process_has_ended() {
    let fixture = Fixture::disk();
    let sessions = fixture.start(NOW);
    assert!(fixture.refusal().contains("is in use by another process"));
    sessions.close().await.unwrap();
    assert!(matches!(
        sessions.open(login("alice"), NOW).await,
        Err(OpenError::Store(StoreError::Closed))
    ));
    fixture.start(NOW);
}

#[test]
fn another_kind_of_file_is_refused_and_not_changed() {
    let fixture = Fixture::disk();
    let other = fixture.folder.path().join("other.redb");
    let database = Database::create(&other).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = TableDefinition::<u64, u64>::new("mine");
    transaction.open_table(table).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let others = std::fs::read(&other).unwrap();
    for contents in [b"x".as_slice(), b"SQLite format 3\0 and more", &others] {
        std::fs::write(fixture.file(), contents).unwrap();
        std::fs::set_permissions(fixture.file(), Permissions::from_mode(0o644)).unwrap();
        let refusal = fixture.refusal();
        assert_eq!(fixture.mode(), 0o644);
        assert!(
            refusal.contains("sessions.redb is not a session file"),
            "{refusal}"
        );
        assert!(refusal.contains("session.store.disk.file"), "{refusal}");
        assert_eq!(std::fs::read(fixture.file()).unwrap().len(), contents.len());
    }
    let database = Database::open(fixture.file()).unwrap();
    let transaction = database.begin_read().unwrap();
    let value = transaction.open_table(table).unwrap().get(1).unwrap();
    assert_eq!(value.unwrap().value(), 2);
    assert_eq!(transaction.list_tables().unwrap().count(), 1);
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused() {
    let fixture = Fixture::disk();
    fixture.start(NOW).close().await.unwrap();
    let database = Database::open(fixture.file()).unwrap();
    let transaction = database.begin_write().unwrap();
    let about = TableDefinition::<&str, u64>::new("sidegate");
    transaction
        .open_table(about)
        .unwrap()
        .insert("format", 3)
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let refusal = fixture.refusal();
    assert!(
        refusal.contains("was written by a newer Sidegate (format 3)"),
        "{refusal}"
    );
}

#[test]
fn a_path_that_cannot_be_written_is_refused() {
    let refusal = |file: &Path| {
        let mut fixture = Fixture::disk();
        let file = file.to_owned();
        fixture.settings.store = StoreSettings::Disk(DiskSettings { file });
        fixture.refusal()
    };
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent/sessions.redb");
    assert!(refusal(&absent).contains("the folder of") && !absent.exists());
    // No file can be created in `/proc`.
    assert!(refusal(Path::new("/proc/sessions.redb")).contains("cannot be used: "));
    assert!(refusal(folder.path()).contains("cannot be used: Is a directory"));
}

#[tokio::test]
async fn an_incomplete_new_file_of_a_crash_is_overwritten() {
    let fixture = Fixture::disk();
    let new = fixture.folder.path().join("sessions.redb.new");
    std::fs::write(&new, b"half of").unwrap();
    // The file exists and is empty. Some tools create an empty file before the first start.
    std::fs::write(fixture.file(), b"").unwrap();
    let sessions = fixture.start(NOW);
    let id = open(&sessions, "alice", NOW).await;
    assert!(live(&sessions, &id, NOW).await && !new.exists());
}

/// Another user can write to the folder, and has planted the temporary name of the new file.
#[tokio::test]
async fn x_27_a_planted_link_is_not_followed_and_its_target_stays() {
    let fixture = Fixture::disk();
    let new = fixture.folder.path().join("sessions.redb.new");
    let target = fixture.folder.path().join("target");
    std::fs::write(&target, b"precious").unwrap();
    let is_refused = || {
        let refusal = fixture.refusal();
        assert!(
            refusal.contains("sessions.redb.new is not a regular file"),
            "{refusal}"
        );
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
        assert!(!fixture.file().exists());
    };
    std::os::unix::fs::symlink(&target, &new).unwrap();
    is_refused();
    std::fs::remove_file(&new).unwrap();
    // The link leads nowhere, so that its target would be created.
    let absent = fixture.folder.path().join("absent");
    std::os::unix::fs::symlink(&absent, &new).unwrap();
    is_refused();
    assert!(!absent.exists());
    std::fs::remove_file(&new).unwrap();
    std::fs::create_dir(&new).unwrap();
    is_refused();
    std::fs::remove_dir(&new).unwrap();
    // Nobody writes to the pipe. The start must not wait for a writer.
    let made = std::process::Command::new("mkfifo").arg(&new).status();
    assert!(made.unwrap().success());
    is_refused();
    std::fs::remove_file(&new).unwrap();
    // A hard link cannot be told from an incomplete file. Only the name is removed.
    std::fs::hard_link(&target, &new).unwrap();
    let sessions = fixture.start(NOW);
    let id = open(&sessions, "alice", NOW).await;
    assert!(live(&sessions, &id, NOW).await && !new.exists());
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
    assert_eq!(fixture.mode(), 0o600);
}

#[test]
fn a_new_file_that_another_process_is_writing_is_not_removed() {
    let fixture = Fixture::disk();
    let new = fixture.folder.path().join("sessions.redb.new");
    let other = File::create_new(&new).unwrap();
    other.lock().unwrap();
    assert!(fixture.refusal().contains("is in use by another process"));
    assert!(is_at(&other, &new).unwrap());
    drop(other);
    fixture.start(NOW);
    assert!(!new.exists());
}

#[tokio::test]
async fn only_the_owner_has_access_to_the_file() {
    let fixture = Fixture::disk();
    fixture.start(NOW).close().await.unwrap();
    assert_eq!(fixture.mode(), 0o600);
    std::fs::set_permissions(fixture.file(), Permissions::from_mode(0o666)).unwrap();
    fixture.start(NOW).close().await.unwrap();
    assert_eq!(fixture.mode(), 0o600);
}

#[tokio::test]
async fn an_inspection_does_not_create_lock_or_change_the_file() {
    let fixture = Fixture::disk();
    inspect(&fixture.file()).unwrap();
    assert!(!fixture.file().exists());
    let sessions = fixture.start(NOW);
    let before = std::fs::read(fixture.file()).unwrap();
    inspect(&fixture.file()).unwrap();
    assert!(before == std::fs::read(fixture.file()).unwrap());
    open(&sessions, "alice", NOW).await;
}

/// Changes one byte of a file at a time. After each change, the store must refuse the file, or all
/// sessions in the file must still be valid.
#[tokio::test]
async fn a_damaged_file_is_refused() {
    let fixture = Fixture::disk();
    let sessions = fixture.start(NOW);
    let mut ids = Vec::new();
    for number in 0..40 {
        ids.push(open(&sessions, &number.to_string(), NOW).await);
    }
    sessions.close().await.unwrap();
    let whole = std::fs::read(fixture.file()).unwrap();
    let mut refused = 0;
    let step = (whole.len() / 150).max(1);
    for position in (0..400).step_by(3).chain((400..whole.len()).step_by(step)) {
        let mut damaged = whole.clone();
        damaged[position] ^= 0x55;
        std::fs::write(fixture.file(), &damaged).unwrap();
        match fixture.try_start(NOW) {
            Ok(sessions) => {
                for id in &ids {
                    assert!(live(&sessions, id, NOW).await, "byte {position}");
                }
                sessions.close().await.unwrap();
            }
            Err(StartError::File(
                FileError::Damaged { .. } | FileError::Foreign(_) | FileError::Io { .. },
            )) => refused += 1,
            Err(other) => panic!("byte {position}: {other:?}"),
        }
    }
    for length in (1..whole.len()).step_by(whole.len() / 20) {
        std::fs::write(fixture.file(), &whole[..length]).unwrap();
        assert!(fixture.try_start(NOW).is_err(), "cut to {length}");
    }
    assert!(refused > 30, "{refused}");
}

/// Replaces every session one time; all replacements run in parallel.
async fn replace_all(sessions: &Arc<Sessions>, ids: &[SessionId], round: u32) {
    let mut replacements = tokio::task::JoinSet::new();
    for id in ids {
        let (sessions, old) = (Arc::clone(sessions), session(sessions, id).await);
        let tokens = tokens(&format!("{round}{}", "a".repeat(2000)));
        replacements.spawn(async move { sessions.replace(&old, tokens, None).await.unwrap() });
    }
    for replaced in replacements.join_all().await {
        assert!(matches!(replaced, Replaced::Stored(_)));
    }
}

#[tokio::test]
async fn replacing_sessions_does_not_make_the_file_grow() {
    let mut fixture = Fixture::disk();
    fixture.settings.per_person = 1000;
    let length = || std::fs::metadata(fixture.file()).unwrap().len();
    let sessions = Arc::new(fixture.start(NOW));
    let ids = open_many(&sessions).await;
    replace_all(&sessions, &ids, 0).await;
    let once = length();
    for round in 1..10 {
        replace_all(&sessions, &ids, round).await;
    }
    let mut ends = tokio::task::JoinSet::new();
    for id in ids {
        let sessions = Arc::clone(&sessions);
        ends.spawn(async move { sessions.end(&id.key(), EndReason::SignedOut).await.unwrap() });
    }
    ends.join_all().await;
    let ids = open_many(&sessions).await;
    replace_all(&sessions, &ids, 10).await;
    assert!(length() <= once * 2, "{once} {}", length());
}

async fn open_many(sessions: &Arc<Sessions>) -> Vec<SessionId> {
    let mut logins = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let sessions = Arc::clone(sessions);
        logins.spawn(async move { open(&sessions, "alice", NOW).await });
    }
    logins.join_all().await
}
