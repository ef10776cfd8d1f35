//! The queue of log lines, and the thread that writes the lines.
//!
//! A worker must never wait for the log. The log can be a pipe that nobody reads, or a file on a
//! full disk. A thread that logs an event therefore only puts the line into a queue, and the thread
//! of the log writes the lines. The size of the queue is limited. A line that does not fit into the
//! queue is lost and counted. When the queue is empty again, one event states how many lines were
//! lost.
//!
//! If a write fails, the thread of the log keeps the lines and tries again. No error of the log
//! reaches the code that logs an event, so no error of the log can end a thread or the process.

use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, Thread};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// The largest size of the queue, in bytes.
const CAPACITY: usize = 8 * 1024 * 1024;

/// The memory that each line of the queue needs in addition to its bytes.
const LINE_OVERHEAD: usize = 64;

/// The largest write of several lines. A write of this size to a pipe is atomic (`PIPE_BUF`), so a
/// line of another process with the same pipe is never inside one of our lines.
const BATCH: usize = 4096;

/// The pause after the queue was empty. During the pause, a thread that logs an event does not have
/// to wake the thread of the log, and several lines become one write.
const PAUSE: Duration = Duration::from_millis(10);

/// The time between two attempts to write to a full pipe in non-blocking mode. A process that shares
/// the pipe can switch it to this mode.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// The time between two attempts to write after another error, such as a full disk.
const RETRY: Duration = Duration::from_secs(1);

/// The longest time for which the end of the process waits for the log.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The counts of the process's log.
pub(super) static COUNTS: LazyLock<LogCounts> = LazyLock::new(LogCounts::default);

/// The counts of a log.
#[derive(Clone, Debug, Default)]
pub(super) struct LogCounts {
    /// The bytes of the queue, and of the lines that the thread of the log writes at the moment.
    pub(super) unwritten: Gauge,
    /// The lines that did not fit into the queue.
    pub(super) lost: Counter,
}

/// The queue of the lines that were not written yet.
#[derive(Debug)]
pub(super) struct LogQueue {
    messages: mpsc::Sender<Message>,
    counts: LogCounts,
    /// The thread of the log.
    writer: Thread,
    /// True when the process ends. The thread of the log then stops at the first error.
    is_last: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Message {
    Line(Box<[u8]>),
    /// The sender gets an answer when the queue is empty.
    Flush(mpsc::Sender<()>),
}

impl LogQueue {
    /// Starts the thread of the log, which writes to `output`. The thread calls `report` with the
    /// number of lost lines.
    ///
    /// # Errors
    ///
    /// The operating system has refused to create a thread.
    pub(super) fn start(
        output: impl io::Write + Send + 'static,
        counts: LogCounts,
        report: impl FnMut(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (messages, received) = mpsc::channel();
        let is_last = Arc::new(AtomicBool::new(false));
        let writer = LogWriter {
            messages: received,
            output,
            batch: Vec::with_capacity(BATCH),
            taken: 0,
            flushes: Vec::new(),
            counts: counts.clone(),
            reported: counts.lost.get(),
            report,
            is_last: Arc::clone(&is_last),
        };
        let thread = thread::Builder::new().name("log".to_owned());
        let thread = thread.spawn(move || writer.run())?;
        Ok(Self {
            messages,
            counts,
            writer: thread.thread().clone(),
            is_last,
        })
    }

    /// Puts a line into the queue. Never waits.
    fn push(&self, line: &[u8]) {
        let size = size(line.len());
        let before = self.counts.unwritten.inc_by(size);
        let is_full = before.saturating_add(size) > size_of_queue() && !self.is_own_thread();
        // `send` fails if the thread of the log has stopped, because the process ends.
        if is_full || self.messages.send(Message::Line(line.into())).is_err() {
            self.counts.unwritten.dec_by(size);
            self.counts.lost.inc();
        }
    }

    /// Whether this is the thread of the log. The event about lost lines must not be lost.
    #[cold]
    fn is_own_thread(&self) -> bool {
        thread::current().id() == self.writer.id()
    }

    /// Writes the lines of the queue at the end of the process. Waits for a limited time, and only
    /// while the output accepts bytes or is a full pipe.
    pub(super) fn finish(&self) {
        self.is_last.store(true, Ordering::Release);
        self.writer.unpark();
        let (flushed, answer) = mpsc::channel();
        if self.messages.send(Message::Flush(flushed)).is_ok() {
            // The result is an error if the time is over, or if the thread of the log has stopped.
            answer.recv_timeout(LAST_LINES).unwrap_or_default();
        }
    }
}

/// The memory of a line in the queue.
fn size(line: usize) -> i64 {
    i64::try_from(line.saturating_add(LINE_OVERHEAD)).unwrap_or(i64::MAX)
}

fn size_of_queue() -> i64 {
    i64::try_from(CAPACITY).unwrap_or(i64::MAX)
}

/// The logging library writes each line with one call.
impl io::Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The output accepts no more lines, and the process ends.
#[derive(Debug)]
struct Stopped;

/// The thread of the log.
struct LogWriter<W, R> {
    messages: mpsc::Receiver<Message>,
    output: W,
    /// The lines of the next write.
    batch: Vec<u8>,
    /// The memory that the lines of `batch` needed in the queue.
    taken: i64,
    flushes: Vec<mpsc::Sender<()>>,
    counts: LogCounts,
    /// The number of lost lines that an event has stated.
    reported: u64,
    report: R,
    is_last: Arc<AtomicBool>,
}

impl<W: io::Write, R: FnMut(u64)> LogWriter<W, R> {
    fn run(mut self) {
        // `recv` fails when the queue was dropped.
        while let Ok(message) = self.messages.recv() {
            if self.empty_queue(message).is_err() {
                return;
            }
            // [`LogQueue::finish`] ends the pause.
            thread::park_timeout(PAUSE);
        }
    }

    /// Writes the whole queue, and the event about lost lines.
    fn empty_queue(&mut self, message: Message) -> Result<(), Stopped> {
        self.write_queue(message)?;
        // The event comes through the queue, too.
        while self.report_lost()
            && let Ok(event) = self.messages.try_recv()
        {
            self.write_queue(event)?;
        }
        for flush in self.flushes.drain(..) {
            // The sender may have stopped to wait.
            flush.send(()).unwrap_or_default();
        }
        Ok(())
    }

    /// Writes lines until the queue is empty.
    fn write_queue(&mut self, first: Message) -> Result<(), Stopped> {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => {
                    if self.batch.len().saturating_add(line.len()) > BATCH {
                        self.write_batch()?;
                    }
                    self.batch.extend_from_slice(&line);
                    self.taken = self.taken.saturating_add(size(line.len()));
                }
                Message::Flush(flush) => self.flushes.push(flush),
            }
            next = self.messages.try_recv().ok();
        }
        self.write_batch()
    }

    fn write_batch(&mut self) -> Result<(), Stopped> {
        let mut rest = self.batch.as_slice();
        while !rest.is_empty() {
            match self.output.write(rest) {
                Ok(written) if written > 0 => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    thread::park_timeout(FULL_PAUSE);
                }
                Ok(_) | Err(_) if self.is_last.load(Ordering::Acquire) => return Err(Stopped),
                Ok(_) | Err(_) => thread::park_timeout(RETRY),
            }
        }
        self.batch.clear();
        // A very long line must not occupy memory for ever.
        self.batch.shrink_to(BATCH);
        self.counts.unwritten.dec_by(self.taken);
        self.taken = 0;
        Ok(())
    }

    /// Reports the lines that were lost since the last report. Returns true if there were any.
    fn report_lost(&mut self) -> bool {
        let lost = self.counts.lost.get();
        let new = lost.saturating_sub(self.reported);
        self.reported = lost;
        if new > 0 {
            (self.report)(new);
        }
        new > 0
    }
}

/// Standard output, without the buffer and the lock of the standard library.
#[derive(Debug)]
pub(super) struct StandardOutput(pub(super) io::Stdout);

impl io::Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "log_writer_tests.rs"]
mod tests;
