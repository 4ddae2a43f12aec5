//! What the machine's disk takes, and how spans are told.

#![allow(dead_code, reason = "each bench uses a part of this")]
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a benchmark may panic, and rounds")]

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// On the disk that is measured; a system's directory for temporary files may be in memory.
pub(crate) fn target() -> PathBuf {
    std::env::current_dir().unwrap().join("target")
}

/// The median of many in a row, of 4 KiB added to a file.
pub(crate) fn fdatasync() -> Duration {
    let directory = tempfile::tempdir_in(target()).unwrap();
    let mut file = File::create(directory.path().join("probe")).unwrap();
    let mut spans: Vec<_> = (0..200)
        .map(|_| {
            file.write_all(&[7; 4096]).unwrap();
            let started = Instant::now();
            file.sync_data().unwrap();
            started.elapsed()
        })
        .collect();
    spans.sort_unstable();
    spans[100]
}

/// A file like the store's log: written over and over.
pub(crate) struct Overwritten(File);

impl Overwritten {
    const BYTES: usize = 4 * 1024 * 1024;
    /// About what the relay writes for an event.
    pub(crate) const PIECE: usize = 32 * 1024;

    pub(crate) fn new(directory: &Path) -> Self {
        let mut file = File::create(directory.join("probe")).unwrap();
        file.write_all(&vec![0; Self::BYTES]).unwrap();
        file.sync_all().unwrap();
        file.rewind().unwrap();
        Self(file)
    }

    /// How long a sync of the next piece took.
    pub(crate) fn synced(&mut self) -> Duration {
        if self.0.stream_position().unwrap() >= Self::BYTES as u64 {
            self.0.rewind().unwrap();
        }
        self.0.write_all(&vec![7; Self::PIECE]).unwrap();
        let started = Instant::now();
        self.0.sync_data().unwrap();
        started.elapsed()
    }
}

pub(crate) fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

pub(crate) fn rate(count: usize, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64()
}
