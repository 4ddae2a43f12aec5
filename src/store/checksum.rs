//! Checksums of what never changes in a row: a disk that returns something else must not make a wrong message.
//!
//! CRC-32, which finds every burst of up to 32 bits; this is about rot, not about enemies.

use crc32fast::Hasher;

use crate::model::Timestamp;

/// Of an event's row.
pub(super) fn event(id: &str, key: &str, received: Timestamp, body: &str) -> i64 {
    of(&[id.as_bytes(), key.as_bytes(), &received.as_millis().to_le_bytes(), body.as_bytes()])
}

/// Of a delivery's row: whose it is, to whom, by which rule, how urgent, in which thread. `event` is 0 for a delivery of no
/// one event.
pub(super) fn delivery(
    kind: i64,
    event: i64,
    destination: i64,
    lane: i64,
    (rule, thread): (&str, Option<&str>),
) -> i64 {
    let numbers = [kind, event, destination, lane].map(i64::to_le_bytes);
    match thread {
        // As before there were threads.
        None => of(&[numbers.as_flattened(), rule.as_bytes()]),
        Some(thread) => of(&[numbers.as_flattened(), rule.as_bytes(), thread.as_bytes()]),
    }
}

/// Of a thread's row.
pub(super) fn thread(destination: i64, key: &str, handle: &str, started: Timestamp) -> i64 {
    let numbers = [destination, started.as_millis()].map(i64::to_le_bytes);
    of(&[numbers.as_flattened(), key.as_bytes(), handle.as_bytes()])
}

fn of(parts: &[&[u8]]) -> i64 {
    let mut hasher = Hasher::new();
    for part in parts {
        // The length keeps neighbours apart: "ab" "c" is not "a" "bc".
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    i64::from(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts() {
        let at = Timestamp::from_millis(7);
        let sums = [
            event("ab", "c", at, "{}"),
            event("a", "bc", at, "{}"),
            event("ab", "c", Timestamp::from_millis(8), "{}"),
            event("ab", "c", at, "{ }"),
            delivery(0, 1, 2, 3, ("all", None)),
            delivery(1, 1, 2, 3, ("all", None)),
            delivery(0, 2, 1, 3, ("all", None)),
            delivery(0, 1, 2, 4, ("all", None)),
            delivery(0, 1, 2, 3, ("al", None)),
            delivery(0, 1, 2, 3, ("al", Some("l"))),
            delivery(0, 1, 2, 3, ("al", Some(""))),
            thread(1, "a", "b", at),
            thread(1, "ab", "", at),
            thread(2, "a", "b", at),
        ];
        let distinct: std::collections::HashSet<_> = sums.into_iter().collect();
        assert_eq!(distinct.len(), sums.len());
        assert_eq!(event("ab", "c", at, "{}"), 0xa69c_6e20, "stored, so it must not change");
        assert_eq!(delivery(0, 1, 2, 3, ("all", None)), 0xef91_3f49, "stored, so it must not change");
    }
}
