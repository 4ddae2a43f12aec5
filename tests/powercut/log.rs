//! The log that the preloaded shim writes (`shim.c` says how it looks): what a process did to the files of its state
//! directory, and when HTTP messages left it, in one order.

use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A file is at hand under this name; `made` by this very call.
    Opened {
        inode: u64,
        name: String,
        made: bool,
    },
    Written {
        inode: u64,
        offset: usize,
        data: Vec<u8>,
    },
    Resized {
        inode: u64,
        length: usize,
    },
    /// Of a file, or of the directory.
    SyncAsked {
        inode: Option<u64>,
        number: u64,
    },
    SyncDone {
        number: u64,
    },
    Removed {
        name: String,
    },
    Renamed {
        from: String,
        to: String,
    },
    /// The first bytes of an HTTP message, to the peer at this port.
    Sent {
        port: u16,
        head: String,
    },
}

pub(crate) fn read(path: &Path) -> Vec<Record> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut records = Vec::new();
    while !rest.is_empty() {
        records.push(record(&mut rest));
    }
    records
}

fn record(rest: &mut &[u8]) -> Record {
    let kind = u32::from_le_bytes(*take(rest));
    let length = u32::from_le_bytes(*take(rest)) as usize;
    let a = u64::from_le_bytes(*take(rest));
    let b = u64::from_le_bytes(*take(rest));
    let (data, after) = rest.split_at(length);
    *rest = after;
    let text = || String::from_utf8_lossy(data).into_owned();
    let size = |size: u64| usize::try_from(size).unwrap();
    match kind {
        1 => Record::Opened { inode: a, name: text(), made: b == 1 },
        2 => Record::Written { inode: a, offset: size(b), data: data.to_vec() },
        3 => Record::Resized { inode: a, length: size(b) },
        4 => Record::SyncAsked { inode: (a != 0).then_some(a), number: b },
        5 => Record::SyncDone { number: b },
        6 => Record::Removed { name: text() },
        7 => {
            let names = text();
            let (from, to) = names.split_once('\0').unwrap();
            Record::Renamed { from: from.to_owned(), to: to.to_owned() }
        }
        8 => Record::Sent { port: u16::try_from(a).unwrap(), head: text() },
        kind => panic!("the log has a record of the unknown kind {kind}"),
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> &'a [u8; N] {
    let (taken, after) = rest.split_first_chunk().expect("the log breaks off");
    *rest = after;
    taken
}
