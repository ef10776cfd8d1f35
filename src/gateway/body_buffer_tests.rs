use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::clock::Clock;
use crate::gateway::buffers::Budgets;
use crate::gateway::spill::{SpillReports, SpillRoom, SpillSettings};
use crate::telemetry::Metrics;

const KIB: usize = 1024;
/// The maximum number of open files of all clients. One client may open half of them.
const FILES: usize = 4;

/// The budgets and the folder that the buffers of a test use.
struct Fixture {
    metrics: Arc<Metrics>,
    budgets: Budgets,
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let metrics = Arc::new(Metrics::default());
        Self {
            budgets: Budgets::new(&metrics),
            metrics,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// A buffer with 4 KiB of memory, and with at most `file` bytes in a file.
    fn buffer(&self, file: usize) -> BodyBuffer {
        self.buffer_in(self.folder.path(), file, 1024 * KIB)
    }

    fn buffer_in(&self, folder: &Path, file: usize, all_files: usize) -> BodyBuffer {
        let client = Owner::new(None, [192, 0, 2, 1].into());
        let settings = SpillSettings {
            folder: folder.into(),
            bytes: all_files,
            files: FILES,
        };
        let room = SpillRoom {
            bytes: self.budgets.files(client, all_files),
            file: self.budgets.open_files(client, FILES),
        };
        let reports = SpillReports {
            metrics: Arc::clone(&self.metrics),
            warnings: Arc::clone(self.budgets.spill_warnings()),
            clock: Clock::system(),
        };
        let spill = Spill::new(&settings, file, room, reports);
        let memory = self.budgets.memory(client, 1024 * KIB);
        BodyBuffer::new(4 * KIB, memory, (file > 0).then_some(spill))
    }

    /// Returns the number of buffered bytes in memory and the number of buffered bytes in files.
    fn used(&self) -> (i64, i64) {
        (self.metrics.buffered().get(), self.metrics.spilled().get())
    }

    /// Returns true if the metric shows one refused body with the reason `reason`.
    fn refused(&self, reason: &str) -> bool {
        let line = format!("sidegate_refused_spills_total{{reason=\"{reason}\"}} 1");
        self.metrics.encode().contains(&line)
    }
}

/// Returns a piece of 1,000 bytes. Two different values of `number` give different bytes.
fn piece(number: usize) -> Bytes {
    let bytes = number.to_be_bytes();
    bytes.iter().copied().cycle().take(1000).collect()
}

async fn growth(buffer: &mut BodyBuffer) -> Growth {
    poll_fn(|cx| buffer.poll_growth(cx)).await
}

/// Stores pieces until the buffer is full, but at most `most` pieces. Returns their number.
async fn fill(buffer: &mut BodyBuffer, most: usize) -> usize {
    for count in 0..most {
        if growth(buffer).await != Growth::Allowed {
            return count;
        }
        buffer.push(piece(count));
    }
    most
}

async fn next(buffer: &mut BodyBuffer) -> Option<io::Result<Bytes>> {
    poll_fn(|cx| buffer.poll_next(cx)).await
}

async fn read(buffer: &mut BodyBuffer) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some(data) = next(buffer).await {
        content.extend(data.unwrap());
    }
    content
}

fn content(pieces: usize) -> Vec<u8> {
    (0..pieces).flat_map(piece).collect()
}

#[tokio::test]
async fn without_a_file_the_memory_limits_the_buffer() {
    let fixture = Fixture::new();
    let mut buffer = fixture.buffer(0);
    // A piece needs 64 bytes more than its content.
    assert_eq!(fill(&mut buffer, 100).await, 4);
    assert_eq!(growth(&mut buffer).await, Growth::AtLimit);
    assert_eq!(fixture.used(), (4 * 1064, 0));
    assert_eq!(read(&mut buffer).await, content(4));
    assert_eq!(fixture.used(), (0, 0));
}

#[tokio::test]
async fn a_body_larger_than_the_memory_is_in_a_file_in_order() {
    let fixture = Fixture::new();
    let mut buffer = fixture.buffer(1024 * KIB);
    assert_eq!(fill(&mut buffer, 303).await, 303);
    assert_eq!(buffer.bytes(), 303_000);
    assert_eq!(fixture.used(), (3 * 1064, 300_000));
    // The file has no name, so the folder is empty.
    assert_eq!(fixture.folder.path().read_dir().unwrap().count(), 0);
    assert_eq!(read(&mut buffer).await, content(303));
    assert_eq!((buffer.bytes(), fixture.used()), (0, (0, 0)));
    assert!(!fixture.metrics.encode().contains("refused_spills_total"));
}

#[tokio::test]
async fn a_buffer_that_was_read_is_used_again() {
    let fixture = Fixture::new();
    let mut buffer = fixture.buffer(8 * KIB);
    // The file has space for eight pieces (two writes of four pieces), and the memory has space for
    // four pieces.
    for _ in 0..3 {
        assert_eq!(fill(&mut buffer, 100).await, 12);
        assert_eq!(growth(&mut buffer).await, Growth::AtLimit);
        assert_eq!(read(&mut buffer).await, content(12));
    }
}

#[tokio::test]
async fn a_full_budget_of_files_is_counted_and_loses_nothing() {
    let fixture = Fixture::new();
    // One client can use half of the budget for files, which is 16 KiB.
    let mut buffer = fixture.buffer_in(fixture.folder.path(), 1024 * KIB, 16 * KIB);
    assert_eq!(fill(&mut buffer, 100).await, 12);
    assert!(fixture.refused("full"), "{}", fixture.metrics.encode());
    assert_eq!(read(&mut buffer).await, content(12));
}

#[tokio::test]
async fn after_an_error_of_the_disk_the_pieces_stay_in_memory() {
    let fixture = Fixture::new();
    let missing = fixture.folder.path().join("missing");
    let mut buffer = fixture.buffer_in(&missing, 1024 * KIB, 1024 * KIB);
    assert_eq!(fill(&mut buffer, 100).await, 4);
    assert_eq!(growth(&mut buffer).await, Growth::AtLimit);
    assert!(
        fixture.refused("disk_error"),
        "{}",
        fixture.metrics.encode()
    );
    assert_eq!(fixture.used(), (4 * 1064, 0));
    assert_eq!(read(&mut buffer).await, content(4));
}

#[tokio::test]
async fn bytes_that_the_file_has_lost_are_an_error() {
    let fixture = Fixture::new();
    let mut buffer = fixture.buffer(1024 * KIB);
    fill(&mut buffer, 100).await;
    buffer.spill.as_ref().unwrap().lose();
    let lost = next(&mut buffer).await.unwrap().unwrap_err();
    assert_eq!(lost.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn single_bytes_need_little_more_memory_than_their_number() {
    let fixture = Fixture::new();
    let mut buffer = fixture.buffer(0);
    let sent = Bytes::from(content(3));
    for at in 0..3000 {
        assert_eq!(growth(&mut buffer).await, Growth::Allowed);
        // As in a buffer of received data, all pieces share one allocation.
        buffer.push(sent.slice(at..=at));
    }
    assert_eq!(fixture.used(), (3064, 0));
    assert_eq!(read(&mut buffer).await, sent);
    assert_eq!(fixture.used(), (0, 0));
}

#[tokio::test]
async fn a_dropped_buffer_frees_both_budgets() {
    let fixture = Fixture::new();
    let mut buffer = fixture.buffer(1024 * KIB);
    fill(&mut buffer, 50).await;
    drop(buffer);
    assert_eq!(fixture.used(), (0, 0));
}

#[tokio::test]
async fn f_22_one_client_opens_half_of_the_files_and_no_more() {
    let fixture = Fixture::new();
    let open = || fixture.metrics.spill_files().get();
    let mut buffers = Vec::new();
    for expected in [1, 2] {
        let mut buffer = fixture.buffer(1024 * KIB);
        assert_eq!(fill(&mut buffer, 50).await, 50);
        assert_eq!(open(), expected);
        buffers.push(buffer);
    }
    let mut refused = fixture.buffer(1024 * KIB);
    assert_eq!(fill(&mut refused, 50).await, 4);
    assert_eq!(open(), 2);
    assert!(fixture.refused("descriptors"));
    // A file that is read to its end is closed in another thread.
    assert_eq!(read(&mut buffers[0]).await, content(50));
    while open() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fill(&mut refused, 50).await, 50);
    assert_eq!(open(), 2);
    drop((buffers, refused));
    while open() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_first_bytes_of_a_body_are_known_over_the_limits_of_its_pieces() {
    let fixture = Fixture::new();
    let mut buffer = fixture.buffer(0);
    let prefix = b"begin=";
    assert_eq!(buffer.begins_with(prefix), None);
    assert_eq!(buffer.begins_with(b""), Some(true));
    for piece in ["be", "gin", "=x"] {
        assert_eq!(buffer.begins_with(prefix), None);
        assert_eq!(buffer.begins_with(b"bex"), (piece == "=x").then_some(false));
        // Pieces that are not joined to the previous piece.
        buffer
            .pieces
            .push_back(Bytes::from_static(piece.as_bytes()));
    }
    assert_eq!(buffer.begins_with(prefix), Some(true));
    assert_eq!(buffer.begins_with(b"begin=x"), Some(true));
    assert_eq!(buffer.begins_with(b"begin=xy"), None);
    assert_eq!(buffer.begins_with(b"begin=y"), Some(false));
    assert_eq!(buffer.begins_with(b"x"), Some(false));
    let pieces: Vec<Bytes> = buffer.pieces.into_iter().collect();
    assert_eq!(pieces.concat(), b"begin=x");
}
