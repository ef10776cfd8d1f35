//! Tests with a file that cannot be written or opened for some time.

use redb::backends::InMemoryBackend;

use super::*;
use crate::session::fixture::{Fixture, NOW, open};

/// Returns two values: a fixture whose file contains one session, and the key of this session.
async fn fixture() -> (Fixture, SessionKey) {
    let fixture = Fixture::disk();
    let sessions = fixture.start(NOW);
    let id = open(&sessions, "alice", NOW).await;
    sessions.close().await.unwrap();
    (fixture, id.key())
}

/// A storage backend whose writes fail after the flag is set.
#[derive(Debug, Default)]
struct FullBackend(InMemoryBackend, Arc<std::sync::atomic::AtomicBool>);

impl redb::StorageBackend for FullBackend {
    fn len(&self) -> Result<u64, io::Error> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        if self.1.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.write(offset, data)
    }
}

/// Makes the next commit fail. This function does not change the session file.
pub(in crate::session) fn fill(disk: &mut Disk) {
    let full = FullBackend::default();
    let is_full = Arc::clone(&full.1);
    let database = Database::builder().create_with_backend(full).unwrap();
    is_full.store(true, std::sync::atomic::Ordering::Relaxed);
    disk.database = Some(database);
}

impl Disk {
    /// Ends the pauses after failed writes and failed removals.
    pub(in crate::session) fn end_pauses(&mut self) {
        self.writing.end();
        self.removing.end();
    }
}

#[tokio::test]
async fn during_the_pause_after_a_failed_commit_reads_and_removals_go_on() {
    let (fixture, key) = fixture().await;
    let mut disk = fixture.open_disk();
    let used = [Change::Used(key, NOW)];
    fill(&mut disk);
    assert!(matches!(
        disk.commit(&used),
        Err(StoreError::NotCommitted(_))
    ));
    disk.writing.prolong();
    let commit = disk.commit;
    // A write would succeed now, but the store does not write before the pause has ended.
    let cause = crate::telemetry::chain(&disk.commit(&used).unwrap_err());
    assert!(cause.contains("no storage space"), "{cause}");
    assert!(disk.load(&key).unwrap().is_some());
    disk.writing.end();
    disk.commit(&used).unwrap();
    assert_eq!(disk.commit, commit + 1);
    // A sign-out is written immediately, although the pause after the failed commit has not ended.
    fill(&mut disk);
    assert!(disk.commit(&used).is_err());
    disk.writing.prolong();
    disk.commit(&[Change::Remove(key)]).unwrap();
    assert!(disk.load(&key).unwrap().is_none());
    assert!(disk.commit(&used).is_err());
    // After a failed commit of a removal, a separate pause for removals begins.
    fill(&mut disk);
    for _ in 0..2 {
        assert!(disk.commit(&[Change::Remove(key)]).is_err());
        disk.removing.prolong();
    }
    disk.removing.end();
    disk.commit(&[Change::Remove(key)]).unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_not_opened_again_during_the_pause() {
    let (fixture, key) = fixture().await;
    let mut disk = fixture.open_disk();
    disk.database = None;
    let away = fixture.file().with_extension("away");
    std::fs::rename(fixture.file(), &away).unwrap();
    assert!(matches!(disk.load(&key), Err(StoreError::Unreadable(_))));
    disk.opening.prolong();
    std::fs::rename(&away, fixture.file()).unwrap();
    assert!(matches!(disk.load(&key), Err(StoreError::Unreadable(_))));
    assert!(disk.commit(&[Change::Remove(key)]).is_err());
    disk.opening.end();
    assert!(disk.load(&key).unwrap().is_some());
}

#[tokio::test]
async fn another_file_at_the_path_is_not_used() {
    let ((fixture, key), (other, _other_key)) = (fixture().await, fixture().await);
    let mut disk = fixture.open_disk();
    disk.database = None;
    let away = fixture.file().with_extension("away");
    std::fs::rename(fixture.file(), &away).unwrap();
    std::fs::copy(other.file(), fixture.file()).unwrap();
    assert!(matches!(disk.load(&key), Err(StoreError::Unreadable(_))));
    disk.opening.end();
    assert!(disk.commit(&[Change::Remove(key)]).is_err());
    std::fs::rename(&away, fixture.file()).unwrap();
    disk.opening.end();
    assert!(disk.load(&key).unwrap().is_some());
}
