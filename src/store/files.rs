//! Whether the files are still those that were opened. SQLite writes on into a file that has been deleted, and says that all
//! is well; what it is given is gone at the next start.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::StoreError;

/// Files by name, with the identity they had when they were opened.
pub(super) struct Files(Vec<(PathBuf, Identity)>);

/// Device and inode.
type Identity = (u64, u64);

impl Files {
    pub(super) fn of(paths: impl IntoIterator<Item = PathBuf>) -> io::Result<Self> {
        let files = paths.into_iter().map(|path| identity(&path).map(|identity| (path, identity)));
        Ok(Self(files.collect::<io::Result<_>>()?))
    }

    /// Some microseconds, so it can be asked at every commit.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let replaced = self.0.iter().find(|(path, opened)| match identity(path) {
            Ok(found) => found != *opened,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        });
        replaced.map_or(Ok(()), |(path, _)| Err(StoreError::Replaced(path.clone())))
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

fn identity(path: &Path) -> io::Result<Identity> {
    let found = std::fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
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
