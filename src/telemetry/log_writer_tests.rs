#![expect(
    clippy::disallowed_types,
    reason = "no request uses the lock of a test"
)]

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::AtomicU8;

use super::*;
use crate::clock::Clock;

/// The output accepts everything.
const OPEN: u8 = 0;
/// A write never ends, as to a pipe that nobody reads.
const STALLED: u8 = 1;
/// The output accepts the first three bytes of a write, and then nothing, as a full disk.
const NEARLY_FULL: u8 = 2;
const FULL: u8 = 3;

/// An output whose behavior the test controls.
#[derive(Clone, Default)]
struct Output {
    mode: Arc<AtomicU8>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Output {
    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }

    fn text(&self) -> String {
        String::from_utf8(self.written.lock().unwrap().clone()).unwrap()
    }

    /// Waits until the output contains `text`. Returns everything that was written.
    fn wait_for(&self, text: &str) -> String {
        until(|| self.text().contains(text));
        self.text()
    }
}

/// Waits until `condition` is true.
///
/// # Panics
///
/// If this takes too long.
fn until(condition: impl Fn() -> bool) {
    let (clock, patience) = (Clock::system(), Duration::from_secs(20));
    let started = clock.stopwatch();
    while !condition() {
        assert!(clock.elapsed(&started) < patience, "it took too long");
        thread::yield_now();
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let accepted = match self.mode.load(Ordering::SeqCst) {
                OPEN => bytes.len(),
                STALLED => {
                    thread::yield_now();
                    continue;
                }
                NEARLY_FULL => {
                    self.set(FULL);
                    3
                }
                _ => return Err(io::ErrorKind::StorageFull.into()),
            };
            let mut written = self.written.lock().unwrap();
            written.extend_from_slice(&bytes[..accepted]);
            return Ok(accepted);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts a log whose report of lost lines is a line of the log.
fn start(output: &Output) -> Arc<LogQueue> {
    let (sender, receiver) = mpsc::channel::<Arc<LogQueue>>();
    let mut own = None;
    let queue = LogQueue::start(output.clone(), LogCounts::default(), move |lost| {
        let queue = own.get_or_insert_with(|| receiver.recv().unwrap());
        log(queue, &format!("lost {lost}"));
    });
    let queue = Arc::new(queue.unwrap());
    sender.send(Arc::clone(&queue)).unwrap();
    queue
}

fn log(queue: &LogQueue, line: &str) {
    let mut writer = queue;
    writer.write_all(format!("{line}\n").as_bytes()).unwrap();
}

#[test]
fn the_end_of_the_process_loses_no_line_of_an_output_that_is_read() {
    let output = Output::default();
    let queue = start(&output);
    let mut expected: Vec<_> = (0..1000).map(|number| format!("line {number}")).collect();
    expected.push("x".repeat(3 * BATCH));
    for line in &expected {
        log(&queue, line);
    }
    queue.finish();
    assert_eq!(output.text().lines().collect::<Vec<_>>(), expected);
    assert_eq!(
        (queue.counts.lost.get(), queue.counts.unwritten.get()),
        (0, 0)
    );
}

#[test]
fn f_21_a_stalled_output_stops_nobody_and_the_lost_lines_are_counted_once() {
    let output = Output::default();
    output.set(STALLED);
    let queue = start(&output);
    let line = "x".repeat(1000);
    let (kept, lost) = (CAPACITY / (1001 + LINE_OVERHEAD), 500);
    for _ in 0..kept + lost {
        log(&queue, &line);
    }
    let lost = u64::try_from(lost).unwrap();
    assert_eq!(queue.counts.lost.get(), lost);
    output.set(OPEN);
    let text = output.wait_for("lost");
    assert_eq!(text.lines().filter(|found| *found == line).count(), kept);
    queue.finish();
    log(&queue, "later");
    let text = output.wait_for("later");
    assert!(text.ends_with(&format!("{line}\nlost {lost}\nlater\n")));
    assert_eq!(text.matches("lost").count(), 1);
    queue.finish();
    assert_eq!(queue.counts.unwritten.get(), 0);
}

#[test]
fn f_21_the_report_of_lost_lines_is_written_although_the_queue_is_full_again() {
    let output = Output::default();
    let (begun, has_begun) = mpsc::channel();
    let (proceed, may_proceed) = mpsc::channel::<Arc<LogQueue>>();
    let queue = LogQueue::start(output.clone(), LogCounts::default(), move |lost| {
        begun.send(()).unwrap_or_default();
        // After the first report, the test has ended.
        if let Ok(queue) = may_proceed.recv() {
            log(&queue, &format!("lost {lost}"));
        }
    });
    let queue = Arc::new(queue.unwrap());
    output.set(STALLED);
    for _ in 0..=CAPACITY / 1000 {
        log(&queue, &"x".repeat(1000));
    }
    assert!(queue.counts.lost.get() > 0);
    output.set(OPEN);
    has_begun.recv_timeout(Duration::from_secs(20)).unwrap();
    // The queue becomes full between the last write and the report.
    let lost = queue.counts.lost.get();
    for _ in 0..=CAPACITY / 1000 {
        log(&queue, &"y".repeat(1000));
    }
    // Not even a short line fits into the queue.
    for _ in 0..1000 {
        log(&queue, "");
    }
    assert!(queue.counts.lost.get() > lost);
    proceed.send(Arc::clone(&queue)).unwrap();
    output.wait_for(&format!("lost {lost}\n"));
    drop(proceed);
}

#[test]
fn f_21_a_full_disk_loses_no_line_and_tears_no_line() {
    let output = Output::default();
    output.set(NEARLY_FULL);
    let queue = start(&output);
    log(&queue, "first");
    until(|| !output.text().is_empty());
    log(&queue, "second");
    assert_eq!(output.text(), "fir");
    output.set(OPEN);
    // The test does not wait for the next attempt.
    queue.writer.unpark();
    assert_eq!(output.wait_for("second\n"), "first\nsecond\n");
    assert_eq!(queue.counts.lost.get(), 0);
}

#[test]
fn f_21_the_end_of_the_process_does_not_wait_for_a_full_disk() {
    let output = Output::default();
    output.set(FULL);
    let queue = start(&output);
    let clock = Clock::system();
    for round in 0..2 {
        log(&queue, "line");
        let started = clock.stopwatch();
        queue.finish();
        let took = clock.elapsed(&started);
        assert!(took < LAST_LINES, "{round}: {took:?}");
    }
    // The thread of the log has ended, so the second line is lost.
    assert_eq!(queue.counts.lost.get(), 1);
}

#[test]
fn f_21_the_end_of_the_process_waits_for_a_stalled_output_only_a_limited_time() {
    let output = Output::default();
    output.set(STALLED);
    let queue = start(&output);
    log(&queue, "line");
    let clock = Clock::system();
    let started = clock.stopwatch();
    queue.finish();
    let took = clock.elapsed(&started);
    assert!(took >= LAST_LINES && took < LAST_LINES * 10, "{took:?}");
    output.set(OPEN);
    output.wait_for("line\n");
}
