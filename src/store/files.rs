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

fn identity(path: &Path) -> io::Result<Identity> {
    let found = std::fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}
