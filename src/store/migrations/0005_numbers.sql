-- The writer gives rows their numbers and remembers the last ones; AUTOINCREMENT took a page and two searches of each commit.

INSERT INTO meta SELECT 'last_' || name, seq FROM sqlite_sequence WHERE name IN ('event', 'delivery')
    ON CONFLICT (name) DO UPDATE SET value = excluded.value;
DELETE FROM sqlite_sequence;

-- On disk the tables look the same with and without it, so nothing need be copied.
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'INTEGER PRIMARY KEY AUTOINCREMENT', 'INTEGER PRIMARY KEY')
    WHERE type = 'table' AND name IN ('event', 'delivery');
PRAGMA writable_schema = RESET;
