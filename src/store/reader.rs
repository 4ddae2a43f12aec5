//! The store for reading only: what people look at, beside a running relay or without one.
//!
//! Looking changes nothing: no boot is counted, nothing is taken up, the lock is not touched. Each look is one statement or one
//! short transaction, so that no reader keeps the relay from folding its log into the file.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::{FILE_NAME, Lock, StoreError, open_reader, schema};
use crate::model::Timestamp;

/// An open file that is only read.
pub struct Reader {
    pub(super) db: Connection,
    path: PathBuf,
    running_since: Option<Timestamp>,
}

impl Reader {
    /// Of the store in `directory`.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        if !path.exists() {
            return Err(StoreError::Absent(path));
        }
        let db = open_reader(&path)?;
        schema::check_reader(&db, &path)?;
        let opened = schema::meta(&db, schema::OPENED_AT)?.map(Timestamp::from_millis);
        let running_since = opened.filter(|_| Lock::is_held(directory));
        Ok(Self { db, path, running_since })
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When the relay that has the store opened it; `None` when none has it.
    pub fn running_since(&self) -> Option<Timestamp> {
        self.running_since
    }
}
