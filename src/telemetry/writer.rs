//! Where lines go: a thread of their own, so that no request waits for a full disk or a reader that
//! has stopped reading.
//!
//! A bounded queue stands before it. What finds it full is lost, and so is what can't be written; both
//! are counted. Lines that wait together are written together.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// How many lines may wait to be written.
const MOST_WAITING: usize = 8_192;

/// How much is written at once, in bytes, when much waits.
const AT_ONCE: usize = 64 * 1024;

/// A writer that never blocks, and what has been lost on the way. The lines that wait are written
/// when the guard is dropped, if that takes no longer than a second.
pub(super) fn non_blocking(sink: impl Write + Send + 'static) -> (NonBlocking, DroppedLines, WorkerGuard) {
    let unwritten = Arc::new(AtomicU64::new(0));
    let sink = BatchWriter { sink, waiting: Vec::new(), lines: 0, unwritten: Arc::clone(&unwritten) };
    let builder = NonBlockingBuilder::default().buffered_lines_limit(MOST_WAITING).thread_name("sekisho-log");
    let (writer, guard) = builder.finish(sink);
    let lost = DroppedLines { refused: writer.error_counter(), unwritten };
    (writer, lost, guard)
}

/// Counts the lines that were not written.
#[derive(Clone, Debug)]
pub struct DroppedLines {
    refused: ErrorCounter,
    unwritten: Arc<AtomicU64>,
}

impl DroppedLines {
    /// How many so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        let refused = u64::try_from(self.refused.dropped_lines()).unwrap_or(u64::MAX);
        refused.saturating_add(self.unwritten.load(Ordering::Relaxed))
    }
}

/// Collects the lines of a batch, and writes them at its end.
struct BatchWriter<W> {
    sink: W,
    waiting: Vec<u8>,
    lines: u64,
    unwritten: Arc<AtomicU64>,
}

impl<W: Write> Write for BatchWriter<W> {
    /// Takes one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.waiting.len() + line.len() > AT_ONCE {
            self.flush()?;
        }
        self.waiting.extend_from_slice(line);
        self.lines += 1;
        Ok(line.len())
    }

    /// Never fails: the worker could do no more about it than count.
    fn flush(&mut self) -> io::Result<()> {
        let written = self.sink.write_all(&self.waiting).and_then(|()| self.sink.flush());
        if written.is_err() {
            self.unwritten.fetch_add(self.lines, Ordering::Relaxed);
        }
        self.waiting.clear();
        self.lines = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes what is written only while the test waits for it.
    struct Stalled {
        tell: mpsc::SyncSender<Vec<u8>>,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.tell.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_sink_that_stands_still_stops_nobody() {
        let (tell, taken) = mpsc::sync_channel(0);
        let (mut writer, lost, guard) = non_blocking(Stalled { tell });
        // More than the queue and a batch hold together, whatever the thread takes in between.
        let sent = (MOST_WAITING + AT_ONCE) as u64;
        for nth in 0..sent {
            writer.write_all(format!("{nth}\n").as_bytes()).unwrap();
        }
        assert!(lost.count() > 0);
        // From here on it takes everything; the last batch comes with the guard's end.
        let reader =
            std::thread::spawn(move || taken.into_iter().flatten().filter(|byte| *byte == b'\n').count());
        drop((writer, guard));
        assert_eq!(reader.join().unwrap() as u64 + lost.count(), sent);
    }

    #[test]
    fn lines_that_a_full_disk_refuses_are_counted() {
        let (mut writer, lost, guard) = non_blocking(Full);
        for _ in 0..100 {
            writer.write_all(b"a line\n").unwrap();
        }
        drop(guard);
        assert_eq!(lost.count(), 100);
    }
}
