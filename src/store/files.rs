//! Whether the files are still those that were opened. SQLite writes on into a file that has been deleted, and says that all
//! is well; what it is given is gone at the next start.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, makedev, open, statat, statx};
use rustix::io::Errno;

use super::StoreError;

/// Files of one directory, with the identity they had when they were opened.
pub(super) struct Files {
    directory: OwnedFd,
    path: PathBuf,
    opened: Identity,
    names: Vec<(String, Identity)>,
    /// When the directory was last looked for by its path.
    sought: Cell<Instant>,
}

/// How often the directory is looked for. One that has been put elsewhere took along what was committed since, so that is
/// late to be noticed, but not lost.
const SEEK_EVERY: Duration = Duration::from_secs(1);

/// Device and inode.
type Identity = (u64, u64);

impl Files {
    pub(super) fn of(directory: &Path, names: impl IntoIterator<Item = String>) -> io::Result<Self> {
        let path = directory.to_owned();
        let directory = open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let opened = identity(&directory, Path::new(""), AtFlags::EMPTY_PATH)?;
        let names = names.into_iter().map(|name| {
            let found = identity(&directory, name.as_ref(), AtFlags::empty())?;
            Ok((name, found))
        });
        let names = names.collect::<io::Result<_>>()?;
        Ok(Self { directory, path, opened, names, sought: Cell::new(Instant::now()) })
    }

    /// Some microseconds, so it can be asked at every commit.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let replaced = self
            .names
            .iter()
            .find(|(name, opened)| is_another(identity(&self.directory, name.as_ref(), AtFlags::empty()), *opened));
        if let Some((name, _)) = replaced {
            return Err(StoreError::Replaced(self.path.join(name)));
        }
        if self.sought.get().elapsed() >= SEEK_EVERY {
            self.sought.set(Instant::now());
            if is_another(identity(CWD, &self.path, AtFlags::empty()), self.opened) {
                return Err(StoreError::Replaced(self.path.clone()));
            }
        }
        Ok(())
    }
}

/// What cannot be looked at for another reason than that it is gone is taken for what it was.
fn is_another(found: Result<Identity, Errno>, opened: Identity) -> bool {
    found.map_or_else(|error| matches!(error, Errno::NOENT | Errno::NOTDIR), |found| found != opened)
}

/// Asks for nothing but the number. Who asks for a file's times makes Linux note the next write to the nanosecond and no
/// longer to its tick of a few milliseconds: <https://docs.kernel.org/filesystems/multigrain-ts.html>. Each commit would
/// then change the inode of the log, and file systems without a journal write that out with each sync.
fn identity(directory: impl AsFd, path: &Path, flags: AtFlags) -> Result<Identity, Errno> {
    match statx(&directory, path, flags, StatxFlags::INO) {
        Ok(found) => Ok((makedev(found.stx_dev_major, found.stx_dev_minor), found.stx_ino)),
        // Kernels before 4.11, and some sandboxes.
        Err(Errno::NOSYS) => statat(&directory, path, flags).map(|found| (found.st_dev, found.st_ino)),
        Err(error) => Err(error),
    }
}

/// Whose locks or flushes may be less than they seem, by the magic number of the file system. Those in user space may be
/// on a disk as well, or below a container's root; they pass, as does what is not known.
const NETWORK: [(u32, &str); 7] = [
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb"),
    (0x517b, "smb"),
    (0x5346_414f, "afs"),
    (0x00c3_6400, "ceph"),
    (0x0bd0_0bd0, "lustre"),
];

/// SQLite's log needs memory that all who have the file open share: <https://sqlite.org/wal.html>.
pub(super) fn refuse_network(directory: &Path) -> Result<(), StoreError> {
    // A file system that does not say what it is passes; if it is unfit, opening the store will find out.
    let kind = rustix::fs::statfs(directory).ok().and_then(|found| network(found.f_type.cast_unsigned()));
    kind.map_or(Ok(()), |kind| Err(StoreError::Network { directory: directory.to_owned(), kind }))
}

/// The number is signed, of the machine's word, in the kernel's answer; only its lower half means something.
fn network(magic: u64) -> Option<&'static str> {
    let magic = u32::try_from(magic & u64::from(u32::MAX)).ok()?;
    NETWORK.iter().find(|(known, _)| *known == magic).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_file_systems_are_known_and_others_pass() {
        for (magic, kind) in [(0x6969, Some("nfs")), (0xffff_ffff_ff53_4d42, Some("cifs")), (0xfe53_4d42, Some("smb"))]
        {
            assert_eq!(network(magic), kind, "{magic:x}");
        }
        // ext4, xfs, btrfs, tmpfs, overlayfs, fuse, and one that nobody knows.
        for magic in [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0x6573_5546, 7] {
            assert_eq!(network(magic), None, "{magic:x}");
        }
        refuse_network(&std::env::temp_dir()).unwrap();
    }
}
