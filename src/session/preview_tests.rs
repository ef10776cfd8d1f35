//! Tests of the preview, which shows how a reload or a start would change the sessions.

use std::os::unix::fs::FileExt as _;

use super::*;
use crate::session::fixture::{Fixture, NOW, live, login, open};
use crate::session::{EndReason, NewSession, SessionId, Sessions};

/// Returns a store that has two sessions of one provider and one session of another provider.
async fn filled(fixture: &mut Fixture) -> (Sessions, Vec<SessionId>) {
    fixture.providers.insert("other".into(), [0; 32]);
    let sessions = fixture.start(NOW);
    let mut ids = vec![
        open(&sessions, "alice", NOW).await,
        open(&sessions, "bob", NOW).await,
    ];
    let other = NewSession {
        provider: "other",
        ..login("carol")
    };
    ids.push(sessions.open(other, NOW).await.unwrap());
    (sessions, ids)
}

fn preview_of(fixture: &Fixture) -> Preview {
    preview(&fixture.file(), &fixture.ring(), &fixture.providers, NOW).unwrap()
}

fn ends(counts: &[(&str, u64)]) -> Preview {
    Preview::Ends(
        counts
            .iter()
            .map(|(name, count)| ((*name).into(), *count))
            .collect(),
    )
}

#[test]
fn a_missing_file_is_not_created_and_ends_no_sessions() {
    let fixture = Fixture::disk();
    assert_eq!(preview_of(&fixture), ends(&[]));
    assert!(!fixture.file().exists());
    std::fs::write(fixture.file(), b"").unwrap();
    assert_eq!(preview_of(&fixture), ends(&[]));
    std::fs::write(fixture.file(), b"SQLite format 3\0").unwrap();
    let refused = preview(&fixture.file(), &fixture.ring(), &fixture.providers, NOW);
    assert!(matches!(refused, Err(FileError::Foreign(_))));
}

#[tokio::test]
async fn a_preview_works_for_an_open_file_a_crashed_file_and_a_closed_file() {
    let mut fixture = Fixture::disk();
    let (sessions, ids) = filled(&mut fixture).await;
    let crashed = fixture.folder.path().join("crashed");
    std::fs::copy(fixture.file(), &crashed).unwrap();
    let registered = fixture.providers.clone();
    let cases = [
        ("op", None, ends(&[("op", 2)])),
        ("other", Some([1; 32]), ends(&[("other", 1)])),
        ("third", Some([1; 32]), ends(&[])),
    ];
    for is_open in [true, false] {
        for (name, registration, expected) in &cases {
            fixture.providers.clone_from(&registered);
            match registration {
                Some(registration) => fixture.providers.insert((*name).into(), *registration),
                None => fixture.providers.remove(*name),
            };
            let before = std::fs::read(fixture.file()).unwrap();
            assert_eq!(preview_of(&fixture), *expected);
            let preview = preview(&crashed, &fixture.ring(), &fixture.providers, NOW);
            assert_eq!(preview.unwrap(), *expected);
            assert!(before == std::fs::read(fixture.file()).unwrap());
        }
        fixture.providers.clone_from(&registered);
        if is_open {
            // The process that has the file open can still use the file after the preview.
            sessions
                .end(&ids[1].key(), EndReason::SignedOut)
                .await
                .unwrap();
            let sessions = &sessions;
            open(sessions, "dave", NOW).await;
            sessions.close().await.unwrap();
        }
    }
    let sessions = fixture.start(NOW);
    assert!(live(&sessions, &ids[0], NOW).await && live(&sessions, &ids[2], NOW).await);
    assert_eq!(sessions.count(), 3);
}

#[tokio::test]
async fn a_preview_refuses_to_drop_a_key_that_still_seals_sessions() {
    let mut fixture = Fixture::disk();
    let (sessions, _) = filled(&mut fixture).await;
    fixture.keys = vec![2, 1];
    assert_eq!(preview_of(&fixture), ends(&[]));
    fixture.keys = vec![2];
    let refused = preview(&fixture.file(), &fixture.ring(), &fixture.providers, NOW);
    assert!(matches!(
        refused,
        Err(FileError::UnknownKey { sessions: 3, .. })
    ));
    sessions.close().await.unwrap();
    // At the time `later`, all sessions have expired.
    let later = NOW.plus(fixture.settings.absolute);
    let preview = preview(&fixture.file(), &fixture.ring(), &fixture.providers, later);
    assert_eq!(preview.unwrap(), ends(&[]));
}

#[tokio::test]
async fn there_is_no_preview_of_a_file_that_changes_during_the_read() {
    let mut fixture = Fixture::disk();
    let (sessions, _) = filled(&mut fixture).await;
    let snapshot = Snapshot::new(File::open(fixture.file()).unwrap()).unwrap();
    let has_changed = Arc::clone(&snapshot.has_changed);
    let mut page = [0; 64];
    StorageBackend::read(&snapshot, 4096, &mut page).unwrap();
    open(&sessions, "dave", NOW).await;
    assert!(StorageBackend::read(&snapshot, 4096, &mut page).is_err());
    let of = (&fixture.providers, NOW);
    assert!(survey_file(&fixture.file(), snapshot, &fixture.ring(), of).is_err());
    assert!(has_changed.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_damaged_file_is_refused_without_a_panic() {
    let mut fixture = Fixture::disk();
    let (sessions, _) = filled(&mut fixture).await;
    sessions.close().await.unwrap();
    fixture.providers.remove("op");
    let length = std::fs::metadata(fixture.file()).unwrap().len();
    let file = File::options()
        .read(true)
        .write(true)
        .open(fixture.file())
        .unwrap();
    let mut refused = 0;
    let step = usize::try_from(length / 150).unwrap().max(1);
    for position in (0..400).step_by(7).chain((400..length).step_by(step)) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, position).unwrap();
        file.write_all_at(&[byte[0] ^ 0x55], position).unwrap();
        match preview(&fixture.file(), &fixture.ring(), &fixture.providers, NOW) {
            Ok(preview) => assert_eq!(preview, ends(&[("op", 2)]), "byte {position}"),
            Err(_) => refused += 1,
        }
        file.write_all_at(&byte, position).unwrap();
    }
    assert!(refused > 20, "{refused}");
    assert_eq!(preview_of(&fixture), ends(&[("op", 2)]));
}

#[test]
fn writes_to_a_snapshot_are_seen_only_there() {
    let fixture = Fixture::disk();
    std::fs::write(fixture.file(), b"0123456789").unwrap();
    let snapshot = Snapshot::new(File::open(fixture.file()).unwrap()).unwrap();
    let read = |offset: u64, length: usize| {
        let mut out = vec![b'-'; length];
        StorageBackend::read(&snapshot, offset, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    snapshot.write(2, b"abcd").unwrap();
    snapshot.write(5, b"XY").unwrap();
    assert_eq!(read(0, 10), "01abcXY789");
    assert_eq!(read(4, 2), "cX");
    snapshot.set_len(6).unwrap();
    assert!(StorageBackend::read(&snapshot, 0, &mut [0; 7]).is_err());
    snapshot.set_len(12).unwrap();
    assert_eq!(read(0, 12), "01abcX\0\0\0\0\0\0");
    assert_eq!(std::fs::read(fixture.file()).unwrap(), b"0123456789");
}
