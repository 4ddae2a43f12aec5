//! Room kept for the day when the disk is full: a file beside the store that holds nothing.
//!
//! Messages may be under way when a commit fails for want of room, and their answers must still be recorded, or they would
//! be sent again. Then the file is removed, and what it took up is used for that alone: [`Room::Low`]. Nothing new is taken
//! in or started until there is room to make the file anew.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// Whether there is room on the disk for more than the answers to what is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Enough,
    /// The disk is full. Answers are recorded, with room that was kept for them; nothing is taken in, nothing starts.
    Low,
}

/// In the state directory.
const FILE_NAME: &str = "relay.ballast";
/// Many times the answers that can be under way at once.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// A few hundred answers. A disk with less room than this is taken for full.
const BYTES_MIN: u64 = 1024 * 1024;
/// Of what is free, at most one part in so many.
const SHARE: u64 = 32;
/// Must be free beside the ballast before work goes on: a relay that stops and goes on every second helps nobody.
const SPARE: u64 = 1024 * 1024;

pub(super) struct Ballast {
    directory: PathBuf,
}

impl Ballast {
    /// Makes nothing yet.
    pub(super) fn in_directory(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Makes sure that it is there, or tells that there is no room for it.
    pub(super) fn take(&self) -> Room {
        let made = if self.is_there() { Ok(()) } else { self.make() };
        match made {
            Ok(()) => Room::Enough,
            Err(error) => {
                // Half of it helps nobody.
                self.release();
                if is_full(&error) {
                    return Room::Low;
                }
                // What is no want of room, waiting will not mend, and the store works without.
                tracing::warn!("no room can be kept for a full disk, in {}: {error}", self.path().display());
                Room::Enough
            }
        }
    }

    pub(super) fn release(&self) {
        // If it is not there, its room cannot be given back.
        let _ = std::fs::remove_file(self.path());
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE_NAME)
    }

    /// One that an earlier start made is as good, if it takes up what it says.
    fn is_there(&self) -> bool {
        std::fs::metadata(self.path())
            .is_ok_and(|found| found.len() >= BYTES_MIN && found.blocks() * 512 >= found.len())
    }

    fn make(&self) -> io::Result<()> {
        // If nobody can tell what is free, trying will.
        let bytes = free(&self.directory).map_or(Some(BYTES_MAX), size).ok_or(ErrorKind::StorageFull)?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(self.path())?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => fill(&mut file, bytes),
            done => done.map_err(io::Error::from),
        }
    }
}

/// How large it is where so much is free; `None` where that is too little. By what is free now: after a full disk that may be
/// less than at the start, and still enough.
fn size(free: u64) -> Option<u64> {
    let bytes = (free / SHARE).clamp(BYTES_MIN, BYTES_MAX);
    (free >= bytes + SPARE).then_some(bytes)
}

/// With noise: some file systems keep no room for what they can compress.
fn fill(file: &mut File, bytes: u64) -> io::Result<()> {
    let mut random = fastrand::Rng::with_seed(0);
    let mut noise = vec![0; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        random.fill(&mut noise);
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(noise.len());
        file.write_all(&noise[..part])?;
        left -= part as u64;
    }
    file.sync_data()
}

/// What this process may still write.
fn free(directory: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(directory)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_up_what_it_says_and_gives_it_back() {
        let directory = tempfile::tempdir().unwrap();
        let ballast = Ballast::in_directory(directory.path());
        for _ in 0..2 {
            assert_eq!(ballast.take(), Room::Enough);
            let found = std::fs::metadata(ballast.path()).unwrap();
            assert!((BYTES_MIN..=BYTES_MAX).contains(&found.len()), "{}", found.len());
            assert!(found.blocks() * 512 >= found.len(), "it is sparse: {} blocks", found.blocks());
        }
        ballast.release();
        assert!(!ballast.is_there());
    }

    #[test]
    fn one_that_takes_up_nothing_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let ballast = Ballast::in_directory(directory.path());
        File::create(ballast.path()).unwrap().set_len(BYTES_MIN).unwrap();
        assert!(!ballast.is_there());
        assert_eq!(ballast.take(), Room::Enough);
        assert!(ballast.is_there());
    }

    #[test]
    fn it_is_a_share_of_what_is_free() {
        const MIB: u64 = 1024 * 1024;
        let cases = [
            (0, None),
            (2 * MIB - 1, None),
            (2 * MIB, Some(MIB)),
            (320 * MIB, Some(10 * MIB)),
            (u64::MAX, Some(64 * MIB)),
        ];
        for (free, bytes) in cases {
            assert_eq!(size(free), bytes, "{free}");
        }
    }

    #[test]
    fn noise_fills_where_nothing_can_be_reserved() {
        let mut file = tempfile::tempfile().unwrap();
        fill(&mut file, 100_001).unwrap();
        let found = file.metadata().unwrap();
        assert_eq!(found.len(), 100_001);
        assert!(found.blocks() * 512 >= found.len());
    }
}
