//! The text of log lines: the time, and the fields of an event.
//!
//! The log lines have the same format as the lines of the logging library. This module writes the
//! usual values directly, because each request has an access-log event with about twenty fields.

use std::fmt::{self, Write as _};

use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::{MakeVisitor, VisitFmt, VisitOutput};
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::fmt::time::FormatTime;

use crate::clock::Clock;

/// Writes the time of an event in UTC, with microseconds: `2026-02-03T04:05:06.000007Z`.
#[derive(Debug)]
pub(super) struct UtcTime(pub(super) Clock);

impl FormatTime for UtcTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let since_epoch = self.0.since_epoch();
        let seconds = i64::try_from(since_epoch.as_secs()).map_err(|_too_late| fmt::Error)?;
        let time = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_too_late| fmt::Error)?;
        let (year, month, day) = time.to_calendar_date();
        let (hour, minute, second) = time.to_hms();
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        for (end, number) in [
            (4, year.unsigned_abs()),
            (7, u8::from(month).into()),
            (10, day.into()),
            (13, hour.into()),
            (16, minute.into()),
            (19, second.into()),
            (26, since_epoch.subsec_micros()),
        ] {
            write_digits(text.get_mut(..end).unwrap_or_default(), number);
        }
        writer.write_str(str::from_utf8(&text).map_err(|_never_ascii| fmt::Error)?)
    }
}

/// Writes the decimal digits of `number` over the zeros at the end of `text`.
fn write_digits(text: &mut [u8], mut number: u32) {
    for place in text.iter_mut().rev() {
        if number == 0 {
            return;
        }
        let digit = u8::try_from(number % 10).unwrap_or_default();
        *place = b'0'.saturating_add(digit);
        number /= 10;
    }
}

/// Writes the fields of an event as text.
#[derive(Debug)]
pub(super) struct TextFields;

impl<'a> MakeVisitor<Writer<'a>> for TextFields {
    type Visitor = TextVisitor<'a>;

    fn make_visitor(&self, writer: Writer<'a>) -> TextVisitor<'a> {
        TextVisitor {
            // For many events, the text buffer never has to grow.
            text: String::with_capacity(512),
            has_begun: false,
            library: DefaultVisitor::new(writer, true),
        }
    }
}

/// Writes the fields of one event. The logging library writes the first field, the field `message`,
/// and fields that contain an error.
#[derive(Debug)]
pub(super) struct TextVisitor<'a> {
    /// The text that must still be written to the writer of `library`.
    text: String,
    /// Whether at least one field was written. The library writes a space before each field except
    /// the first.
    has_begun: bool,
    library: DefaultVisitor<'a>,
}

impl<'a> TextVisitor<'a> {
    /// Appends the separator, the name of the field and `=` to `text`. Returns `None` if the
    /// logging library must write the field.
    fn begin(&mut self, field: &Field) -> Option<&mut String> {
        let name = field.name();
        if !self.has_begun || name == "message" || name.starts_with("r#") {
            return None;
        }
        self.text.push(' ');
        self.text.push_str(name);
        self.text.push('=');
        Some(&mut self.text)
    }

    /// Writes the content of `text` to the library's writer, and then returns the visitor of the
    /// logging library.
    fn library(&mut self) -> &mut DefaultVisitor<'a> {
        self.has_begun = true;
        // The library writes each event into a `String`, so `write_str` never fails.
        self.library
            .writer()
            .write_str(&self.text)
            .unwrap_or_default();
        self.text.clear();
        &mut self.library
    }
}

/// Whether `{:?}` writes each byte of a text unchanged.
fn is_plain(text: &str) -> bool {
    let is_special = |byte: u8| !matches!(byte, b' '..=b'~') || byte == b'"' || byte == b'\\';
    // For short texts, a loop over all bytes is faster than a loop that stops at the first special
    // byte.
    !text
        .bytes()
        .fold(false, |special, byte| special | is_special(byte))
}

impl Visit for TextVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if !is_plain(value) {
            return self.record_debug(field, &value);
        }
        match self.begin(field) {
            Some(text) => {
                text.push('"');
                text.push_str(value);
                text.push('"');
            }
            None => self.library().record_str(field, value),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match self.begin(field) {
            Some(text) => text.push_str(itoa::Buffer::new().format(value)),
            None => self.library().record_u64(field, value),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.library().record_error(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match self.begin(field) {
            // Writing to a `String` never fails.
            Some(text) => write!(text, "{value:?}").unwrap_or_default(),
            None => self.library().record_debug(field, value),
        }
    }
}

impl VisitOutput<fmt::Result> for TextVisitor<'_> {
    fn finish(mut self) -> fmt::Result {
        self.library.writer().write_str(&self.text)?;
        self.library.finish()
    }
}

impl VisitFmt for TextVisitor<'_> {
    fn writer(&mut self) -> &mut dyn fmt::Write {
        self.library().writer()
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_types,
    reason = "no request uses the lock of a test"
)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tracing::subscriber::with_default;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::fmt::format::DefaultFields;

    use super::*;
    use crate::clock::Timestamp;

    /// Keeps the written lines.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// Writes events with all kinds of values.
    fn log_events() {
        let none: Option<&str> = None;
        for text in [
            "",
            "plain",
            "a \"b\"",
            "\\",
            "\u{e9}\u{1b}[31m\n",
            "~ \u{7f}",
        ] {
            tracing::info!(first = text, none, some = Some(text), "Message {text}");
            tracing::warn!(a.b = %text, c = ?text, r#type = text, "{text}");
        }
        for number in [0, 7, u64::MAX] {
            tracing::info!(
                number,
                negative = -1_i64,
                small = 3_u16,
                flag = true,
                float = 1.5
            );
        }
        let error = crate::telemetry::StartError::AlreadyStarted(Box::new(fmt::Error));
        let error: &(dyn std::error::Error + 'static) = &error;
        tracing::error!(before = 1, error, after = "text", "Failed");
        tracing::error!("Only a message");
    }

    #[test]
    fn the_lines_are_those_of_the_library() {
        let (ours, theirs) = (Lines::default(), Lines::default());
        let builder = || tracing_subscriber::fmt().without_time().with_ansi(false);
        let subscriber = builder().with_writer(ours.clone()).fmt_fields(TextFields);
        with_default(subscriber.finish(), log_events);
        let subscriber = builder().with_writer(theirs.clone());
        with_default(
            subscriber.fmt_fields(DefaultFields::new()).finish(),
            log_events,
        );
        let text = |lines: &Lines| String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(text(&ours).lines().count() > 16);
        assert_eq!(text(&ours), text(&theirs));
    }

    #[test]
    fn the_time_is_in_utc_with_microseconds() {
        // date -u -d @1770091506
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_770_091_506_007, "2026-02-03T04:05:06.007000Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999000Z"),
            (253_402_300_799_000, "9999-12-31T23:59:59.000000Z"),
        ] {
            let clock = Clock::manual(Timestamp::default().plus(Duration::from_millis(millis)));
            let mut text = String::new();
            UtcTime(clock)
                .format_time(&mut Writer::new(&mut text))
                .unwrap();
            assert_eq!(text, expected);
        }
    }
}
