//! Non-blocking log writer: a thread with a bounded queue, so that requests never wait for a full disk or
//! a blocked reader.
//!
//! Lines that do not fit into the queue or cannot be written are dropped and counted. Queued lines are
//! written in batches.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

/// Capacity of the queue in lines.
const QUEUE_CAPACITY: usize = 8_192;

/// Maximum size of a batch in bytes.
const MAX_BATCH_BYTES: usize = 64 * 1024;

/// Creates a non-blocking writer to `sink` with a counter of dropped lines.
///
/// Dropping the guard writes the queued lines and waits up to one second for it.
pub(super) fn non_blocking(sink: impl Write + Send + 'static) -> (NonBlocking, DroppedLines, WorkerGuard) {
    let unwritten = Arc::new(AtomicU64::new(0));
    let sink = BatchWriter { sink, buffer: Vec::new(), lines: 0, unwritten: Arc::clone(&unwritten) };
    let builder =
        NonBlockingBuilder::default().buffered_lines_limit(QUEUE_CAPACITY).thread_name("sekisho-log");
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
    /// Returns the number of dropped lines.
    #[must_use]
    pub fn count(&self) -> u64 {
        let refused = u64::try_from(self.refused.dropped_lines()).unwrap_or(u64::MAX);
        refused.saturating_add(self.unwritten.load(Ordering::Relaxed))
    }
}

/// Buffers the lines of a batch and writes them on flush.
struct BatchWriter<W> {
    sink: W,
    buffer: Vec<u8>,
    lines: u64,
    unwritten: Arc<AtomicU64>,
}

impl<W: Write> Write for BatchWriter<W> {
    /// Appends one line to the batch.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + line.len() > MAX_BATCH_BYTES {
            self.flush()?;
        }
        self.buffer.extend_from_slice(line);
        self.lines += 1;
        Ok(line.len())
    }

    /// Writes the batch. Counts the lines instead of returning an error, which the worker would ignore.
    fn flush(&mut self) -> io::Result<()> {
        let written = self.sink.write_all(&self.buffer).and_then(|()| self.sink.flush());
        if written.is_err() {
            self.unwritten.fetch_add(self.lines, Ordering::Relaxed);
        }
        self.buffer.clear();
        self.lines = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;

    use super::*;

    #[test]
    fn blocked_sink_does_not_block_the_writer() {
        let (pipe, sink) = io::pipe().unwrap();
        let (mut writer, lost, guard) = non_blocking(sink);
        // More lines than the queue, one batch and the pipe can hold.
        let sent = (QUEUE_CAPACITY + MAX_BATCH_BYTES) as u64;
        for nth in 0..sent {
            writer.write_all(format!("{nth}\n").as_bytes()).unwrap();
        }
        assert!(lost.count() > 0);
        // The reader now receives everything. The last batch is written when the guard is dropped.
        let reader = std::thread::spawn(move || io::BufReader::new(pipe).lines().count());
        drop((writer, guard));
        assert_eq!(reader.join().unwrap() as u64 + lost.count(), sent);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let full: &mut [u8] = &mut [];
        let (mut writer, lost, guard) = non_blocking(full);
        for _ in 0..100 {
            writer.write_all(b"a line\n").unwrap();
        }
        drop(guard);
        assert_eq!(lost.count(), 100);
    }
}
