//! One process owns a state directory: an advisory lock on a file in it, and beside it a file that says who holds the lock and
//! where it listens.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::StoreError;
use super::ballast::is_full;

/// The lock file in the state directory.
pub(super) const FILE_NAME: &str = "relay.lock";
/// How often, and after what pause, to try again. A command that asks whether a relay runs, or opens the store of a stopped
/// one, has the lock for a moment; so has a relay that is ending.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// Says who holds the lock.
const HOLDER_NAME: &str = "relay.json";

/// Held until dropped, and by the kernel until the process is gone: a crash never leaves it behind.
pub struct Lock {
    /// Open as long as the lock is held: closing it lets go.
    _file: File,
    path: PathBuf,
}

/// What is said of the lock's holder.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Holder {
    pub pid: u32,
    /// The admin listener's address, once it is bound: `127.0.0.1:8791` or `unix:/run/…`.
    pub admin: Option<String>,
    /// The webhook listeners' addresses.
    #[serde(default)]
    pub webhooks: Vec<String>,
}

impl Lock {
    /// Waits two seconds at most.
    pub(super) fn take(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE_NAME);
        let failed = |error: std::io::Error| StoreError::Open { path: path.clone(), cause: Arc::new(error) };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let mut tries = 1;
        let mut locked = file.try_lock();
        while matches!(locked, Err(TryLockError::WouldBlock)) && tries < TRIES {
            std::thread::sleep(PAUSE);
            locked = file.try_lock();
            tries += 1;
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = Self::holder(directory).map_or_else(
                    || "another process".to_owned(),
                    |holder| format!("process {} (halo-relay)", holder.pid),
                );
                return Err(StoreError::Locked { directory: directory.to_owned(), holder });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let lock = Self { _file: file, path: path.clone() };
        match lock.announce(&Holder { pid: std::process::id(), ..Holder::default() }) {
            // Who holds the lock is told in words; the lock itself takes no room.
            Err(error) if !is_full(&error) => Err(failed(error)),
            _ => Ok(lock),
        }
    }

    /// Tells other processes who holds the lock and where it listens. They may read at any moment, so the text is replaced
    /// as a whole; it has a file of its own, because the lock is on the other.
    pub fn announce(&self, holder: &Holder) -> std::io::Result<()> {
        let text = serde_json::to_string(holder)?;
        let target = self.path.with_file_name(HOLDER_NAME);
        let fresh = self.path.with_file_name(format!("{HOLDER_NAME}.new"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(fresh, target)
    }

    /// Who says to hold `directory`, if that can be read. Whether it is still held, only taking it can tell.
    pub fn holder(directory: &Path) -> Option<Holder> {
        let mut text = String::new();
        File::open(directory.join(HOLDER_NAME)).ok()?.take(64 * 1024).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Whether some process holds `directory` now.
    pub fn is_held(directory: &Path) -> bool {
        File::open(directory.join(FILE_NAME))
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}
