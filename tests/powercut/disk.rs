//! A disk that can lose power: replays a log, and says what may be found in the directory afterwards.
//!
//! What is modelled:
//!
//! - **Files.** A sync that has returned keeps all that was written to the file, and its length, as of the moment the sync
//!   was asked for. Every later write and change of length may be there or not.
//! - **The directory.** Names are durable only once the directory itself has been synced, which is all that POSIX promises;
//!   syncing a new file does not keep its name. Unsynced creations, removals and renames may be there or not, each for
//!   itself; a rename is never half there.
//! - **Sectors.** A sector of 512 bytes is written whole or not at all; of several unsynced versions any may be found. A
//!   sector that was synced is not harmed by a later write beside it (SQLite's "powersafe overwrite").
//! - **Growth.** Where a file has grown and its data has not arrived, there are zeros or junk; a file may also be longer
//!   than what has arrived of it.
//! - **Shared memory** (`-shm`) is lost.
//!
//! What is not: a disk that says "flushed" and lies, synced data that rots, and the state directory's own name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::log::Record;

/// The files of a directory: name and content.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

/// What becomes of the changes that no sync has covered when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// All are lost.
    All,
    /// None: as when the process is killed.
    Nothing,
    /// Those after some moment, over all files.
    Tail,
    /// Some, picked at random.
    Some,
    /// Some, and of writes some sectors.
    Torn,
}

impl Loss {
    pub(crate) const EACH: [Self; 5] = [Self::All, Self::Nothing, Self::Tail, Self::Some, Self::Torn];
}

const SECTOR: usize = 512;

/// Replays a log step by step.
pub(crate) struct Disk<'a> {
    log: &'a [Record],
    /// How many records have been replayed.
    position: usize,
    files: Vec<File>,
    /// The file that an inode number means at this position.
    inodes: HashMap<u64, usize>,
    /// As processes see it.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names that no sync has covered.
    renamings: Vec<Renaming>,
    /// Syncs under way: their number, file (or directory), and when they were asked for.
    syncs: HashMap<u64, (Option<usize>, usize)>,
}

#[derive(Default)]
struct File {
    durable: Vec<u8>,
    /// The positions of the writes and resizes that no sync has covered.
    unsynced: Vec<usize>,
}

/// One atomic change of the directory.
struct Renaming {
    position: usize,
    remove: Option<String>,
    put: Option<(String, usize)>,
}

impl<'a> Disk<'a> {
    /// `start` is what the disk durably holds when the log begins.
    pub(crate) fn new(start: &Image, log: &'a [Record]) -> Self {
        let names: BTreeMap<_, _> = start.keys().cloned().zip(0..).collect();
        let files = start.values().map(|content| File { durable: content.clone(), unsynced: Vec::new() }).collect();
        Self {
            log,
            position: 0,
            files,
            inodes: HashMap::new(),
            durable_names: names.clone(),
            names,
            renamings: Vec::new(),
            syncs: HashMap::new(),
        }
    }

    /// Replays all records before `position`.
    pub(crate) fn advance(&mut self, position: usize) {
        while self.position < position {
            self.replay(&self.log[self.position]);
            self.position += 1;
        }
    }

    fn replay(&mut self, record: &Record) {
        match record {
            Record::Opened { inode, name, made: true } => {
                self.files.push(File::default());
                let file = self.files.len() - 1;
                self.inodes.insert(*inode, file);
                self.rename(None, Some((name.clone(), file)));
            }
            Record::Opened { inode, name, made: false } => _ = self.inodes.insert(*inode, self.names[name]),
            Record::Written { inode, .. } | Record::Resized { inode, .. } => {
                self.files[self.inodes[inode]].unsynced.push(self.position);
            }
            Record::SyncAsked { inode, number } => {
                self.syncs.insert(*number, (inode.map(|inode| self.inodes[&inode]), self.position));
            }
            Record::SyncDone { number } => self.synced(*number),
            Record::Removed { name } => self.rename(Some(name.clone()), None),
            Record::Renamed { from, to } => self.rename(Some(from.clone()), Some((to.clone(), self.names[from]))),
            Record::Sent { .. } => {}
        }
    }

    fn rename(&mut self, remove: Option<String>, put: Option<(String, usize)>) {
        let renaming = Renaming { position: self.position, remove, put };
        renaming.apply(&mut self.names);
        self.renamings.push(renaming);
    }

    fn synced(&mut self, number: u64) {
        let (file, asked) = self.syncs.remove(&number).expect("a sync ends that never began");
        if let Some(file) = file {
            let File { durable, unsynced } = &mut self.files[file];
            let covered = unsynced.partition_point(|position| *position < asked);
            for position in unsynced.drain(..covered) {
                apply(&self.log[position], durable);
            }
        } else {
            let covered = self.renamings.partition_point(|renaming| renaming.position < asked);
            for renaming in self.renamings.drain(..covered) {
                renaming.apply(&mut self.durable_names);
            }
        }
    }

    /// Whether some of this file's content is not durable.
    pub(crate) fn is_unsynced(&self, name: &str) -> bool {
        self.names.get(name).is_some_and(|file| !self.files[*file].unsynced.is_empty())
    }

    /// What may be found if the power goes now.
    pub(crate) fn after_cut(&self, loss: Loss, random: &mut fastrand::Rng) -> Image {
        let unsynced = self.unsynced();
        let tail = unsynced.get(random.usize(0..=unsynced.len())).copied().unwrap_or(self.position);
        let seed = random.u64(..);
        let mut kept = |position: usize| match loss {
            Loss::All => false,
            Loss::Nothing => true,
            Loss::Tail => position < tail,
            Loss::Some | Loss::Torn => random.bool(),
        };
        let mut names = self.durable_names.clone();
        self.renamings.iter().filter(|renaming| kept(renaming.position)).for_each(|one| one.apply(&mut names));
        names.retain(|name, _| is_on_disk(name));
        let content = |(name, file): (String, usize)| {
            let file = &self.files[file];
            if loss == Loss::Torn {
                let content = self.torn(file, &mut fastrand::Rng::with_seed(seed ^ hash(&name)));
                return (name, content);
            }
            let mut content = file.durable.clone();
            for position in file.unsynced.iter().filter(|position| kept(**position)) {
                apply(&self.log[*position], &mut content);
            }
            (name, content)
        };
        names.into_iter().map(content).collect()
    }

    /// Of each sector any version since the last sync, independently of its neighbours.
    fn torn(&self, file: &File, random: &mut fastrand::Rng) -> Vec<u8> {
        let seed = random.u64(..);
        let count = file.unsynced.len();
        // Up to how many of the unsynced changes have reached a sector.
        let reached = |sector: usize| {
            let mut random = fastrand::Rng::with_seed(seed ^ hash(&sector.to_string()));
            match random.u8(0..3) {
                0 => 0,
                1 => count,
                _ => random.usize(0..=count),
            }
        };
        let mut content = file.durable.clone();
        let mut longest = content.len();
        for (nth, position) in file.unsynced.iter().enumerate() {
            let Record::Written { offset, data, .. } = &self.log[*position] else {
                if random.bool() {
                    apply(&self.log[*position], &mut content);
                }
                continue;
            };
            longest = longest.max(offset + data.len());
            let mut from = 0;
            while from < data.len() {
                let sector = (offset + from) / SECTOR;
                let to = data.len().min((sector + 1) * SECTOR - offset);
                if nth < reached(sector) {
                    write(&mut content, offset + from, &data[from..to]);
                }
                from = to;
            }
        }
        if random.u8(0..4) == 0 && longest > content.len() {
            content.resize(longest, 0);
        }
        if random.bool() {
            junk_in_holes(&mut content, file.durable.len(), random);
        }
        content
    }

    /// The positions of all changes that no sync has covered, in order.
    fn unsynced(&self) -> Vec<usize> {
        let files = self.durable_names.values().chain(self.names.values()).collect::<BTreeSet<_>>();
        let of_files = files.into_iter().flat_map(|file| self.files[*file].unsynced.iter().copied());
        let of_names = self.renamings.iter().map(|renaming| renaming.position);
        let mut positions: Vec<_> = of_files.chain(of_names).collect();
        positions.sort_unstable();
        positions
    }
}

impl Renaming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        if let Some(name) = &self.remove {
            names.remove(name);
        }
        if let Some((name, file)) = &self.put {
            names.insert(name.clone(), *file);
        }
    }
}

/// Whether a power cut leaves the file as the log tells it. What is in SQLite's `-shm` file is gone; the ballast is room that was
/// reserved without being written, and holds nothing.
pub(crate) fn is_on_disk(name: &str) -> bool {
    !name.ends_with("-shm") && name != "relay.ballast"
}

fn apply(record: &Record, content: &mut Vec<u8>) {
    match record {
        Record::Written { offset, data, .. } => write(content, *offset, data),
        Record::Resized { length, .. } => content.resize(*length, 0),
        _ => unreachable!("only writes and resizes change a file's content"),
    }
}

fn write(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(data);
}

/// Sectors that the file grew by and that are all zeros get what somebody else's file held.
fn junk_in_holes(content: &mut [u8], from: usize, random: &mut fastrand::Rng) {
    let start = from.next_multiple_of(SECTOR).min(content.len());
    for sector in content[start..].chunks_mut(SECTOR).filter(|sector| sector.iter().all(|byte| *byte == 0)) {
        random.fill(sector);
    }
}

/// FNV-1a: the same in every run, so that a seed means the same.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(inode: u64, name: &str) -> Record {
        Record::Opened { inode, name: name.to_owned(), made: true }
    }

    fn wrote(inode: u64, offset: usize, data: &str) -> Record {
        Record::Written { inode, offset, data: data.into() }
    }

    fn synced(inode: Option<u64>, number: u64) -> [Record; 2] {
        [Record::SyncAsked { inode, number }, Record::SyncDone { number }]
    }

    fn renamed(from: &str, to: &str) -> Record {
        Record::Renamed { from: from.to_owned(), to: to.to_owned() }
    }

    fn removed(name: &str) -> Record {
        Record::Removed { name: name.to_owned() }
    }

    fn resized(inode: u64, length: usize) -> Record {
        Record::Resized { inode, length }
    }

    /// As `name=content name=content`.
    fn shown(image: &Image) -> String {
        let shown = |(name, content): (&String, &Vec<u8>)| format!("{name}={}", String::from_utf8_lossy(content));
        image.iter().map(shown).collect::<Vec<_>>().join(" ")
    }

    /// All that is found in many cuts at the end of the log.
    fn found(start: &Image, log: &[Record], losses: &[Loss]) -> BTreeSet<String> {
        let mut disk = Disk::new(start, log);
        disk.advance(log.len());
        let images = (0..300).flat_map(|seed| losses.iter().map(move |loss| (seed, *loss)));
        images.map(|(seed, loss)| shown(&disk.after_cut(loss, &mut fastrand::Rng::with_seed(seed)))).collect()
    }

    /// What it is; what happens after the file `a`, which holds "old", was opened; what `All`, `Nothing`, `Tail` and `Some`
    /// may leave.
    type Case<'a> = (&'a str, Vec<Record>, &'a str, &'a str, &'a [&'a str], &'a [&'a str]);

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn what_may_be_on_the_disk() {
        let start = Image::from([("a".to_owned(), b"old".to_vec())]);
        let open = Record::Opened { inode: 1, name: "a".to_owned(), made: false };
        let cases: Vec<Case<'_>> = vec![
            ("nothing", vec![], "a=old", "a=old", &["a=old"], &["a=old"]),
            ("a write", vec![wrote(1, 0, "new")], "a=old", "a=new", &["a=old", "a=new"], &["a=old", "a=new"]),
            (
                "two writes",
                vec![wrote(1, 0, "n"), wrote(1, 2, "w")],
                "a=old",
                "a=nlw",
                &["a=old", "a=nld", "a=nlw"],
                &["a=old", "a=nld", "a=olw", "a=nlw"],
            ),
            (
                "a write, a sync, a write",
                [&[wrote(1, 0, "n")][..], &synced(Some(1), 1), &[wrote(1, 2, "w")]].concat(),
                "a=nld",
                "a=nlw",
                &["a=nld", "a=nlw"],
                &["a=nld", "a=nlw"],
            ),
            (
                "a write while the sync runs",
                vec![
                    wrote(1, 0, "n"),
                    Record::SyncAsked { inode: Some(1), number: 1 },
                    wrote(1, 2, "w"),
                    Record::SyncDone { number: 1 },
                ],
                "a=nld",
                "a=nlw",
                &["a=nld", "a=nlw"],
                &["a=nld", "a=nlw"],
            ),
            (
                "a sync that has not returned",
                vec![wrote(1, 0, "n"), Record::SyncAsked { inode: Some(1), number: 1 }],
                "a=old",
                "a=nld",
                &["a=old", "a=nld"],
                &["a=old", "a=nld"],
            ),
            (
                "a sync of another file",
                [&[made(2, "b"), wrote(1, 0, "n")][..], &synced(Some(2), 1)].concat(),
                "a=old",
                "a=nld b=",
                &["a=old", "a=old b=", "a=nld b="],
                &["a=old", "a=old b=", "a=nld", "a=nld b="],
            ),
            ("a truncation", vec![resized(1, 1)], "a=old", "a=o", &["a=old", "a=o"], &["a=old", "a=o"]),
            (
                "a truncation, then a write",
                vec![resized(1, 0), wrote(1, 0, "n")],
                "a=old",
                "a=n",
                &["a=old", "a=", "a=n"],
                &["a=old", "a=", "a=nld", "a=n"],
            ),
            (
                "a new file, itself synced: its name is not",
                [&[made(2, "b"), wrote(2, 0, "x")][..], &synced(Some(2), 1)].concat(),
                "a=old",
                "a=old b=x",
                &["a=old", "a=old b=x"],
                &["a=old", "a=old b=x"],
            ),
            (
                "a new file, the directory synced: its content is not",
                [&[made(2, "b"), wrote(2, 0, "x")][..], &synced(None, 1)].concat(),
                "a=old b=",
                "a=old b=x",
                &["a=old b=", "a=old b=x"],
                &["a=old b=", "a=old b=x"],
            ),
            ("a removal", vec![removed("a")], "a=old", "", &["a=old", ""], &["a=old", ""]),
            (
                "a removal and a sync of the directory",
                [&[removed("a")][..], &synced(None, 1)].concat(),
                "",
                "",
                &[""],
                &[""],
            ),
            (
                "a file removed and made anew",
                vec![removed("a"), made(2, "a"), wrote(2, 0, "x")],
                "a=old",
                "a=x",
                &["a=old", "", "a=", "a=x"],
                &["a=old", "", "a=", "a=x"],
            ),
            (
                "replaced by rename, the new one synced",
                [&[made(2, "b"), wrote(2, 0, "x")][..], &synced(Some(2), 1), &[renamed("b", "a")]].concat(),
                "a=old",
                "a=x",
                &["a=old", "a=old b=x", "a=x"],
                &["a=old", "a=old b=x", "a=x"],
            ),
            (
                "replaced by rename, nothing synced",
                vec![made(2, "b"), wrote(2, 0, "x"), renamed("b", "a")],
                "a=old",
                "a=x",
                &["a=old", "a=old b=", "a=old b=x", "a=x"],
                &["a=old", "a=old b=", "a=old b=x", "a=", "a=x"],
            ),
            ("shared memory", vec![made(2, "a-shm"), wrote(2, 0, "x")], "a=old", "a=old", &["a=old"], &["a=old"]),
        ];
        let set = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>();
        for (what, steps, all, nothing, tail, some) in cases {
            let log = [&[open.clone()][..], &steps].concat();
            assert_eq!(found(&start, &log, &[Loss::All]), set(&[all]), "{what}: all lost");
            assert_eq!(found(&start, &log, &[Loss::Nothing]), set(&[nothing]), "{what}: nothing lost");
            assert_eq!(found(&start, &log, &[Loss::Tail]), set(tail), "{what}: the tail lost");
            assert_eq!(found(&start, &log, &[Loss::Some]), set(some), "{what}: some lost");
        }
    }

    #[test]
    fn writes_are_torn_at_sectors_only() {
        let start = Image::from([("a".to_owned(), vec![b'.'; 3 * SECTOR])]);
        let open = Record::Opened { inode: 1, name: "a".to_owned(), made: false };
        // From the middle of the first sector to the middle of the third, twice.
        let log = [open, wrote(1, 256, &"1".repeat(2 * SECTOR)), wrote(1, 256, &"2".repeat(2 * SECTOR))];
        let mut disk = Disk::new(&start, &log);
        disk.advance(log.len());
        let mut found = BTreeSet::new();
        for seed in 0..2_000 {
            let image = disk.after_cut(Loss::Torn, &mut fastrand::Rng::with_seed(seed));
            let content = &image["a"];
            let parts =
                [&content[..256], &content[256..512], &content[512..1024], &content[1024..1280], &content[1280..]];
            for part in parts {
                assert!(part.iter().all(|byte| *byte == part[0]), "torn within a sector");
            }
            found.insert(parts.map(|part| part[0] as char).iter().collect::<String>());
        }
        // Each of the three sectors has three versions; what was not written stays.
        assert_eq!(found.len(), 27, "{found:?}");
        assert!(found.iter().all(|parts| parts.starts_with('.') && parts.ends_with('.')), "{found:?}");
    }

    #[test]
    fn where_a_file_has_grown_there_may_be_zeros_or_junk() {
        let log = [made(1, "a"), wrote(1, 0, "x"), Record::SyncAsked { inode: None, number: 1 }];
        let log = [&log[..], &[Record::SyncDone { number: 1 }, wrote(1, SECTOR, &"y".repeat(2 * SECTOR))]].concat();
        let mut disk = Disk::new(&Image::new(), &log);
        disk.advance(log.len());
        let (mut zeros, mut junk, mut lengths) = (0, 0, BTreeSet::new());
        for seed in 0..1_000 {
            let image = disk.after_cut(Loss::Torn, &mut fastrand::Rng::with_seed(seed));
            let content = &image["a"];
            lengths.insert(content.len());
            match content.get(SECTOR..2 * SECTOR) {
                Some(sector) if sector.iter().all(|byte| *byte == 0) => zeros += 1,
                Some(sector) if sector.iter().any(|byte| *byte != b'y') => junk += 1,
                _ => {}
            }
        }
        assert!(zeros > 0 && junk > 0, "{zeros} {junk}");
        assert_eq!(lengths, BTreeSet::from([0, 1, 2 * SECTOR, 3 * SECTOR]));
    }

    #[test]
    fn a_seed_means_the_same_again() {
        let log = [made(1, "a"), wrote(1, 0, &"x".repeat(9_000)), made(2, "b"), wrote(2, 0, "y"), renamed("b", "c")];
        let mut disk = Disk::new(&Image::new(), &log);
        disk.advance(log.len());
        for (seed, loss) in (0..50).flat_map(|seed| Loss::EACH.map(|loss| (seed, loss))) {
            let image = || disk.after_cut(loss, &mut fastrand::Rng::with_seed(seed));
            assert_eq!(image(), image());
        }
    }
}
